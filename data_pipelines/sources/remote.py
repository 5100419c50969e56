"""Folders elsewhere (`gs://`, `s3://`, `http(s)://`), read through fsspec: whole files, into a local cache.

A request that fails or hangs is tried again, and given up before a read counts as hung (`data_pipelines.reading`).
Credentials come from the machine (as gcsfs and s3fs find them), never from an address: addresses stand in a run's files.
"""

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from data_pipelines.sources.paths import index_name
from data_pipelines.sources.shard_cache import PermanentError, ShardCache
from data_pipelines.sources.transfer import (
    PACKAGES,
    UNLISTED,
    chunks_in_time,
    file_system,
    is_missing,
    read_chunks,
    reason,
)

ATTEMPTS = 3
PAUSE_SECONDS = 1.0
"""Before the second attempt; twice as long before the third."""
FETCH_SECONDS = 100.0
"""For all attempts together; less than `data_pipelines.reading.READ_SECONDS`."""
FAILED_SECONDS = 60.0
"""For which a file that could not be fetched is not tried again: its records would each wait for it."""
FETCHERS = 4
"""Threads that fetch files ahead."""

T = TypeVar("T")


class FetchError(OSError):
    """A file that cannot be had, or written: `strerror` says why, `filename` is its address."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def is_address(name: str) -> bool:
    """Whether a mixture's source lies elsewhere."""
    return "://" in name


def check_address(address: str) -> None:
    """Raises ValueError for an unknown protocol, or where the address holds what must not be written down."""
    parts = urlsplit(address)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"an address of {parts.scheme}:// with a user, a password or a query cannot be a source, because it stands in "
            "the run's files: give the credentials to the machine, and the plain address"
        )
    if parts.scheme not in PACKAGES:
        raise ValueError(f"{address}: the protocol is not one of {', '.join(f'{name}://' for name in PACKAGES)}")


@dataclass(frozen=True)
class RemoteFolder:
    """A folder elsewhere; see `data_pipelines.sources.folder.Folder`. Picklable.

    Attributes:
      address: without a slash at its end.
      cache: of this machine.
      version: of what lies there; files of another version are fetched anew.
    """

    address: str
    cache: ShardCache
    version: str = ""

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    @property
    def protocol(self) -> str:
        return self.address.partition("://")[0]

    @property
    def kept(self) -> Path:
        """Folder of this machine for what is computed from the records."""
        return self.cache.folder / index_name(self.address)

    def where(self, file: str) -> str:
        """See `Folder`."""
        return f"{self.address}/{file}"

    def read(self, file: str) -> bytes:
        """See `Folder`.

        Raises:
          FileNotFoundError: there is no such file.
          FetchError: it cannot be had.
        """

        def whole(ends: float) -> bytes:
            size, chunks = self._fetch(file, None)
            data = b"".join(chunks)
            if len(data) != size:
                raise OSError(0, f"{len(data)} of {size} bytes arrived")
            return data

        return self._attempted(file, whole)

    def has(self, file: str) -> bool:
        """Whether a small file is there. Raises FetchError where that cannot be known."""
        try:
            self.read(file)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def local(self, file: str, size: int | None = None) -> Iterator[Path]:
        """See `Folder`. Raises FileNotFoundError and FetchError as `read`."""
        with self._acquire(file, size):
            yield self.cache.path(self._cached(file))

    def is_cached(self, file: str) -> bool:
        """Whether a file lies on this machine now."""
        return self.cache.path(self._cached(file)).exists()

    def fetch_ahead(self, files: Iterable[tuple[str, int | None]]) -> None:
        """Has threads of this process fetch files (name, bytes where known) that are not there yet."""
        fetchers = _fetchers()
        for file, size in files:
            if not self.is_cached(file):
                fetchers.add(self, file, size)

    def write(self, file: str, data: bytes) -> None:
        """Writes a small file there. Raises FetchError where that cannot be."""
        try:
            system = file_system(self.protocol)
            if self.protocol == "file":  # the others have no folders of their own
                system.makedirs(self.where(file).rpartition("/")[0], exist_ok=True)
            system.pipe_file(self.where(file), data)
        except Exception as error:
            raise FetchError(0, f"cannot be written: {reason(error)}", self.where(file)) from None

    def listed(self) -> dict[str, tuple[int, int]]:
        """Name below the folder -> (bytes, a number that changes when the file does), of all files but hidden ones.

        Raises:
          ValueError: folders cannot be listed over this protocol.
          FetchError: the listing cannot be had.
        """
        if self.protocol in UNLISTED:
            raise ValueError(f"{self.address}: a folder cannot be listed over {self.protocol}://")
        try:
            found = file_system(self.protocol).find(self.address, detail=True)
        except Exception as error:
            raise FetchError(0, f"cannot be listed: {reason(error)}", self.address) from None
        start = self.address.partition("://")[2].strip("/") + "/"
        names = {path.strip("/").removeprefix(start): info for path, info in found.items()}
        hidden = [name for name in names if any(part.startswith(".") for part in name.split("/"))]
        return {name: (int(info["size"]), _stamp(info)) for name, info in sorted(names.items()) if name not in hidden}

    def _cached(self, file: str) -> str:
        return f"{index_name(self.where('') + self.version)}/{index_name(file)}"

    def _acquire(self, file: str, size: int | None) -> BinaryIO:
        return self._attempted(file, partial(self.cache.acquire, self._cached(file), partial(self._fetch, file, size)))

    def _attempted(self, file: str, attempt: Callable[[float], T]) -> T:
        """What `attempt` gives, called with the time at which it shall end, again where that can help."""
        where, now = self.where(file), time.monotonic()
        until, why = _failed.get(where, (0.0, ""))
        if now < until:
            raise FetchError(0, why, where)
        ends, pause = now + FETCH_SECONDS, PAUSE_SECONDS
        for number in range(1, ATTEMPTS + 1):
            try:
                return attempt(ends)
            except Exception as error:
                if is_missing(error):
                    raise FileNotFoundError(0, "there is no such file", where) from None
                why = f"could not be fetched: {reason(error)} (attempt {number} of {ATTEMPTS})"
                if isinstance(error, (PermanentError, PermissionError)) or time.monotonic() + pause > ends:
                    break
            if number < ATTEMPTS:
                time.sleep(pause)
                pause *= 2
        _failed[where] = time.monotonic() + FAILED_SECONDS, why
        raise FetchError(0, why, where)

    def _fetch(self, file: str, known: int | None) -> tuple[int, Iterator[bytes]]:
        """Begins to fetch a file: its bytes in number, and as chunks."""
        chunks = chunks_in_time(partial(read_chunks, self.protocol, self.where(file)))
        size = int(next(chunks))
        if known not in (None, size):
            raise PermanentError(
                0, f"it has {size} bytes, its index says {known}: make the index again (qwenvl data index)"
            )
        return size, chunks


@dataclass(frozen=True)
class RemoteShards:
    """The files of a source that lies elsewhere.

    Attributes:
      folder: where they lie.
      files: their names below it, and their bytes where these are known.
    """

    folder: RemoteFolder
    files: tuple[tuple[str, int | None], ...]

    def fetch_ahead(self, shards: Iterable[int]) -> None:
        """Begins to fetch the files with these numbers."""
        self.folder.fetch_ahead(self.files[shard] for shard in shards)


_failed: dict[str, tuple[float, str]] = {}
"""Address -> until when it is not tried again, and why."""


class _Fetchers:
    """Threads that fetch files ahead; what they cannot fetch is said when it is read."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[RemoteFolder, str, int | None]] = queue.SimpleQueue()
        self._waiting: set[tuple[RemoteFolder, str]] = set()
        for _ in range(FETCHERS):
            threading.Thread(target=self._serve, daemon=True, name="shard fetcher").start()

    def add(self, folder: RemoteFolder, file: str, size: int | None) -> None:
        if (folder, file) not in self._waiting:
            self._waiting.add((folder, file))
            self._asked.put((folder, file, size))

    def _serve(self) -> None:
        while True:
            folder, file, size = self._asked.get()
            try:
                folder._acquire(file, size).close()
            except (OSError, ValueError):
                pass
            finally:
                self._waiting.discard((folder, file))


@cache
def _fetchers() -> _Fetchers:
    return _Fetchers()


def _stamp(info: dict[str, Any]) -> int:
    names = ("ETag", "etag", "md5Hash", "generation", "LastModified", "updated", "mtime", "created")
    text = "|".join(str(info[name]) for name in names if info.get(name))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])
