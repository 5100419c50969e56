"""Promises of `qwenvl_jax.parallel.processes`: real processes on this machine train as one does."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import process_worker
import pytest
from process_worker import NAN_STEP, STEPS, train

from qwenvl_jax.parallel.processes import RESTART, start_processes
from qwenvl_jax.training import loop
from qwenvl_jax.training.checkpoints import read_position
from qwenvl_jax.training.json_lines import read_lines

HANG = 15.0
"""Seconds for a batch or a step of the run that hangs: a hundred times what they take."""
ROUNDING = {"rtol": 2e-4}
"""Float32 sums in another order differ by 1e-7 of their terms; nine Adam steps of 1e-2 carry it on."""


def start(count: int, devices: int, runs: list[dict], **fields) -> list[subprocess.Popen]:
    """The processes of one job, each with this many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    environment = {
        **os.environ,
        "XLA_FLAGS": " ".join((*flags, f"--xla_force_host_platform_device_count={devices}")),
        "PYTHONPATH": os.pathsep.join((*sys.path, os.environ.get("PYTHONPATH", ""))),
    }
    given = {"coordinator": coordinator, "count": count, "runs": runs, **fields}
    return [
        subprocess.Popen(
            [sys.executable, process_worker.__file__, json.dumps({**given, "index": index})],
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for index in range(count)
    ]


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit code and stderr of each."""
    errors = [process.communicate(timeout=900)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors)]


@pytest.fixture(scope="module", autouse=True)
def _unmeasured():
    """MFU is of no interest here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "peak_flops", lambda: 1e12)
        yield


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The folder of a run of one process on two devices."""
    folder = tmp_path_factory.mktemp("one")
    train(folder, (1, 2, 1))
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> dict:
    """Folders of runs of two processes, one behind the other: `whole`; `split`, in which each has a half of every row;
    `stopped` by a SIGTERM that only process 0 gets in
    batch 3; `broken` by a loader of process 1 that hangs in batch 4, which ends both. And how they ended."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("whole", "split", "stopped", "broken")}
    runs = [
        {"workdir": str(folders["whole"]), "mesh": (1, 2, 1)},
        {"workdir": str(folders["split"]), "mesh": (1, 1, 1, 2)},
        {"workdir": str(folders["stopped"]), "mesh": (1, 2, 1), "until": 3},
        {"workdir": str(folders["broken"]), "mesh": (1, 2, 1), "fault": ("hung", 4, 1), "hang_seconds": HANG},
    ]
    return {**folders, "ends": ended(start(2, 1, runs))}


@pytest.fixture(scope="module")
def killed(two) -> list[tuple[int, str]]:
    """How two processes end that go on with `broken`, when process 1 is killed in batch 7."""
    runs = [{"workdir": str(two["broken"]), "mesh": (2, 1, 1), "fault": ("killed", 7, 1)}]
    return ended(start(2, 1, runs))


@pytest.fixture(scope="module")
def four(two, killed) -> list[tuple[int, str]]:
    """How four processes end that train `stopped` and `broken` to their ends."""
    stopped = two["stopped"]
    steps = [int(path.name) for path in (stopped / "checkpoints" / "sft").iterdir()]
    assert 4 <= max(steps) < STEPS, "both saved a step soon behind the signal"
    if max(steps) < STEPS - 1:  # one process between two and four
        with pytest.raises(loop.Stopped):
            train(stopped, (2, 2, 1), until=max(steps))
    return ended(start(4, 1, [{"workdir": str(two[name]), "mesh": (2, 1, 2)} for name in ("stopped", "broken")]))


def same(folder: Path, expected: Path) -> None:
    """Fingerprints, counts and skipped updates are the same; losses and norms of gradients are, but for rounding."""
    ours, theirs = read_lines(folder / "metrics.jsonl"), read_lines(expected / "metrics.jsonl")
    for name in ("step", "fingerprint", "skipped", "replaced"):
        assert [line[name] for line in ours] == [line[name] for line in theirs], name
    for name in ("loss", "grad_norm", "loss/caption"):
        np.testing.assert_allclose([line[name] for line in ours], [line[name] for line in theirs], **ROUNDING)
    assert [(line["step"], line["samples"]) for line in read_lines(folder / "skipped.jsonl")] == [
        (line["step"], line["samples"]) for line in read_lines(expected / "skipped.jsonl")
    ]
    assert read_position(folder, "sft", STEPS)["fingerprint"] == read_position(expected, "sft", STEPS)["fingerprint"]


def test_two_processes_train_as_one(one, two) -> None:
    """Each makes its own rows, or makes all and has a half of each; the batches, the losses and what is counted and listed
    are those of one process. A checkpoint holds where the rows of both lie in their plans."""
    same(two["whole"], one)
    same(two["split"], one)
    [skipped] = read_lines(two["whole"] / "skipped.jsonl")
    assert skipped["samples"] == [["pictures", 8 * NAN_STEP + row] for row in range(8)]
    assert read_position(two["whole"], "sft", STEPS)["windows"] == [[row, 0, 0] for row in range(8)]


def test_every_file_has_one_writer(two) -> None:
    """Metrics, TensorBoard and skipped updates are written once; what process 1 prints is in a log of its own."""
    folder = two["whole"]
    assert len(list((folder / "tensorboard" / "sft").iterdir())) == 1
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [2, 4, 6, 8, 9]
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints",
        "logs",
        "metrics.jsonl",
        "skipped.jsonl",
        "tensorboard",
    }
    [log] = (folder / "logs").iterdir()
    assert (log.name, log.read_text()) == ("process-1.log", "here is process 1\n")


def test_a_loader_that_hangs_ends_all(two) -> None:
    """Process 1 names the batch and leaves the stacks of its threads; process 0, which waits for its part of the step, ends
    too; launchers are told to start both again."""
    (code_0, error_0), (code_1, error_1) = two["ends"]
    assert (code_0, code_1) == (RESTART, RESTART), two["ends"]
    assert f"process 1 of 2: waited more than hang-seconds ({HANG:g}) for batch 5 from the loader" in error_1
    assert "process 0 of 2: " in error_0
    stacks = (two["broken"] / "stacks" / "process-1.txt").read_text()
    assert stacks.startswith("waiting for batch 5 from the loader")
    assert "process_worker.py" in stacks


def test_a_killed_process_ends_the_others(killed) -> None:
    """The one that is left says what it waited for, and does not wait for the heartbeat's `lost_seconds`."""
    (code_0, error_0), (code_1, _) = killed
    assert (code_0, code_1) == (RESTART, -signal.SIGKILL), killed
    assert "process 0 of 2: a process was lost while this one waited for" in error_0


def test_four_processes_go_on_with_what_two_began(one, two, four) -> None:
    """Two processes, stopped by a SIGTERM that one of them got, then one on other mesh sizes, stopped, then four; and two,
    hung, then two others, one of them killed, then four: batches, counts and losses are those of a run never stopped."""
    assert [code for code, _ in four] == [0] * 4, four
    same(two["stopped"], one)
    same(two["broken"], one)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((None, 2, None), "belong to --coordinator HOST:PORT"),
        (("auto", None, 1), "belong to --coordinator HOST:PORT"),
        (("localhost:1", 2, 2), "needs --processes N"),
        (("localhost:1", None, 0), "needs --processes N"),
        (("auto", None, None), "no cluster was found"),
    ],
)
def test_wrong_arguments_get_a_sentence(arguments, sentence: str) -> None:
    """Before anything is started: what was given, and what belongs together."""
    with pytest.raises(ValueError, match=sentence):
        start_processes(*arguments, lost_after=100)
