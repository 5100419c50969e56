"""PDFs read in a process of their own, so that a file that crashes, hangs or swells costs its pages and nothing else.

Each file gets a new process, so what becomes of it does not depend on the files before it. What a page may cost is
bounded in processor time, which other programs on the machine do not change; the clock is only the last resort.
"""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgpack

from data_pipelines.cleaning.pages import BEYOND, CRASHED, SLOW, PageThresholds
from data_pipelines.cleaning.pdf_reader import LENGTH, arguments

SILENT_SECONDS = 900.0
"""Without a message, after which a reader is given up: a mount that is lost costs no processor time."""
MOST_DEATHS = 3
"""Of readers on one file, after which its other pages are given up for the reason of the last."""
INSTALL = "reading PDFs needs pypdfium2: pip install 'qwenvl-jax[pdf]'"


class PageAnswer(NamedTuple):
    """What became of a page.

    Attributes:
      page: its number in the file, from 0.
      reason: why it is left out, or "".
      content: of a page that is kept: `width`, `height`, `data` and `lines`, as `pdf_reader.read_page` gives them.
      pages: how many it answers for: this one and those behind it.
    """

    page: int
    reason: str
    content: Mapping[str, Any]
    pages: int = 1


def require_pdfium() -> None:
    """Raises ValueError where pypdfium2 is not installed."""
    if find_spec("pypdfium2") is None:
        raise ValueError(INSTALL)


def read_pdf(file: Path, thresholds: PageThresholds, silent_seconds: float = SILENT_SECONDS) -> Iterator[PageAnswer]:
    """An answer for every page of a file, in order; one for a file that cannot be opened.

    Raises:
      ValueError: the reader does not start at all.
    """
    page = deaths = 0
    pages: int | None = None
    while pages is None or page < min(pages, thresholds.max_pages):
        try:
            for message in _messages(arguments(file, page, thresholds), silent_seconds):
                if "pages" in message:
                    pages = message["pages"]
                    continue
                yield PageAnswer(page, message.get("reason", ""), message)
                if pages is None:
                    return
                page += 1
            break
        except _Died as death:
            deaths += 1
            given_up = pages is not None and deaths == MOST_DEATHS
            count = min(pages, thresholds.max_pages) - page if pages is not None and given_up else 1
            yield PageAnswer(page, str(death), {}, count)
            page += count
            if pages is None:
                return
    if pages is not None and pages > thresholds.max_pages:
        yield PageAnswer(thresholds.max_pages, BEYOND, {}, pages - thresholds.max_pages)


class _Died(Exception):
    """The reader ended, or was ended, before it had answered; the sentence is the reason."""


def _messages(command: list[str], silent_seconds: float) -> Iterator[dict[str, Any]]:
    """The messages of a reader behind its first, which says that it is ready."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path},
        ) as reader,
    ):
        assert reader.stdout is not None
        try:
            if _message(reader.stdout, silent_seconds) is None:
                said.seek(0)
                *_, last = said.read().decode(errors="replace").strip().split("\n")
                raise ValueError(f"the reader of PDFs does not start: {last}")
            while (message := _message(reader.stdout, silent_seconds)) is not None:
                yield message
            if status := reader.wait():
                raise _Died(SLOW if status == -signal.SIGXCPU else CRASHED)
        finally:
            reader.kill()


def _message(stream: IO[bytes], seconds: float) -> dict[str, Any] | None:
    """The next message; None at the end, or where it breaks off."""
    head = _read(stream, LENGTH.size, seconds)
    if len(head) != LENGTH.size:
        return None
    [size] = LENGTH.unpack(head)
    body = _read(stream, size, seconds)
    if len(body) != size:
        return None
    message: dict[str, Any] = msgpack.unpackb(body, use_list=False)
    return message


def _read(stream: IO[bytes], size: int, seconds: float) -> bytes:
    """So many bytes, or fewer where the stream ends.

    Raises:
      _Died: nothing came for so many seconds.
    """
    parts, left = [], size
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while left:
            if not selector.select(seconds):
                raise _Died(SLOW)
            part = os.read(stream.fileno(), left)
            if not part:
                break
            parts.append(part)
            left -= len(part)
    return b"".join(parts)
