"""The end of waiting: a run that waits too long for a batch or for its devices says so, shows where it stands, and ends.

JAX itself ends all processes when one of them gives no sign of life (`Run.lost_seconds`). What is left to notice here is a
process that lives and does nothing: a loader that delivers no batch, and a collective that waits for that process.
"""

import multiprocessing
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import jax

from qwenvl_jax.parallel.processes import RESTART, abandon, is_lost, tell_as

FIRST = 6
"""How many times as long the first batch and the compiled step may take: sources are opened, all processes compile."""
AGAIN = "the same command goes on from the last checkpoint"
WRITING_SECONDS = 20.0
"""For the file of stacks: the disk may be what hangs."""


class Watchdog:
    """Within this context, what the loop waits for must come within `seconds`.

    If it does not: one sentence on stderr names it, the stacks of all threads go to `stacks/process-I.txt` in the run's
    folder, and the program ends with the code RESTART, whatever its other threads are doing. It also ends at once where
    another process has closed its connections.
    """

    def __init__(self, workdir: Path, seconds: float) -> None:
        self._file = workdir / "stacks" / f"process-{jax.process_index()}.txt"
        self._seconds, self._until, self._what = seconds, float("inf"), ""
        self._closed, self._written = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    @contextmanager
    def waits_for(self, what: str, times: float = 1) -> Iterator[None]:
        """Within it, `what` is waited for; at most `times` the usual time."""
        self._what, self._until = what, time.monotonic() + times * self._seconds
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if is_lost(error):
                # Closing the checkpoints, on the way out, would wait for the lost process.
                self._end(f"a process was lost while this one waited for {what} ({_in_short(error)}); {AGAIN}")
            raise
        finally:
            self._until = float("inf")

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 10)):
            if time.monotonic() > self._until:
                waited = f"waited more than hang-seconds ({self._seconds:g}) for {self._what}"
                threading.Thread(target=self._write_stacks, daemon=True).start()
                done = self._written.wait(WRITING_SECONDS)
                written = f"are in {self._file}" if done else "could not be written"
                self._end(f"{waited}; the stacks of all threads {written}; {AGAIN}")

    def _write_stacks(self) -> None:
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("w") as file:
                file.write(f"waiting for {self._what}\n")
                file.writelines(_stacks())
            self._written.set()

    def _end(self, sentence: str) -> NoReturn:
        for loader in multiprocessing.active_children():
            loader.kill()
        tell_as("qwenvl train", sentence)
        abandon(RESTART)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()


def _in_short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _stacks() -> Iterator[str]:
    """The stack of each thread, the newest call last; no source is read, as the disk may be what is waited for.

    `faulthandler` would leave out all but 100 threads, the main one among them.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        yield f"\n{names.get(ident, ident)}\n"
        calls = reversed(list(traceback.walk_stack(frame)))
        yield from (f'  File "{f.f_code.co_filename}", line {line}, in {f.f_code.co_name}\n' for f, line in calls)
