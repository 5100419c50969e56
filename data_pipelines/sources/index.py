"""Sources that are read in place: an index, made once, says what each record is and where its pictures lie.

The index of a file (a tar, a Parquet file, annotations) holds the outlines of its records: all but the bytes of
their pictures. So lengths are measured without reading a picture, and a record costs one read per picture. It lies
in `.index/NAME/` beside the files: `files.json` (file -> size, time, records, problems) and, for each file, its
outlines behind a table of offsets, which is mapped into memory and never loaded whole.
"""

import hashlib
import json
import logging
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import msgpack
import numpy as np

from data_pipelines.records import Record, pack_record, unpack_record
from data_pipelines.sources.paths import index_name
from data_pipelines.sources.source import Problem, RecordError, sentence
from qwenvl_jax.json_text import read_json
from qwenvl_jax.processing.images import image_size

logger = logging.getLogger(__name__)

INDEX_VERSION = 1
"""Counts up when the same files begin to mean other outlines."""
INDEX_FOLDER = ".index"
SUMMARY = "files.json"
FILES_PER_SUMMARY = 64
"""Indexed files after which the summary is written: what is lost when indexing is stopped."""

Place = tuple[int | str, ...]
"""Where a picture lies in or beside a file; only its format knows how to read it."""


class Entry(NamedTuple):
    """A usable entry of a file: its number there, the record without the bytes of its pictures, and their places."""

    number: int
    outline: Record
    places: tuple[Place, ...] = ()


class Format(Protocol):
    """What a format on disk must do; picklable, without state that a copy could not make again."""

    def scan(self, file: Path) -> Iterator[Entry | Problem]:
        """Every entry of a file, usable or not. Raises ValueError or OSError where the whole file is unusable."""

    def read(self, file: Path, place: Place) -> bytes:
        """The bytes of a picture. Raises ValueError or OSError."""


@dataclass(frozen=True)
class IndexedFile:
    """What the summary says of a file. `sha256` is that of its index, so it does not change when files are copied."""

    file: str
    size: int
    time: int
    records: int
    sha256: str
    problems: tuple[Problem, ...]


def write_index(target: Path, entries: Iterable[Entry | Problem]) -> tuple[int, str, tuple[Problem, ...]]:
    """Writes the index of one file; gives its records, its SHA-256 and the entries that cannot be used.

    Layout: number of records (uint64), their end offsets (uint64 each), then the records behind each other.
    """
    problems: list[Problem] = []
    ends, blobs, position = [], [], 0
    for entry in entries:
        if isinstance(entry, Problem):
            problems.append(entry)
            continue
        blob = msgpack.packb((entry.number, pack_record(entry.outline), entry.places))
        position += len(blob)
        ends.append(position)
        blobs.append(blob)
    digest = hashlib.sha256()
    partial_file = target.with_name(f".{target.name}.{os.getpid()}")
    with partial_file.open("wb") as file:
        for part in (np.asarray([len(ends), *ends], "<u8").tobytes(), *blobs):
            digest.update(part)
            file.write(part)
    partial_file.replace(target)
    return len(ends), digest.hexdigest(), tuple(problems)


class MappedIndex:
    """The index of one file, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError or OSError where it cannot be read."""
        with path.open("rb") as opened:
            self._data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        count = int(np.frombuffer(self._data, "<u8", 1)[0])
        self._ends = np.frombuffer(self._data, "<u8", count, offset=8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> Entry:
        """Raises ValueError where the bytes are damaged."""
        base = 8 * (len(self._ends) + 1)
        start = base + (int(self._ends[position - 1]) if position else 0)
        data = self._data[start : base + int(self._ends[position])]
        number, packed, places = msgpack.unpackb(data, use_list=False)
        return Entry(number, unpack_record(packed), places)


def read_pictures(format: Format, file: Path, entry: Entry, where: str = "") -> Record:
    """The entry's record with its pictures.

    Args:
      where: the file's name for messages, if it is a copy of another one.

    Raises:
      RecordError: a picture cannot be read, or is not the one that was indexed.
    """
    images, where = [], where or str(file)
    for image, place in zip(entry.outline.images, entry.places):
        try:
            data = format.read(file, place)
            size = image_size(data)
        except (OSError, ValueError) as error:
            raise RecordError(where, entry.number, f"picture: {sentence(error)}") from error
        if size != (image.width, image.height):
            reason = f"picture is {size[0]}x{size[1]} pixels, its index says {image.width}x{image.height}"
            raise RecordError(where, entry.number, reason)
        images.append(replace(image, data=data))
    return replace(entry.outline, images=tuple(images))


def index_file(format: Format, folder: Path, index_folder: Path, name: str) -> IndexedFile:
    """Indexes one file. A file that cannot be scanned at all is one problem, with its reason."""
    path = folder / name
    size = time = 0

    def entries() -> Iterator[Entry | Problem]:
        number = 0
        try:
            for entry in format.scan(path):
                number += 1
                yield entry
        except (OSError, ValueError) as error:
            yield Problem(str(path), number, sentence(error))

    try:
        size, time = _status(path)
    except OSError as error:
        logger.warning("%s cannot be read: %s", path, error.strerror)
    return IndexedFile(name, size, time, *write_index(index_folder / index_name(name), entries()))


def build_index(
    folder: Path,
    files: Sequence[str],
    format: Format,
    index_folder: Path,
    each: Callable[[Callable, Sequence[str]], Iterable[IndexedFile]] = map,
) -> list[IndexedFile]:
    """The indexes of all files, in order; only files that changed (size, time) are scanned.

    Args:
      folder: where the files lie.
      files: their names below it.
      each: as `map`, which may work in several processes.

    Raises:
      OSError: the index cannot be written.
    """
    index_folder.mkdir(parents=True, exist_ok=True)
    known = load_summary(index_folder)
    stale = [name for name in files if not _is_current(known.get(name), folder / name, index_folder)]
    for count, found in enumerate(each(partial(index_file, format, folder, index_folder), stale), start=1):
        known[found.file] = found
        if count % FILES_PER_SUMMARY == 0:
            save_summary(index_folder, known)
    if stale or set(known) - set(files):
        known = {name: known[name] for name in files}
        save_summary(index_folder, known)
    return [known[name] for name in files]


def _is_current(known: IndexedFile | None, path: Path, index_folder: Path) -> bool:
    if known is None or not (index_folder / index_name(known.file)).is_file():
        return False
    try:
        return _status(path) == (known.size, known.time)
    except OSError:
        return False


def _status(path: Path) -> tuple[int, int]:
    """Bytes and newest time of a file, or of all files below a folder but hidden ones (the index itself)."""
    if not path.is_dir():
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    size = newest = 0
    for place, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            status = os.stat(os.path.join(place, name), follow_symlinks=False)
            size, newest = size + status.st_size, max(newest, status.st_mtime_ns)
    return size, newest


def load_summary(index_folder: Path) -> dict[str, IndexedFile]:
    """The files of an index by name; none where it is not there, or was cut off by a kill: then it is made again."""
    try:
        return parse_summary((index_folder / SUMMARY).read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def parse_summary(data: bytes) -> dict[str, IndexedFile]:
    """Raises ValueError, KeyError or TypeError where this is no summary; one of another version has no files."""
    content = read_json(data)
    if content["version"] != INDEX_VERSION:
        return {}
    return {
        file: IndexedFile(file, size, time, records, sha256, tuple(Problem(*problem) for problem in problems))
        for file, size, time, records, sha256, problems in content["files"]
    }


def save_summary(index_folder: Path, files: dict[str, IndexedFile]) -> None:
    """Writes the summary whole or not at all."""
    written = index_folder / f".{SUMMARY}.{os.getpid()}"
    rows = [astuple(file) for file in files.values()]
    written.write_text(json.dumps({"version": INDEX_VERSION, "files": rows}))
    written.replace(index_folder / SUMMARY)
