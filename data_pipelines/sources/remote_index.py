"""Tars and Parquet that lie elsewhere: their index lies beside them, and a file of it is fetched with its tar.

A run never makes this index, for that reads every file once: `qwenvl data index ADDRESS` does, or `qwenvl data index`
on a folder of this machine before it is copied there with its `.index`.
"""

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from data_pipelines.sources.index import (
    FILES_PER_SUMMARY,
    INDEX_FOLDER,
    SUMMARY,
    Format,
    IndexedFile,
    index_file,
    parse_summary,
    save_summary,
)
from data_pipelines.sources.indexed import IndexedSource, fingerprint_of
from data_pipelines.sources.parquet import ParquetPictures
from data_pipelines.sources.paths import index_name
from data_pipelines.sources.remote import RemoteFolder, RemoteShards
from data_pipelines.sources.webdataset import WebDataset

FORMATS: Mapping[str, type[Format]] = {".tar": WebDataset, ".parquet": ParquetPictures}
"""Ends of files that are indexed elsewhere. Parquet that lies beside tars belongs to them."""
METADATA = ".parquet"


def _index(folder: RemoteFolder) -> str:
    return f"{INDEX_FOLDER}/{index_name(folder.name)}"


def open_remote_index(folder: RemoteFolder) -> IndexedSource:
    """The source of a folder that has an index.

    Raises:
      FileNotFoundError: it has none.
      FetchError: the index cannot be had.
      ValueError: it is damaged, of another version, or has no usable entry.
    """
    try:
        indexed = [*parse_summary(folder.read(f"{_index(folder)}/{SUMMARY}")).values()]
        if outside := [file.file for file in indexed if ".." in file.file.split("/")]:
            raise ValueError(f"it names {outside[0]}")
        format = FORMATS[Path(indexed[0].file).suffix]()
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"the index of {folder.address} is damaged or of another version: qwenvl data index {folder.address}"
        ) from error
    files = replace(folder, version=fingerprint_of(indexed))
    indexes = replace(files, address=folder.where(_index(folder)))
    shards = RemoteShards(files, tuple((file.file, file.size) for file in indexed))
    return IndexedSource(folder.name, format, indexed, files, indexes, folder.kept, shards)


def make_remote_index(folder: RemoteFolder) -> None:
    """Makes the index of a folder elsewhere, beside its files; only those that changed are fetched.

    Raises:
      ValueError: the folder cannot be listed, or holds neither tars nor Parquet.
      FetchError: it cannot be read or written.
    """
    listed = folder.listed()
    suffix = next((end for end in FORMATS if any(name.endswith(end) for name in listed)), None)
    if suffix is None:
        raise ValueError(f"{folder.address} holds no {' and no '.join(FORMATS)}: there is nothing to index")
    names = [name for name in listed if name.endswith(suffix)]
    here = folder.kept / INDEX_FOLDER
    here.mkdir(parents=True, exist_ok=True)
    known = _known(folder)
    stale = [name for name in names if name not in known or (known[name].size, known[name].time) != listed[name]]
    for count, name in enumerate(stale, start=1):
        found = _index_file(folder, name, FORMATS[suffix](), here, METADATA if suffix != METADATA else None, listed)
        size, time = listed[name]
        problems = tuple(replace(problem, file=folder.where(name)) for problem in found.problems)
        known[name] = replace(found, size=size, time=time, problems=problems)
        written = here / index_name(name)
        folder.write(f"{_index(folder)}/{written.name}", written.read_bytes())
        written.unlink()
        if count % FILES_PER_SUMMARY == 0:
            _write_summary(folder, here, known)
    if stale or set(known) - set(names):
        _write_summary(folder, here, {name: known[name] for name in names})


def _known(folder: RemoteFolder) -> dict[str, IndexedFile]:
    try:
        return parse_summary(folder.read(f"{_index(folder)}/{SUMMARY}"))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _write_summary(folder: RemoteFolder, here: Path, known: dict[str, IndexedFile]) -> None:
    save_summary(here, known)
    folder.write(f"{_index(folder)}/{SUMMARY}", (here / SUMMARY).read_bytes())


def _index_file(
    folder: RemoteFolder,
    name: str,
    format: Format,
    here: Path,
    beside: str | None,
    listed: Mapping[str, tuple[int, int]],
) -> IndexedFile:
    """Indexes a file that is fetched for it, with the one beside it, under the names that they have there."""
    with ExitStack() as held, tempfile.TemporaryDirectory(prefix="qwenvl-index-") as work:
        for file in (name, str(Path(name).with_suffix(beside)) if beside else name):
            link = Path(work) / file
            if file in listed and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                os.symlink(held.enter_context(folder.local(file, listed[file][0])).absolute(), link)
        return index_file(format, Path(work), here, name)
