"""Promises of `qwenvl_jax.training.watchdog`; `test_processes` has it end real processes."""

import threading
import time

import pytest

from qwenvl_jax.parallel import processes
from qwenvl_jax.parallel.processes import RESTART
from qwenvl_jax.training import watchdog
from qwenvl_jax.training.watchdog import Watchdog


class Ended(BaseException):
    """In place of the end of the program."""


@pytest.fixture
def codes(monkeypatch):
    """The codes with which the program would have ended, and an event for the first of them."""
    ended = []
    event = threading.Event()

    def end(code: int):
        ended.append(code)
        event.set()
        raise Ended

    monkeypatch.setattr(processes.os, "_exit", end)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)  # Ended, in the watchdog's thread
    return ended, event


def test_what_does_not_come_ends_the_run(tmp_path, codes, capsys) -> None:
    """One sentence with its name and the limit, the stacks of the threads in the run's folder, and the code that launchers
    take for a reason to start again."""
    ended, event = codes
    over = threading.Event()
    # Of these, faulthandler would show 100 and no more.
    others = [threading.Thread(target=over.wait) for _ in range(120)]
    for other in others:
        other.start()
    with Watchdog(tmp_path, 0.2) as watched, watched.waits_for("batch 7 from the loader"):
        assert event.wait(30)
    over.set()
    assert ended == [RESTART]
    [said] = capsys.readouterr().err.splitlines()
    assert "waited more than hang-seconds (0.2) for batch 7 from the loader; the stacks of all threads are in" in said
    stacks = (tmp_path / "stacks" / "process-0.txt").read_text()
    assert "test_what_does_not_come_ends_the_run" in stacks


def test_nothing_ends_in_time(tmp_path, codes) -> None:
    """Many waits in turn, time between them, and a wait that may take longer."""
    with Watchdog(tmp_path, 0.5) as watched:
        for _ in range(4):
            with watched.waits_for("a short while"):
                time.sleep(0.2)
        time.sleep(0.8)
        with watched.waits_for("the compiled step", 6):
            time.sleep(0.8)
    assert codes[0] == []
    assert not (tmp_path / "stacks").exists()


def test_a_lost_process_ends_the_run_at_once(tmp_path, codes, capsys, monkeypatch) -> None:
    """Closed connections of another process are told with what was waited for; any other error is the caller's."""
    with Watchdog(tmp_path, 60.0) as watched, pytest.raises(ValueError, match="a mistake"), watched.waits_for("step 3"):
        raise ValueError("a mistake")
    monkeypatch.setattr(watchdog, "is_lost", lambda error: True)
    with Watchdog(tmp_path, 60.0) as watched, pytest.raises(Ended), watched.waits_for("step 3 on the devices"):
        raise ValueError("Gloo all-reduce failed: Connection closed by peer")
    assert codes[0] == [RESTART]
    assert "a process was lost while this one waited for step 3 on the devices (Gloo" in capsys.readouterr().err
