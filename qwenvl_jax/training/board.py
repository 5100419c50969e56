"""TensorBoard's files of a stage."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from qwenvl_jax.parallel.processes import tell


class Board:
    """Writes scalars from the calling thread.

    tensorboardX's own `SummaryWriter` hands them to a thread that ends at the first failed write; the training loop then
    waits for ever for room in its queue. Here a failed write is said, once until one succeeds again, its
    scalars are left out (`metrics.jsonl` has them), and the next ones go to a new file, as the end of the old one may be
    damaged.
    """

    def __init__(self, folder: Path, start: int) -> None:
        """`start`: scalars from this step on, of a run that was killed, are no longer shown."""
        self._folder, self._start, self._failing = folder, start, False
        self._writer: EventsWriter | None = None

    def add(self, step: int, figures: Mapping[str, float | None]) -> None:
        """The figures of a step; those that are None are left out."""
        values = [
            value for name, figure in figures.items() if figure is not None for value in scalar(name, figure).value
        ]
        event = Event(wall_time=time.time(), step=step)
        event.summary.value.extend(values)
        try:
            if self._writer is None:
                self._writer = self._open()
            self._writer.write_event(event)
            self._writer.flush()
            self._failing = False
        except OSError as error:
            self._writer = None
            if not self._failing:
                tell(
                    f"{self._folder} cannot be written ({error.strerror}): training goes on without TensorBoard's files"
                )
            self._failing = True

    def _open(self) -> EventsWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        suffix = f".{time.time_ns()}"  # else the name has whole seconds only
        try:
            writer = EventsWriter(str(self._folder / "events"), suffix)
            writer.write_event(Event(step=self._start, session_log=SessionLog(status=SessionLog.START)))
            writer.flush()
        except OSError:
            for empty in self._folder.glob(f"*{suffix}"):
                empty.unlink()
            raise
        return writer
