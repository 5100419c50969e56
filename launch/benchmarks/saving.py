"""What saving takes from a run: the step time behind each checkpoint against that of the steps around it.

    python -m launch.benchmarks.saving runs/tiny

Reads `metrics.jsonl`. A checkpoint is saved in threads while the next steps are trained; what they take of the machine
shows in the line of metrics behind the saved step. Its step time is set against the median of the lines beside it.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qwenvl_jax.config_json import from_json
from qwenvl_jax.training.json_lines import read_lines

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


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    folder = parser.parse_args().run
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
