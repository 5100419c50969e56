"""What every source of records offers, whatever the format on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from data_pipelines.records import Record
from data_pipelines.sources.remote import RemoteShards


class RecordError(ValueError):
    """A record that cannot be read; the sentence names the file, the index in it and the reason."""

    def __init__(self, file: str, index: int, reason: str) -> None:
        super().__init__(f"{file}: record {index}: {reason}")
        self.file, self.index, self.reason = file, index, reason

    def __reduce__(self) -> tuple:
        return RecordError, (self.file, self.index, self.reason)


class LostShard(RecordError):
    """A record whose file cannot be fetched, so that those beside it cannot be read either."""

    def __reduce__(self) -> tuple:
        return LostShard, (self.file, self.index, self.reason)


@dataclass(frozen=True, order=True)
class Problem:
    """An entry that was left out of a source when it was opened."""

    file: str
    index: int
    reason: str


def sentence(error: BaseException) -> str:
    """The first line of what an error says, without the file's name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class RecordSource(Protocol):
    """Random access to records. Picklable: worker processes get a copy and open files by themselves."""

    @property
    def name(self) -> str:
        """Short name for reports."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when a record changes."""

    @property
    def cache_folder(self) -> str:
        """Folder in which what is computed from the records (lengths) is kept."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Entries that were left out, each with its reason."""

    @property
    def shard_ends(self) -> Sequence[int]:
        """Number of records up to and with each of its files, in order; the last is that of all records."""

    @property
    def remote(self) -> RemoteShards | None:
        """What is fetched before it is read, where it does not lie on this machine."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Record number `index`.

        Raises:
          RecordError: it cannot be read.
        """

    def outline(self, index: int) -> Record:
        """Record number `index` as lengths need it: the bytes of its pictures may be empty, their sizes are not.

        Raises:
          RecordError: it cannot be read.
        """
