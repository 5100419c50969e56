"""What saving takes from a run: the step time behind each checkpoint against that of the steps around it, and host memory.

    python -m launch.benchmarks.saving runs/tiny
    python -m launch.benchmarks.saving --memory 1.6

The first reads `metrics.jsonl`. A checkpoint is saved in threads while the next steps are trained; what they take of the
machine shows in the line of metrics behind the saved step. Its step time is set against the median of the lines beside it.
The second saves made arrays of so many GB and watches the memory of the process.
"""

import argparse
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from qwenvl_jax.config_json import from_json
from qwenvl_jax.training.checkpoints import Checkpoints
from qwenvl_jax.training.json_lines import read_lines
from qwenvl_jax.training.step import TrainState

BESIDE = 6
"""Lines on each side that the median is taken over."""


class SavingCost(NamedTuple):
    """Of a stage: checkpoints whose cost was seen, seconds of a step without one, seconds that each took (mean and
    largest), and the share of all time."""

    checkpoints: int
    step_seconds: float
    mean_seconds: float
    most_seconds: float
    share: float


def saving_cost(lines: Sequence[Mapping[str, Any]], every: int) -> SavingCost | None:
    """The cost of a checkpoint after every `every` steps, from the lines of one stage; None where there is none to see."""
    steps = np.array([line["step"] for line in lines])
    seconds = np.array([line["step_seconds"] for line in lines])
    lengths = np.diff(steps, prepend=0)
    # The line in which a checkpoint is saved behind its last step is followed by the one that pays for it.
    pays = [i for i in range(2, len(steps)) if steps[i - 1] % every == 0]
    if not pays or len(pays) > len(steps) // 2:
        return None
    beside = [[k for k in range(max(1, i - BESIDE), min(len(steps), i + BESIDE + 1)) if k not in pays] for i in pays]
    quiet = np.array([np.median(seconds[lines_beside]) for lines_beside in beside])
    extra = (seconds[pays] - quiet) * lengths[pays]
    share = float(extra.mean() / (every * np.median(quiet)))
    return SavingCost(len(pays), float(np.median(quiet)), float(extra.mean()), float(extra.max()), share)


SAMPLED_EVERY = 0.005
"""Seconds between two looks at the memory."""


def copies_in_memory(folder: Path, gigabytes: float) -> float:
    """The most memory that saving a state of that size takes on the host, in sizes of the state; saved below `folder`."""
    layers = max(1, round(gigabytes * 1e9 / 2 / (4 << 20)))
    keys = jax.random.split(jax.random.key(0), layers)
    trained = {f"language/blocks/{i}/kernel": jax.random.normal(key, (1024, 1024)) for i, key in enumerate(keys)}
    state = jax.block_until_ready(TrainState(jnp.int32(1), trained, {}, {"moments": jax.tree.map(jnp.copy, trained)}))
    process, done = psutil.Process(), threading.Event()
    with closing(Checkpoints(folder, keep=1)) as checkpoints:
        # The first save loads what Orbax needs, and compiles the checksums.
        checkpoints.save(0, state, {})
        checkpoints.wait()
        before = most = process.memory_info().rss

        def watch() -> None:
            nonlocal most
            while not done.wait(SAMPLED_EVERY):
                most = max(most, process.memory_info().rss)

        watching = threading.Thread(target=watch)
        watching.start()
        checkpoints.save(1, state, {})
        checkpoints.wait()
        done.set()
        watching.join()
    return (most - before) / sum(x.nbytes for x in jax.tree.leaves(state))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("run", type=Path, nargs="?")
    asked.add_argument("--memory", type=float, metavar="GB")
    options = parser.parse_args()
    if options.memory:
        with tempfile.TemporaryDirectory() as folder:
            copies = copies_in_memory(Path(folder), options.memory)
        print(f"saving {options.memory} GB takes {copies:.2f} times as much memory more, at most")
        return
    print_cost(options.run)


def print_cost(folder: Path) -> None:
    """Prints the table of a run."""
    every = from_json((folder / "config.json").read_text()).checkpoint.every
    lines = read_lines(folder / "metrics.jsonl")
    print(f"a checkpoint every {every} steps\n")
    print("| stage | checkpoints | ms a step | seconds a checkpoint: mean | most | share of the time |")
    print("|---|---|---|---|---|---|")
    for stage in dict.fromkeys(line["stage"] for line in lines):
        if found := saving_cost([line for line in lines if line["stage"] == stage], every):
            print(
                f"| {stage} | {found.checkpoints} | {1000 * found.step_seconds:.0f} | {found.mean_seconds:.2f} | "
                f"{found.most_seconds:.2f} | {found.share:.2%} |"
            )


if __name__ == "__main__":
    main()
