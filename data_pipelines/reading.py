"""Reads that may hang: a record is given up after a while, and what hangs is left behind."""

import queue
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress

from data_pipelines.records import Record
from data_pipelines.sources.source import RecordError, RecordSource

READ_SECONDS = 120.0
"""A read that takes longer counts as failed. Slow storage answers within seconds; a lost mount never does."""
AHEAD_SECONDS = 10.0
"""What is not read ahead by then is read again, record by record."""

Wanted = tuple[RecordSource, int]
Answer = tuple[Record | None, BaseException | None]


class _Thread:
    """A thread that reads what it is asked for."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[Sequence[Wanted]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[list[Answer]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="record reader").start()

    def _serve(self) -> None:
        while True:
            self._answers.put([_answer(*wanted) for wanted in self._asked.get()])

    def read(self, wanted: Sequence[Wanted], seconds: float) -> list[Answer]:
        self._asked.put(wanted)
        return self._answers.get(timeout=seconds)


def _answer(source: RecordSource, index: int) -> Answer:
    try:
        return source[index], None
    except BaseException as error:
        return None, error


class _Local(threading.local):
    """Of a thread that wants records: the one that reads for it, and what that has read ahead."""

    def __init__(self) -> None:
        self.thread: _Thread | None = None
        self.ahead: dict[tuple[int, int], Answer] = {}

    def read(self, wanted: Sequence[Wanted], seconds: float) -> list[Answer]:
        """Raises queue.Empty where it takes too long."""
        self.thread = self.thread or _Thread()
        try:
            return self.thread.read(wanted, seconds)
        except queue.Empty:
            # That thread may never come back; it holds nothing but its files, and ends with the process.
            self.thread = None
            raise


_local = _Local()


def read_ahead(wanted: Iterable[Wanted], seconds: float = AHEAD_SECONDS) -> None:
    """Reads records of this machine that `read_record` is about to be called for: handing each over by itself took 0.2 ms
    of CPU time on a busy machine. What hangs, and what is fetched from elsewhere, is left to `read_record`."""
    here = [(source, index) for source, index in wanted if source.remote is None]
    _local.ahead = {}
    with suppress(queue.Empty):
        answers = _local.read(here, seconds)
        _local.ahead = {(id(source), index): answer for (source, index), answer in zip(here, answers)}


def read_record(source: RecordSource, index: int, seconds: float = READ_SECONDS) -> Record:
    """Record number `index` of a source.

    Raises:
      RecordError: it cannot be read, or not within `seconds`.
    """
    answer = _local.ahead.pop((id(source), index), None)
    try:
        [(record, error)] = [answer] if answer else _local.read([(source, index)], seconds)
    except queue.Empty:
        raise HungRead(source.name, index, f"reading it took longer than {seconds:g} seconds") from None
    if record is None:
        raise error or RecordError(source.name, index, "there is no record")
    return record


class HungRead(RecordError):
    """A read that was given up."""

    def __reduce__(self) -> tuple:
        return HungRead, (self.file, self.index, self.reason)
