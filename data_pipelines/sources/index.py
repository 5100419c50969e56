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
import re
import tempfile
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgpack
import numpy as np

from data_pipelines.records import Record, pack_record, unpack_record
from data_pipelines.sources.source import Problem, RecordError
from qwenvl_jax.processing.images import image_size

logger = logging.getLogger(__name__)

INDEX_VERSION = 1
"""Counts up when the same files begin to mean other outlines."""
INDEX_FOLDER = ".index"
SUMMARY = "files.json"
FILES_PER_SUMMARY = 64
"""Indexed files after which the summary is written: what is lost when indexing is stopped."""
MAPPED_FILES = 64
"""Indexes that one source keeps mapped: each costs a file descriptor."""

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


def read_pictures(format: Format, file: Path, entry: Entry) -> Record:
    """The entry's record with its pictures.

    Raises:
      RecordError: a picture cannot be read, or is not the one that was indexed.
    """
    images = []
    for image, place in zip(entry.outline.images, entry.places):
        try:
            data = format.read(file, place)
            size = image_size(data)
        except (OSError, ValueError) as error:
            raise RecordError(str(file), entry.number, f"picture: {sentence(error)}") from error
        if size != (image.width, image.height):
            reason = f"picture is {size[0]}x{size[1]} pixels, its index says {image.width}x{image.height}"
            raise RecordError(str(file), entry.number, reason)
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


def sentence(error: BaseException) -> str:
    """The first line of what an error says, without the file's name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def index_name(name: str) -> str:
    """Name of a file's index. The digest keeps names apart that differ in letters which are replaced."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)[-80:]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


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
    known = _load_summary(index_folder)
    stale = [name for name in files if not _is_current(known.get(name), folder / name, index_folder)]
    for count, found in enumerate(each(partial(index_file, format, folder, index_folder), stale), start=1):
        known[found.file] = found
        if count % FILES_PER_SUMMARY == 0:
            _save_summary(index_folder, known)
    if stale or set(known) - set(files):
        known = {name: known[name] for name in files}
        _save_summary(index_folder, known)
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


def _load_summary(index_folder: Path) -> dict[str, IndexedFile]:
    try:
        content = json.loads((index_folder / SUMMARY).read_text())
        if content["version"] != INDEX_VERSION:
            return {}
        return {
            file: IndexedFile(file, size, time, records, sha256, tuple(Problem(*problem) for problem in problems))
            for file, size, time, records, sha256, problems in content["files"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # not there, or cut off by a kill: the index is made again


def _save_summary(index_folder: Path, files: dict[str, IndexedFile]) -> None:
    written = index_folder / f".{SUMMARY}.{os.getpid()}"
    rows = [astuple(file) for file in files.values()]
    written.write_text(json.dumps({"version": INDEX_VERSION, "files": rows}))
    written.replace(index_folder / SUMMARY)


class IndexedSource:
    """The usable entries of files that are read in place. Opens an index when a record of its file is first read."""

    def __init__(
        self,
        folder: Path,
        files: Sequence[str],
        format: Format,
        name: str,
        each: Callable[[Callable, Sequence[str]], Iterable[IndexedFile]] = map,
    ) -> None:
        """Indexes what is not indexed yet.

        Args:
          folder: where the files lie.
          files: their names below it, in the order of the records.
          format: reads them.
          name: of the source; sources of one folder need different ones.
          each: see `build_index`.

        Raises:
          ValueError: no entry can be used; the sentence counts the reasons.
        """
        self.name, self._folder, self._format = name, Path(folder), format
        index_folder = self._folder / INDEX_FOLDER / index_name(name)
        try:
            indexed = build_index(self._folder, files, format, index_folder, each)
        except OSError as error:
            self._temporary = tempfile.TemporaryDirectory(prefix="qwenvl-index-")
            logger.warning(
                "the index of %s cannot be kept in %s (%s): it will be made again next time",
                folder, index_folder, error.strerror,
            )  # fmt: skip
            index_folder = Path(self._temporary.name)
            indexed = build_index(self._folder, files, format, index_folder, each)
        self.cache_folder = str(index_folder)
        self.problems = tuple(problem for file in indexed for problem in file.problems)
        self._files = [file.file for file in indexed]
        self.shard_ends = list(accumulate(file.records for file in indexed))
        digest = hashlib.sha256("\0".join([str(INDEX_VERSION), *(file.sha256 for file in indexed)]).encode())
        self.fingerprint = digest.hexdigest()[:16]
        self._start_reading()
        if not len(self):
            raise ValueError(f"{self._folder / name}: {nothing_usable(self.problems)}")

    def _start_reading(self) -> None:
        self._mapped: OrderedDict[int, MappedIndex] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_mapped", "_lock", "_temporary")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_reading()

    def __len__(self) -> int:
        return self.shard_ends[-1] if self.shard_ends else 0

    def outline(self, index: int) -> Record:
        """Record number `index` from the index alone; see `RecordSource`."""
        return self._entry(index)[1].outline

    def __getitem__(self, index: int) -> Record:
        """Record number `index`.

        Raises:
          IndexError: there is no such number.
          RecordError: a picture cannot be read, or is not the one that was indexed.
        """
        file, entry = self._entry(index)
        return read_pictures(self._format, file, entry)

    def _entry(self, index: int) -> tuple[Path, Entry]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self._folder} has {len(self)} records, asked for number {index}")
        file = bisect_right(self.shard_ends, index)
        local = index - (self.shard_ends[file - 1] if file else 0)
        path = self._folder / self._files[file]
        try:
            return path, self._map(file)[local]
        except (OSError, ValueError, IndexError, TypeError) as error:
            raise RecordError(str(path), local, f"its index cannot be read ({sentence(error)})") from error

    def _map(self, file: int) -> MappedIndex:
        with self._lock:
            mapped = self._mapped.pop(file, None)
            if mapped is None:
                mapped = MappedIndex(Path(self.cache_folder) / index_name(self._files[file]))
            self._mapped[file] = mapped
            if len(self._mapped) > MAPPED_FILES:
                # Not closed here: another thread may be reading from it; it closes with its last reference.
                self._mapped.popitem(last=False)
        return mapped


def nothing_usable(problems: Sequence[Problem]) -> str:
    """Why a source has no record: how many entries there are, and the most frequent reasons."""
    reasons = Counter(problem.reason for problem in problems).most_common(3)
    why = "; ".join(f"{count} times: {reason}" for reason, count in reasons)
    return f"none of its {len(problems)} entries can be used" + (f" ({why})" if why else "")
