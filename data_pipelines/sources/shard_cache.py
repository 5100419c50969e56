"""Files of remote sources in a local folder of bounded size: the least recently used one goes first.

Many processes and threads may share the folder. All they know of each other are the files and locks on them, which end
with their process:

- a file that is read is locked for shared use, so it is not removed meanwhile;
- a file that is fetched is written beside its place, under a name that starts with a dot, by whoever has locked that one;
  it gets its name when it is complete. What a killed process leaves behind is fetched anew, or removed;
- room is made under one more lock. A file's room is taken when its fetching begins, so the bound holds at any time.

The time of a file is that of its last use.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

FILES, LOCK = "files", ".lock"
POLL_SECONDS = 0.02
"""Between two looks at what another process or thread holds."""

Fetch = Callable[[], tuple[int, Iterator[bytes]]]
"""Begins to fetch a file: its number of bytes, and the bytes."""


class PermanentError(OSError):
    """What another attempt would not change."""


@dataclass(frozen=True)
class ShardCache:
    """Picklable.

    Attributes:
      folder: its files lie below `files/`; what else sources keep of remote folders lies beside it, and is not counted.
      limit: bytes of all files together, those that are being fetched included.
    """

    folder: Path
    limit: int

    def path(self, name: str) -> Path:
        """Where a file lies when it is there."""
        return self.folder / FILES / name

    def acquire(self, name: str, fetch: Fetch, ends: float) -> BinaryIO:
        """A file that is fetched where it is not there; it is not removed until it is closed.

        Args:
          name: of the file, with one folder at most.
          fetch: called where the file is not there and nobody else is fetching it.
          ends: time (`time.monotonic`) at which to give up.

        Raises:
          TimeoutError: somebody else is still fetching it, or all files are being read, at that time.
          PermanentError: it is larger than the cache.
          OSError: other bytes arrived than were announced, or they cannot be written; and what `fetch` raises.
        """
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        while (held := _held(path)) is None:
            self._fetch(path, fetch, ends)
        return held

    def _fetch(self, path: Path, fetch: Fetch, ends: float) -> None:
        """Fetches a file, or waits until somebody else is done with it."""
        partial = path.with_name(f".{path.name}")
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            while not _locked(file, fcntl.LOCK_EX):
                _wait(ends, "another process has not fetched it yet")
            if not _lies_at(file, partial):
                return  # it has got its name, or was removed, while this waited
            try:
                if path.exists():
                    return
                size, chunks = fetch()
                self._reserve(file, size, ends)
                arrived = 0
                for chunk in chunks:
                    arrived += len(chunk)
                    if arrived > size or time.monotonic() > ends:
                        break
                    file.write(chunk)
                if arrived != size:
                    raise OSError(0, f"{arrived} of {size} bytes arrived")
                file.flush()
                partial.rename(path)
            finally:
                partial.unlink(missing_ok=True)

    def _reserve(self, file: BinaryIO, size: int, ends: float) -> None:
        if size > self.limit:
            raise PermanentError(0, f"it has {size} bytes, and the cache {self.limit}: raise data.cache-bytes")
        while not self._make_room(file, size):
            _wait(ends, "all files of the cache are being read: raise data.cache-bytes")

    def _make_room(self, file: BinaryIO, size: int) -> bool:
        """Gives an empty file its size where that fits, after removing others."""
        with (self.folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = sorted(_files(self.folder / FILES))
            used = sum(length for _, length, _ in found)
            for _, length, path in found:
                if used + size <= self.limit:
                    break
                used -= length if _removed(path) else 0
            if used + size > self.limit:
                return False
            os.ftruncate(file.fileno(), size)
            return True


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Time, bytes and path of every file."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # it got its name, or was removed, since the folder was listed
            yield status.st_mtime_ns, status.st_size, path


def _held(path: Path) -> BinaryIO | None:
    """The file, locked for shared use and marked as used now; None where it is not there."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if not _lies_at(file, path):
        file.close()
        return None
    os.utime(file.fileno())
    return file


def _removed(path: Path) -> bool:
    """Removes a file that nobody reads or fetches."""
    try:
        with path.open("rb") as file:
            if not _locked(file, fcntl.LOCK_EX):
                return False
            path.unlink()
    except FileNotFoundError:
        return False
    return True


def _locked(file: BinaryIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lies_at(file: BinaryIO, path: Path) -> bool:
    """Whether the opened file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _wait(ends: float, why: str) -> None:
    if time.monotonic() > ends:
        raise TimeoutError(0, why)
    time.sleep(POLL_SECONDS)
