"""Sources that are read in place, through an index (`data_pipelines.sources.index`), here or elsewhere."""

import hashlib
import logging
import tempfile
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from data_pipelines.records import Record
from data_pipelines.sources.folder import Folder, LocalFolder
from data_pipelines.sources.index import (
    INDEX_FOLDER,
    INDEX_VERSION,
    Entry,
    Format,
    IndexedFile,
    MappedIndex,
    build_index,
    read_pictures,
)
from data_pipelines.sources.paths import index_name
from data_pipelines.sources.remote import FetchError, RemoteShards
from data_pipelines.sources.source import LostShard, Problem, RecordError, sentence

logger = logging.getLogger(__name__)

MAPPED_FILES = 64
"""Indexes that one source keeps mapped: each costs a file descriptor."""


def fingerprint_of(indexed: Sequence[IndexedFile]) -> str:
    """16 hexadecimal digits that change when an outline does."""
    return hashlib.sha256("\0".join([str(INDEX_VERSION), *(file.sha256 for file in indexed)]).encode()).hexdigest()[:16]


def open_indexed(folder: Path, files: Sequence[str], format: Format, name: str) -> "IndexedSource":
    """The source of files that lie on this machine; indexes what is not indexed yet.

    Args:
      folder: where the files lie.
      files: their names below it, in the order of the records.
      format: reads them.
      name: of the source; sources of one folder need different ones.

    Raises:
      ValueError: no entry can be used; the sentence counts the reasons.
    """
    index_folder = folder / INDEX_FOLDER / index_name(name)
    temporary = None
    try:
        indexed = build_index(folder, files, format, index_folder)
    except OSError as error:
        temporary = tempfile.TemporaryDirectory(prefix="qwenvl-index-")
        logger.warning(
            "the index of %s cannot be kept in %s (%s): it will be made again next time",
            folder, index_folder, error.strerror,
        )  # fmt: skip
        index_folder = Path(temporary.name)
        indexed = build_index(folder, files, format, index_folder)
    source = IndexedSource(name, format, indexed, LocalFolder(folder), LocalFolder(index_folder), index_folder)
    source.temporary = temporary
    return source


class IndexedSource:
    """The usable entries of files that are read in place. Opens an index when a record of its file is first read.

    Attributes:
      temporary: a folder that lives as long as the source.
    """

    def __init__(
        self,
        name: str,
        format: Format,
        indexed: Sequence[IndexedFile],
        files: Folder,
        indexes: Folder,
        kept: Path,
        remote: RemoteShards | None = None,
    ) -> None:
        """Use `open_indexed`, or `data_pipelines.sources.remote_index.open_remote_index`.

        Args:
          indexed: what is known of the files, in the order of the records.
          files: where they lie.
          indexes: where their indexes lie.
          kept: folder of this machine for what is computed from the records.
          remote: the files, where they do not lie on this machine.

        Raises:
          ValueError: no entry can be used; the sentence counts the reasons.
        """
        self.name, self.remote, self.cache_folder = name, remote, str(kept)
        self._format, self._files, self._indexes, self._indexed = format, files, indexes, list(indexed)
        self.problems = tuple(problem for file in indexed for problem in file.problems)
        self.shard_ends = list(accumulate(file.records for file in indexed))
        self.fingerprint = fingerprint_of(indexed)
        self._start_reading()
        if not len(self):
            raise ValueError(f"{files.where(name)}: {nothing_usable(self.problems)}")

    def _start_reading(self) -> None:
        self.temporary: tempfile.TemporaryDirectory | None = None
        self._mapped: OrderedDict[int, MappedIndex] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_mapped", "_lock", "temporary")}

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
        where = self._files.where(file.file)
        try:
            with self._files.local(file.file, file.size) as path:
                return read_pictures(self._format, path, entry, where)
        except (FetchError, FileNotFoundError) as error:
            raise LostShard(where, entry.number, sentence(error)) from error

    def _entry(self, index: int) -> tuple[IndexedFile, Entry]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self._files.where('')} has {len(self)} records, asked for number {index}")
        number = bisect_right(self.shard_ends, index)
        local = index - (self.shard_ends[number - 1] if number else 0)
        file = self._indexed[number]
        try:
            return file, self._map(number)[local]
        except (OSError, ValueError, IndexError, TypeError) as error:
            kind = LostShard if isinstance(error, FetchError) else RecordError
            raise kind(self._files.where(file.file), local, f"its index cannot be read ({sentence(error)})") from error

    def _map(self, number: int) -> MappedIndex:
        with self._lock:
            mapped = self._mapped.pop(number, None)
        if mapped is None:
            with self._indexes.local(index_name(self._indexed[number].file)) as path:
                mapped = MappedIndex(path)
        with self._lock:
            self._mapped[number] = mapped
            if len(self._mapped) > MAPPED_FILES:
                # Not closed here: another thread may be reading from it; it closes with its last reference.
                self._mapped.popitem(last=False)
        return mapped


def nothing_usable(problems: Sequence[Problem]) -> str:
    """Why a source has no record: how many entries there are, and the most frequent reasons."""
    reasons = Counter(problem.reason for problem in problems).most_common(3)
    why = "; ".join(f"{count} times: {reason}" for reason, count in reasons)
    return f"none of its {len(problems)} entries can be used" + (f" ({why})" if why else "")
