"""Records in ArrayRecord shards: a folder with shards, `manifest.json` (shard -> records) and `sizes.npz`.

`group_size:1,uncompressed`: random access needs one record per chunk, and compression gains nothing on JPEG
while it costs six times the writing time. 8,192 records per shard: a single read costs in proportion to the
shard's records (113,000 reads/s at 5,000 records, 395 at a million). `sizes.npz` holds what planning needs,
so that it opens no shard.
"""

import hashlib
import io
import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_module

from data_pipelines.records import Record, pack_record, unpack_record
from data_pipelines.sources.folder import Folder, LocalFolder
from data_pipelines.sources.remote import FetchError, RemoteFolder, RemoteShards
from data_pipelines.sources.source import LostShard, Problem, RecordError, sentence
from qwenvl_jax.json_text import read_json

MANIFEST = "manifest.json"
SIZES = "sizes.npz"
SCHEMA = 1
"""Version of `data_pipelines.records.Record` as it lies on disk."""
RECORDS_PER_SHARD = 8192
OPEN_SHARDS = 64
"""Shards that one source keeps open: an open one costs a file descriptor and 8 bytes per record."""


class Sizes(NamedTuple):
    """Sizes of all pictures of a source. N records with K pictures together.

    Attributes:
      images: [N] int32, pictures of each record.
      widths: [K] int32, pixels, in the order of the records.
      heights: [K] int32, pixels.
    """

    images: np.ndarray
    widths: np.ndarray
    heights: np.ndarray


class WrittenShard(NamedTuple):
    """A shard on disk: its name, records, SHA-256 over them, pictures of each record, and the pictures' sides."""

    file: str
    records: int
    sha256: str
    images: list[int]
    sides: list[tuple[int, int]]


def shard_name(number: int) -> str:
    """File name of a source's shard."""
    return f"shard-{number:05d}.array_record"


def write_shard(path: Path, records: Iterable[Record]) -> WrittenShard:
    """Writes one shard."""
    digest = hashlib.sha256()
    images: list[int] = []
    sides: list[tuple[int, int]] = []
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        data = pack_record(record)
        digest.update(data)
        writer.write(data)
        images.append(len(record.images))
        sides += [(image.width, image.height) for image in record.images]
    writer.close()
    return WrittenShard(path.name, len(images), digest.hexdigest(), images, sides)


def finish_folder(partial: Path, folder: Path, shards: Sequence[WrittenShard]) -> None:
    """Writes sizes and manifest beside the shards in `partial`, which becomes `folder`.

    Raises:
      ValueError: there are no shards.
    """
    if not shards:
        raise ValueError(f"{folder}: there are no records to write")
    sides = np.asarray([side for shard in shards for side in shard.sides], np.int32).reshape(-1, 2)
    images = np.asarray([count for shard in shards for count in shard.images], np.int32)
    np.savez(partial / SIZES, images=images, widths=sides[:, 0], heights=sides[:, 1])
    listed = [{"file": shard.file, "records": shard.records, "sha256": shard.sha256} for shard in shards]
    (partial / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "shards": listed}, indent=1))
    partial.rename(folder)


def write_shards(folder: Path, records: Iterable[Record], records_per_shard: int = RECORDS_PER_SHARD) -> None:
    """Writes records as shards into a new folder, which appears only when it is complete.

    Raises:
      FileExistsError: the folder exists already.
      ValueError: there are no records.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already: remove it first, or choose another name")
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for leftover in partial.iterdir():
        leftover.unlink()
    shards: list[WrittenShard] = []
    remaining = iter(records)
    for first in remaining:
        path = partial / shard_name(len(shards))
        shards.append(write_shard(path, chain([first], islice(remaining, records_per_shard - 1))))
    finish_folder(partial, folder, shards)


class ArrayRecordSource:
    """The records of a folder made by `write_shards`. Opens a shard when a record of it is first read.

    Attributes:
      remote: the shards, where the folder lies elsewhere; then each is fetched when a record of it is read.
    """

    problems: tuple[Problem, ...] = ()

    def __init__(self, folder: Path | RemoteFolder) -> None:
        """Reads the manifest and looks that the shards of a local folder exist; opens none.

        Raises:
          ValueError: no manifest, a wrong one, or missing shards.
          OSError: the manifest of a folder elsewhere is not there, or cannot be fetched.
        """
        self._folder: Folder = folder if isinstance(folder, RemoteFolder) else LocalFolder(folder)
        self.name = self._folder.name
        path = self._folder.where(MANIFEST)
        try:
            manifest = self._folder.read(MANIFEST)
            content = read_json(manifest)
            self._files = [str(shard["file"]) for shard in content["shards"]]
            counts = [int(shard["records"]) for shard in content["shards"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(folder, RemoteFolder) and isinstance(error, OSError):
                raise  # not there, or not to be had now: not damaged
            raise ValueError(f"{path} cannot be read ({error}): make the shards again") from error
        if content.get("schema") != SCHEMA:
            raise ValueError(f"{path} has schema {content.get('schema')}, known is {SCHEMA}: make the shards again")
        self.shard_ends = list(accumulate(counts))
        self.fingerprint = hashlib.sha256(manifest).hexdigest()[:16]
        self.remote: RemoteShards | None = None
        if isinstance(folder, RemoteFolder):
            if outside := [file for file in self._files if "/" in file]:
                raise ValueError(f"{path} names {outside[0]}, which is no file of its folder: make the shards again")
            self._folder = replace(folder, version=self.fingerprint)
            self.remote = RemoteShards(self._folder, tuple((file, None) for file in self._files))
            self.cache_folder = str(folder.kept)
        else:
            present = {entry.name for entry in folder.iterdir()}
            if missing := [file for file in self._files if file not in present]:
                raise ValueError(f"{folder} lacks {len(missing)} of its shards, first {missing[0]}: copy it again")
            self.cache_folder = str(folder)
        self._start_reading()

    def _start_reading(self) -> None:
        self._readers: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_readers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_reading()

    def __len__(self) -> int:
        return self.shard_ends[-1] if self.shard_ends else 0

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Record:
        """Record number `index`.

        Raises:
          IndexError: there is no such number.
          RecordError: the bytes on disk are damaged, or cannot be fetched.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self._folder.where('')} has {len(self)} records, asked for number {index}")
        shard = bisect_right(self.shard_ends, index)
        local = index - (self.shard_ends[shard - 1] if shard else 0)
        try:
            with self._folder.local(self._files[shard]) as path:
                data = self._reader(shard, path).read([local])[0]
            return unpack_record(data)
        except (ValueError, RuntimeError, IndexError, OSError) as error:
            kind = LostShard if isinstance(error, (FetchError, FileNotFoundError)) else RecordError
            raise kind(self._folder.where(self._files[shard]), local, sentence(error)) from error

    def outline(self, index: int) -> Record:
        """The whole record: a shard holds texts and pictures together, so leaving the pictures out saves nothing."""
        return self[index]

    def _reader(self, shard: int, path: Path) -> Any:
        with self._lock:
            reader = self._readers.pop(shard, None)
            if reader is None:
                self._close_removed()
                reader = array_record_module.ArrayRecordReader(
                    str(path),
                    options="readahead_buffer_size:0,max_parallelism:0",
                    file_reader_buffer_size=32768,
                )
            self._readers[shard] = reader
            if len(self._readers) > OPEN_SHARDS:
                # Not closed here: another thread may be reading from it; it closes with its last reference.
                self._readers.popitem(last=False)
        return reader

    def _close_removed(self) -> None:
        """A shard that the cache has removed keeps its room on the disk as long as it is open."""
        if self.remote is not None:
            cached = self.remote.folder.is_cached
            self._readers = OrderedDict((n, reader) for n, reader in self._readers.items() if cached(self._files[n]))

    def sizes(self) -> Sizes:
        """Sizes of all pictures, from the sidecar."""
        with np.load(io.BytesIO(self._folder.read(SIZES))) as stored:
            return Sizes(stored["images"], stored["widths"], stored["heights"])
