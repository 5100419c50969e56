"""One file from elsewhere, through fsspec: its bytes in order, or in a sentence why they do not come.

No message of a library is passed on: some hold signed addresses.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import fsspec

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp", "file": "fsspec", "memory": "fsspec"}
"""Protocols, and the package that reads each."""
UNLISTED = ("http", "https")
CHUNK = 1 << 20
BLOCK = 32 << 20
"""Bytes of a request to an object store. Over HTTP a file is one request."""
STALL_SECONDS = 20.0
"""Without a byte, after which an attempt is given up."""


@cache
def file_system(protocol: str) -> fsspec.AbstractFileSystem:
    """fsspec's, one a process.

    Raises:
      ValueError: its package is not installed.
    """
    options: dict[str, Any] = {"use_listings_cache": False}
    try:
        if protocol in UNLISTED:
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS)
            options["client_kwargs"] = {"timeout": timeout}
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        package = PACKAGES[protocol]
        raise ValueError(
            f"{protocol}:// is read by {package}, which is missing: "
            "pip install -r data_pipelines/sources/remote-requirements.txt"
        ) from error


def read_chunks(protocol: str, address: str) -> Iterator[bytes]:
    """The size of a file as digits, then its bytes."""
    system = file_system(protocol)
    size = system.info(address)["size"]
    if size is None:
        raise OSError(0, "the server does not say how large it is")
    yield b"%d" % size
    options = {"block_size": 0, "size": size} if protocol in UNLISTED else {"block_size": BLOCK}
    with system.open(address, "rb", **options) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def chunks_in_time(read: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
    """What `read` gives, in a thread of its own that is left behind when nothing comes.

    Raises:
      TimeoutError: nothing has come for `STALL_SECONDS`.
      Exception: as `read`.
    """
    arrived: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=4)
    left = threading.Event()

    def put(item: bytes | Exception | None) -> bool:
        while not left.is_set():
            try:
                arrived.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            if all(put(chunk) for chunk in read()):
                put(None)
        except Exception as error:
            put(error)

    threading.Thread(target=run, daemon=True, name="shard reader").start()
    try:
        while True:
            try:
                item = arrived.get(timeout=STALL_SECONDS)
            except queue.Empty:
                raise TimeoutError(0, f"nothing came for {STALL_SECONDS:g} seconds") from None
            if isinstance(item, Exception):
                raise item
            if item is None:
                return
            yield item
    finally:
        left.set()


def is_missing(error: BaseException) -> bool:
    """Whether a file is not there; fsspec says so of whatever went wrong over HTTP."""
    return isinstance(error, FileNotFoundError) and (status_of(error) or 404) in (404, 410) and _cause(error) is None


def _cause(error: BaseException) -> BaseException | None:
    """What lies behind fsspec's FileNotFoundError where no HTTP server has answered."""
    cause = error.__cause__
    lost = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp")
    return cause if lost and status_of(cause) is None else None


def status_of(error: BaseException | None) -> int | None:
    """The status that a server has answered with, where an error holds one."""
    while error is not None:
        # aiohttp's errors of broken answers have codes too, which no server has sent.
        name = "code" if type(error).__module__.startswith("gcsfs") else "status"
        if isinstance(value := getattr(error, name, None), int):
            return value
        error = error.__cause__
    return None


def reason(error: BaseException) -> str:
    """What went wrong, in words of ours; see the module docstring."""
    if (status := status_of(error)) is not None:
        return f"the server answered {status}"
    if isinstance(error, PermissionError):
        return "access is denied: check the credentials of this machine"
    error = _cause(error) or error
    if isinstance(error, OSError) and error.errno is not None:
        # Ours have number 0. To others belongs the system's text, not what a library may have added.
        return str(error.strerror) if error.errno == 0 else os.strerror(error.errno)
    return f"the connection failed ({type(error).__name__})"
