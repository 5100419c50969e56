"""Faults against a small run: after each, the run must go on as if nothing had happened.

    python -m launch.drills.faults --faults 200 --folder runs/drill

Stage `language` of a small `tiny` is trained once without faults. Then runs are trained again and again with a fault each
time they are started: a run is started by the same command until it ends well, and must then have the batches, the losses,
the skipped updates and the parameters of the first one, bit by bit. Where the number of devices or processes changes, the
batches are the same and the losses are equal but for rounding. Two batches are poisoned in all runs, so that their updates
are skipped. The table is printed, and written beside the runs after each of them (`drill.md`, `drill.json`). The same
command goes on with a drill that was stopped.
"""

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from launch.drills.jobs import FILE_LIMIT, STEPS, Job, lines, start
from launch.drills.verdict import Tally, differences, done_before, write_table
from qwenvl_jax.parallel.processes import RESTART

IN_A_RUN = 6
"""Faults of one run; it has 90 steps for them."""


def kill_anywhere(job: Job) -> None:
    """At a random instant of its first ten seconds: imports, restoring, compiling, training."""
    until = time.monotonic() + job.rng.uniform(0, 10)
    if job.wait_until(lambda: time.monotonic() > until):
        job.send(signal.SIGKILL)


def signalled(number: int, job: Job) -> None:
    """At a random instant of training; of several processes, the last one."""
    if job.trains(int(job.rng.integers(1, 6))):
        time.sleep(job.rng.uniform(0, 0.6))
        job.send(number, process=-1)


def kill_in_saving(job: Job) -> None:
    for _ in range(int(job.rng.integers(1, 4))):
        if not (job.wait_until(lambda: job.saving) and job.wait_until(lambda: not job.saving)):
            return
    if job.wait_until(lambda: job.saving):
        time.sleep(job.rng.uniform(0, 0.03))
        job.send(signal.SIGKILL)


def damage(job: Job) -> None:
    """A kill, and then a file of the newest checkpoint cut, changed in one bit, or gone."""
    signalled(signal.SIGKILL, job)
    job.codes()
    saved = job.saved()
    if len(saved) < 2:
        return
    files = sorted(p for p in (job.checkpoints / str(saved[-1])).rglob("*") if p.is_file() and p.stat().st_size)
    file = files[int(job.rng.integers(len(files)))]
    content, how = bytearray(file.read_bytes()), job.rng.integers(3)
    if how == 0:
        file.unlink()
        return
    if how == 1:
        content[int(job.rng.integers(len(content)))] ^= 1 << int(job.rng.integers(8))
    file.write_bytes(content if how == 1 else content[: len(content) // 2])


def fill_the_disk(job: Job) -> None:
    """For some steps nothing can be written; then there is room again, and behind the next checkpoint the run is stopped."""
    if not job.trains(int(job.rng.integers(1, 6))):
        return
    told = job.log.read_text().count("could not be written")
    job.limit_files(FILE_LIMIT)
    if job.wait_until(lambda: job.log.read_text().count("could not be written") > told):
        before = job.saved()
        job.limit_files(-1)
        if job.wait_until(lambda: job.saved() != before):
            job.send(signal.SIGTERM)


def nothing(job: Job) -> None:
    """What happens is in how the job was started."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
      share: of all faults.
      strike: what is done to a job.
      codes: how its processes may end; 0 where they were faster.
      devices: numbers of devices of each process, one of which is drawn.
      processes: of the job.
      hangs: the loader of its last process delivers nothing from some step on.
    """

    share: float
    strike: Callable[[Job], None]
    codes: tuple[int, ...]
    devices: tuple[int, ...] = (1,)
    processes: int = 1
    hangs: bool = False

    @property
    def exact(self) -> bool:
        """Whether it leaves the order of all sums as it was."""
        return self.devices == (1,) and self.processes == 1


KILLED, TERMINATED, ABORTED = -signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGABRT
FAULTS: Mapping[str, Fault] = {
    "kill at any instant": Fault(0.15, kill_anywhere, (KILLED, 0)),
    "kill in training": Fault(0.08, partial(signalled, signal.SIGKILL), (KILLED, 0)),
    "kill while saving": Fault(0.25, kill_in_saving, (KILLED, 0)),
    "SIGTERM": Fault(0.08, partial(signalled, signal.SIGTERM), (TERMINATED, 0)),
    "Ctrl-C": Fault(0.04, partial(signalled, signal.SIGINT), (128 + signal.SIGINT, 0)),
    "checkpoint damaged after a kill": Fault(0.12, damage, (KILLED, 0)),
    "full disk for a while, then SIGTERM": Fault(0.08, fill_the_disk, (TERMINATED, 0)),
    "loader hangs": Fault(0.06, nothing, (RESTART, 0), hangs=True),
    "2 or 4 devices, then SIGTERM": Fault(0.04, partial(signalled, signal.SIGTERM), (TERMINATED, 0), devices=(2, 4)),
    "2 processes, SIGTERM to one": Fault(0.04, partial(signalled, signal.SIGTERM), (TERMINATED, 0), processes=2),
    # JAX may notice the loss first, and aborts.
    "2 processes, one killed": Fault(
        0.04, partial(signalled, signal.SIGKILL), (KILLED, RESTART, ABORTED, 0), processes=2
    ),
    "2 processes, one loader hangs": Fault(0.02, nothing, (RESTART, ABORTED, 0), processes=2, hangs=True),
}
NO_FAULT = Fault(0, nothing, (0,))


def begin(data: Path, folder: Path, rng: np.random.Generator, fault: Fault) -> Job:
    """Starts a run, or goes on with it, as the fault wants it."""
    first = len(lines(folder, "metrics.jsonl"))
    hangs_at = min(first + int(rng.integers(1, 9)), STEPS - 1) if fault.hangs else None
    return start(data, folder, rng, fault.processes, int(rng.choice(fault.devices)), hangs_at)


def one_run(
    data: Path, folder: Path, reference: Path, kinds: list[str], rng: np.random.Generator, tallies: Mapping[str, Tally]
) -> None:
    """A run with these faults, one each time it is started, then without; what is wrong with it is printed."""
    complaints, struck, before = [], [], ""
    for kind in [*kinds, ""]:
        fault = FAULTS[kind] if kind else NO_FAULT
        trained, began = len(lines(folder, "metrics.jsonl")), time.monotonic()
        job = begin(data, folder, rng, fault)
        if before:
            first_step(job, began, trained, tallies[before])
        with suppress(TimeoutError):  # then its code is HANGING
            fault.strike(job)
        codes = job.codes()
        if not set(codes) <= set(fault.codes):
            complaints.append(f"{kind or 'the last process'} ended with {codes}")
        struck += [kind] if kind else []
        before = kind
        if kind and set(codes) == {0}:
            break  # faster than the fault: the run has ended
    complaints += differences(folder, reference, all(FAULTS[kind].exact for kind in struck))
    for kind in struck:
        tallies[kind].tried += 1
        tallies[kind].survived += not complaints
    for complaint in complaints:
        print(f"{folder}: {complaint} ({', '.join(struck)})", flush=True)


def first_step(job: Job, began: float, trained: int, tally: Tally) -> None:
    """Notes the steps that are computed again, and the time until the run trains a new one; neither where it ends before."""
    lowest = trained

    def going() -> bool:
        nonlocal lowest
        now = len(lines(job.folder, "metrics.jsonl"))
        lowest = min(lowest, now)
        return now > lowest

    with suppress(TimeoutError):
        if job.wait_until(going):
            tally.seconds.append(round(time.monotonic() - began, 1))
            tally.lost_steps = max(tally.lost_steps, trained - lowest)


def drill(folder: Path, kinds: list[str], seed: int, enough: int) -> dict[str, Tally]:
    """Trains the run without faults, then runs with these kinds of faults in turn, until `enough` have struck; writes the
    table after each. A drill that was stopped goes on behind its last run that has ended.

    Raises:
      RuntimeError: the run without faults does not end well.
      ValueError: the folder holds a drill of other faults.
    """
    from data_pipelines.synthetic.world import make_world

    plan = {"seed": seed, "steps": STEPS, "kinds": kinds}
    done, known = done_before(folder, plan)
    tallies = {kind: Tally() for kind in FAULTS} | known
    data, reference = folder / "data", folder / "reference"
    make_world(data, scenes=4, documents=4, chats=4, texts=3000, held_out=(2, 2, 2), workers=1)
    codes = start(data, reference, np.random.default_rng(seed)).codes()
    if codes != [0]:
        raise RuntimeError(f"the run without faults ended with {codes}; see {reference.with_suffix('.log')}")
    runs = [kinds[first : first + IN_A_RUN] for first in range(0, len(kinds), IN_A_RUN)]
    for number, faults in enumerate(runs[done:], done):
        if sum(tally.tried for tally in tallies.values()) >= enough:
            break
        rng, run = np.random.default_rng((seed, number)), folder / f"{number:03d}"  # so that one can be looked at again
        shutil.rmtree(run, ignore_errors=True)  # of a drill that was stopped
        run.with_suffix(".log").unlink(missing_ok=True)
        one_run(data, run, reference, faults, rng, tallies)
        write_table(folder, tallies, plan, number + 1)
    return tallies


def main() -> None:
    """Prints the table, and ends with 1 where a fault was not survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/drill"))
    options = parser.parse_args()
    shares = np.array([fault.share for fault in FAULTS.values()])
    # More than are asked for: a run that ends before a fault has struck leaves out those behind it.
    drawn = np.random.default_rng(options.seed).choice(list(FAULTS), 2 * options.faults, p=shares / shares.sum())
    tallies = drill(options.folder.resolve(), [str(kind) for kind in drawn], options.seed, options.faults)
    print((options.folder / "drill.md").read_text())
    sys.exit(any(tally.survived < tally.tried for tally in tallies.values()))


if __name__ == "__main__":
    main()
