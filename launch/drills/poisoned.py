"""The program of a drill's processes: `qwenvl train` with batches whose losses are NaN, and with a loader that may hang.

python -m launch.drills.poisoned HANGS_AT RECIPE ...    # HANGS_AT: the batch that never comes, or -1
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import launch.train as module
from launch.main import main

POISONED = (6, 41)
"""Batches whose losses are NaN, in every run."""


def poison(hangs_at: int) -> None:
    """Puts the faults between the loader and the loop; the last process is the one whose loader hangs."""
    opened = module.opened

    def poisoned(run: Any, stage: Any, workdir: Any, mesh: Any, first: int, windows: Any) -> Iterator[Any]:
        for step, (batch, info) in enumerate(opened(run, stage, workdir, mesh, first, windows), first):
            if step == hangs_at and jax.process_index() == jax.process_count() - 1:
                time.sleep(1e6)
            weights = batch.loss_weights
            if step in POISONED:
                weights = np.where(weights > 0, np.nan, weights).astype(weights.dtype)
            yield batch._replace(loss_weights=weights), info

    module.opened = poisoned  # type: ignore[assignment]


if __name__ == "__main__":
    hangs_at, *arguments = sys.argv[1:]
    poison(int(hangs_at))
    sys.argv = ["qwenvl", "train", *arguments]
    main()
