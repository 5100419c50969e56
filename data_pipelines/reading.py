"""Reads that may hang: a record is given up after a while, and what hangs is left behind."""

import queue
import threading
from typing import Any

from data_pipelines.records import Record
from data_pipelines.sources.source import RecordError, RecordSource

READ_SECONDS = 120.0
"""A read that takes longer counts as failed. Slow storage answers within seconds; a lost mount never does."""


class _Thread:
    """A thread that reads what it is asked for, one record at a time."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[RecordSource, int]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Record | None, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="record reader").start()

    def _serve(self) -> None:
        while True:
            source, index = self._asked.get()
            try:
                self._answers.put((source[index], None))
            except BaseException as error:
                self._answers.put((None, error))

    def read(self, source: RecordSource, index: int, seconds: float) -> Any:
        self._asked.put((source, index))
        record, error = self._answers.get(timeout=seconds)
        if error is not None:
            raise error
        return record


_local = threading.local()


def read_record(source: RecordSource, index: int, seconds: float = READ_SECONDS) -> Record:
    """Record number `index` of a source.

    Raises:
      RecordError: it cannot be read, or not within `seconds`.
    """
    thread = getattr(_local, "thread", None)
    if thread is None:
        thread = _local.thread = _Thread()
    try:
        record: Record = thread.read(source, index, seconds)
    except queue.Empty:
        # That thread may never come back; it holds nothing but its file, and ends with the process.
        del _local.thread
        raise HungRead(source.name, index, f"reading it took longer than {seconds:g} seconds") from None
    return record


class HungRead(RecordError):
    """A read that was given up."""

    def __reduce__(self) -> tuple:
        return HungRead, (self.file, self.index, self.reason)
