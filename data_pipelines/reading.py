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
    """Reads what it is asked for, and answers in that order."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[Sequence[Wanted]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[list[Answer]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="record reader").start()

    def _serve(self) -> None:
        while True:
            self._answers.put([_answer(*wanted) for wanted in self._asked.get()])

    def ask(self, wanted: Sequence[Wanted]) -> None:
        self._asked.put(wanted)

    def answers(self, seconds: float) -> list[Answer]:
        return self._answers.get(timeout=seconds)


def _answer(source: RecordSource, index: int) -> Answer:
    try:
        return source[index], None
    except BaseException as error:
        return None, error


class _Reader:
    """A thread that reads, and what it is asked for (None: nothing)."""

    def __init__(self) -> None:
        self._thread: _Thread | None = None
        self.asked: list[Wanted] | None = None

    def ask(self, wanted: list[Wanted]) -> None:
        self._thread = self._thread or _Thread()
        self._thread.ask(wanted)
        self.asked = wanted

    def answers(self, seconds: float) -> list[Answer]:
        """Raises queue.Empty where they take too long."""
        if self._thread is None or self.asked is None:
            return []
        self.asked = None
        try:
            return self._thread.answers(seconds)
        except queue.Empty:
            # That thread may never come back; it holds nothing but its files, and ends with the process.
            self._thread = None
            raise


class _Local(threading.local):
    """Of a thread that wants records: what reads whole rows for it and single records, and the row that was read."""

    def __init__(self) -> None:
        self.rows, self.records = _Reader(), _Reader()
        self.ahead: dict[tuple[int, int], Answer] = {}


_local = _Local()


def read_ahead(wanted: Iterable[Wanted], following: Iterable[Wanted] = (), seconds: float = AHEAD_SECONDS) -> None:
    """Reads records of this machine that `read_record` is about to be called for, or takes them where the call before named
    them as `following`; those that follow are read meanwhile. Handing each over by itself took 0.2 ms of CPU time on a busy
    machine. What hangs, and what is fetched from elsewhere, is left to `read_record`."""
    here, later = ([(source, index) for source, index in row if source.remote is None] for row in (wanted, following))
    _local.ahead = {}
    with suppress(queue.Empty):
        if _local.rows.asked != here:
            _local.rows.answers(seconds)
            _local.rows.ask(here)
        answers = _local.rows.answers(seconds)
        _local.ahead = {(id(source), index): answer for (source, index), answer in zip(here, answers)}
    if later:
        _local.rows.ask(later)


def read_record(source: RecordSource, index: int, seconds: float = READ_SECONDS) -> Record:
    """Record number `index` of a source.

    Raises:
      RecordError: it cannot be read, or not within `seconds`.
    """
    answer = _local.ahead.pop((id(source), index), None)
    try:
        if answer is None:
            _local.records.ask([(source, index)])
            [answer] = _local.records.answers(seconds)
    except queue.Empty:
        raise HungRead(source.name, index, f"reading it took longer than {seconds:g} seconds") from None
    record, error = answer
    if record is None:
        raise error or RecordError(source.name, index, "there is no record")
    return record


class HungRead(RecordError):
    """A read that was given up."""

    def __reduce__(self) -> tuple:
        return HungRead, (self.file, self.index, self.reason)
