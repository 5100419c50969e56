"""Faults against a small run: after each, the run must go on as if nothing had happened.

    python -m launch.drills.faults --faults 200 --folder runs/drill

Stage `language` of a small `tiny` is trained once without faults. Then runs are trained again and again with a fault in
every process: each is started by the same command until it ends well, and must then have the losses, the batches and the
parameters of the first one, bit by bit. Where the number of devices changes, the batches are the same and the losses are
equal but for rounding. Two batches are poisoned in all runs, so that their updates are skipped. Prints a table.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

STAGE, STEPS, EVERY = "language", 90, 4
POISONED = (6, 41)
"""Batches whose losses are NaN."""
OPTIONS = (
    "tiny", "--stage", STAGE, f"--{STAGE}.steps", str(STEPS), f"--{STAGE}.rows", "4", f"--{STAGE}.sequence-length", "384",
    "--model.language.layers", "1", "--precision.unroll", "1", "--checkpoint.every", str(EVERY), "--checkpoint.keep", "3",
    "--log-every", "1",
)  # fmt: skip
FILE_LIMIT = 200_000
"""Bytes of a file at most, for the fault of a full disk: less than a checkpoint's largest file, more than the metrics."""
PATIENCE = 180.0
"""Seconds after which a process that neither ends nor goes on counts as hanging."""
MOST_PROCESSES = 60
"""Processes of a run after which it counts as not going on."""


@dataclass
class Process:
    """One process of a run, and what may be done to it."""

    running: subprocess.Popen
    folder: Path
    rng: np.random.Generator

    @property
    def saving(self) -> bool:
        return any((self.folder / "checkpoints" / STAGE).glob("*.orbax-checkpoint-tmp*"))

    def wait_until(self, ready: Callable[[], bool]) -> bool:
        """False where the process ends before; polls as fast as it can, as a save takes milliseconds."""
        until = time.monotonic() + PATIENCE
        while self.running.poll() is None:
            if ready():
                return True
            if time.monotonic() > until:
                raise TimeoutError("the process does not go on")
            time.sleep(0.001)
        return False

    def trains(self) -> bool:
        """Waits until it has trained a step that no process before it had."""
        before = len(lines(self.folder, "metrics.jsonl"))
        return self.wait_until(lambda: len(lines(self.folder, "metrics.jsonl")) > before)

    def send(self, number: int) -> None:
        if self.running.poll() is None:
            self.running.send_signal(number)


def kill_anywhere(process: Process) -> None:
    """At a random instant of its first ten seconds: imports, restoring, compiling, training."""
    until = time.monotonic() + process.rng.uniform(0, 10)
    if process.wait_until(lambda: time.monotonic() > until):
        process.send(signal.SIGKILL)


def kill_in_training(process: Process) -> None:
    if process.trains():
        time.sleep(process.rng.uniform(0, 0.6))
        process.send(signal.SIGKILL)


def kill_in_saving(process: Process) -> None:
    saves = int(process.rng.integers(1, 4))
    for _ in range(saves):
        if not (process.wait_until(lambda: process.saving) and process.wait_until(lambda: not process.saving)):
            return
    if process.wait_until(lambda: process.saving):
        time.sleep(process.rng.uniform(0, 0.03))
        process.send(signal.SIGKILL)


def signalled(number: int, process: Process) -> None:
    if process.trains():
        time.sleep(process.rng.uniform(0, 0.6))
        process.send(number)


def damage(process: Process) -> None:
    """A kill, and then a file of the newest checkpoint cut, changed in one bit, or gone."""
    kill_in_training(process)
    process.running.wait(PATIENCE)
    steps = sorted(
        (p for p in (process.folder / "checkpoints" / STAGE).iterdir() if p.name.isdigit()), key=lambda p: int(p.name)
    )
    if len(steps) < 2:
        return
    files = sorted(p for p in steps[-1].rglob("*") if p.is_file() and p.stat().st_size)
    file = files[int(process.rng.integers(len(files)))]
    content, how = bytearray(file.read_bytes()), process.rng.integers(3)
    if how == 0:
        file.unlink()
        return
    if how == 1:
        content[int(process.rng.integers(len(content)))] ^= 1 << int(process.rng.integers(8))
    file.write_bytes(content if how == 1 else content[: len(content) // 2])


def nothing(process: Process) -> None:
    process.running.wait(PATIENCE)


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
      share: of all faults.
      strike: what is done to a process.
      codes: how the process may end; 0 where it was faster.
      limited: it may write no file beyond FILE_LIMIT.
      devices: it runs on another number of devices.
    """

    share: float
    strike: Callable[[Process], None]
    codes: tuple[int, ...]
    limited: bool = False
    devices: tuple[int, ...] = (1,)


FAULTS = {
    "kill at any instant": Fault(0.2, kill_anywhere, (-signal.SIGKILL, 0)),
    "kill in training": Fault(0.1, kill_in_training, (-signal.SIGKILL, 0)),
    "kill while saving": Fault(0.25, kill_in_saving, (-signal.SIGKILL, 0)),
    "SIGTERM": Fault(0.1, partial(signalled, signal.SIGTERM), (143, 0)),
    "Ctrl-C": Fault(0.05, partial(signalled, signal.SIGINT), (130, 0)),
    "checkpoint damaged after a kill": Fault(0.15, damage, (-signal.SIGKILL, 0)),
    "no file may grow (full disk)": Fault(0.1, nothing, (1, 2, 0), limited=True),
    "other devices, then SIGTERM": Fault(0.05, partial(signalled, signal.SIGTERM), (143, 0), devices=(2, 4)),
}


@dataclass
class Tally:
    """What happened to a kind of fault."""

    tried: int = 0
    survived: int = 0
    repeated: int = 0
    """Steps computed again, at most."""
    seconds: list[float] = field(default_factory=list)
    """From the start of the next process to its first step."""


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """Whole lines of a list of JSON that may be in the middle of being written."""
    file = folder / name
    text = file.read_bytes().decode(errors="replace") if file.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def start(data: Path, folder: Path, rng: np.random.Generator, fault: Fault | None) -> Process:
    """The command in a process of its own; its output goes to a log beside the run."""
    devices = int(rng.choice(fault.devices)) if fault else 1
    flags = f"--xla_force_host_platform_device_count={devices}"
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(data.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    program = "import sys; from launch.drills.faults import train; train(sys.argv[1:])"
    command = [sys.executable, "-c", program, *OPTIONS, "--workdir", str(folder), "--data.root", str(data)]
    with folder.with_suffix(".log").open("a") as log:
        running = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=data.parent,
            env={**os.environ, **cache, "XLA_FLAGS": flags, "PYTHONPATH": str(Path(__file__).parents[2])},
            preexec_fn=_limit_files if fault and fault.limited else None,
        )  # fmt: skip
    return Process(running, folder, rng)


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))


def train(arguments: list[str]) -> None:
    """`qwenvl train` with poisoned batches."""
    import launch.train as module
    from launch.main import main

    opened = module.opened

    def poisoned(run: Any, stage: Any, workdir: Path, first: int, window: tuple[int, int]) -> Iterator[Any]:
        for step, (batch, info) in enumerate(opened(run, stage, workdir, first, window), first):
            weights = batch.loss_weights
            if step in POISONED:
                weights = np.where(weights > 0, np.nan, weights).astype(weights.dtype)
            yield batch._replace(loss_weights=weights), info

    module.opened = poisoned  # type: ignore[assignment]
    sys.argv = ["qwenvl", "train", *arguments]
    main()


def parameters(folder: Path) -> dict[str, np.ndarray]:
    from qwenvl_jax.training.checkpoints import load_parameters

    return {path: np.asarray(array) for path, array in load_parameters(folder, STAGE, STEPS).items()}


def differences(folder: Path, reference: Path, exact: bool) -> list[str]:
    """How a run that has ended differs from the one without faults."""
    ours, theirs = (lines(f, "metrics.jsonl") for f in (folder, reference))
    found = []
    if [(x["step"], x["fingerprint"]) for x in ours] != [(x["step"], x["fingerprint"]) for x in theirs]:
        found.append("other batches")
    losses, expected = ([np.nan if x["loss"] is None else x["loss"] for x in run] for run in (ours, theirs))
    if exact and losses != expected and not np.array_equal(losses, expected, equal_nan=True):
        found.append("other losses")
    # Sums in another order, over 90 updates that Adam and Muon make independent of the gradients' scale.
    if not exact and not np.allclose(losses, expected, rtol=2e-3, equal_nan=True):
        found.append("losses beyond rounding")
    if lines(folder, "skipped.jsonl") != lines(reference, "skipped.jsonl"):
        found.append("other updates skipped")
    if exact:
        ours_last, theirs_last = parameters(folder), parameters(reference)
        found += [f"other {path}" for path, array in theirs_last.items() if not np.array_equal(ours_last[path], array)]
    return found


def one_run(
    data: Path, folder: Path, reference: Path, kinds: list[str], rng: np.random.Generator, tallies: dict[str, Tally]
) -> None:
    """A run with these faults, one in each process, then a process without; what is wrong with it is printed."""
    exact, complaints, survived, before = all(FAULTS[kind].devices == (1,) for kind in kinds), [], [], ""
    for kind in [*kinds, ""]:
        trained, began = len(lines(folder, "metrics.jsonl")), time.monotonic()
        process = start(data, folder, rng, FAULTS[kind] if kind else None)
        if before:
            first_step(process, began, trained, tallies[before])
        (FAULTS[kind].strike if kind else nothing)(process)
        code = process.running.wait(PATIENCE)
        if code not in (FAULTS[kind].codes if kind else (0,)):
            complaints.append(f"{kind or 'the last process'} ended with {code}")
        survived += [kind] if kind else []
        before = kind
        if code == 0 and kind:
            break  # faster than the fault: the run has ended
    complaints += differences(folder, reference, exact)
    for kind in survived:
        tallies[kind].tried += 1
        tallies[kind].survived += not complaints
    for complaint in complaints:
        print(f"{folder}: {complaint} ({', '.join(survived)})", flush=True)


def first_step(process: Process, began: float, trained: int, tally: Tally) -> None:
    """Notes the steps that are computed again, and the time until the process trains; waits for neither to be possible."""
    lowest = trained

    def going() -> bool:
        nonlocal lowest
        now = len(lines(process.folder, "metrics.jsonl"))
        lowest = min(lowest, now)
        return now > lowest

    if process.wait_until(going):
        tally.seconds.append(time.monotonic() - began)
        tally.repeated = max(tally.repeated, trained - lowest)


def main() -> None:
    """Prints the table, and ends with 1 where a fault was not survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/drill"))
    options = parser.parse_args()
    from data_pipelines.synthetic.world import make_world

    folder = options.folder.resolve()
    data = folder / "data"
    make_world(data, scenes=4, documents=4, chats=4, texts=3000, held_out=(2, 2, 2))
    rng = np.random.default_rng(options.seed)
    reference = folder / "reference"
    if process := start(data, reference, rng, None).running.wait(600):
        raise SystemExit(f"the run without faults ended with {process}; see {reference.with_suffix('.log')}")
    names, shares = list(FAULTS), np.array([fault.share for fault in FAULTS.values()])
    left = [str(kind) for kind in rng.choice(names, options.faults, p=shares / shares.sum())]
    tallies, number = {kind: Tally() for kind in names}, 0
    while left:
        kinds, left = left[:6], left[6:]
        one_run(data, folder / f"{number:03d}", reference, kinds, rng, tallies)
        number += 1
    print(
        "| fault | tried | survived | steps computed again, at most | seconds to the next step, median |\n"
        "|---|---|---|---|---|"
    )
    for kind, tally in tallies.items():
        median = f"{np.median(tally.seconds):.1f}" if tally.seconds else ""
        print(f"| {kind} | {tally.tried} | {tally.survived} | {tally.repeated} | {median} |")
    sys.exit(any(tally.survived < tally.tried for tally in tallies.values()))


if __name__ == "__main__":
    main()
