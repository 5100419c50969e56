"""Where the files of a source lie: on this machine, or elsewhere (`data_pipelines.sources.remote`)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Folder(Protocol):
    """A folder whose files are read whole, or as files of this machine. Picklable."""

    @property
    def name(self) -> str:
        """Its last part, for reports."""

    def where(self, file: str) -> str:
        """How a file of it is called in messages."""

    def read(self, file: str) -> bytes:
        """All of a small file. Raises OSError."""

    def local(self, file: str, size: int | None = None) -> AbstractContextManager[Path]:
        """A file on this machine, for as long as the context lasts; `size` in bytes where it is known. Raises OSError."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def where(self, file: str) -> str:
        """See `Folder`."""
        return str(self.path / file)

    def read(self, file: str) -> bytes:
        """See `Folder`."""
        return (self.path / file).read_bytes()

    @contextmanager
    def local(self, file: str, size: int | None = None) -> Iterator[Path]:
        """See `Folder`."""
        yield self.path / file
