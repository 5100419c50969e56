"""One of several processes that train the small model, for `test_processes`: a program with one argument, JSON.

    {"coordinator": HOST:PORT, "count": N, "index": I, "runs": [{"workdir": ..., "mesh": [d, f, t, c], ...}, ...]}

Each run trains in its folder as far as `until`; see `train` for what else may happen to it. Ends as `qwenvl train` does.
"""

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from small_model import CONFIG, PRECISION, TRAIN_ALL, random_batch, random_parameters, small_run, small_stage

from launch import main
from qwenvl_jax.config import CheckpointConfig, MeshConfig, OptimizerConfig
from qwenvl_jax.models.parameters import build
from qwenvl_jax.parallel.mesh import make_mesh, own_rows
from qwenvl_jax.parallel.processes import own_log, start_processes
from qwenvl_jax.training import loop
from qwenvl_jax.training.loop import Stopped, train_stage

STEPS = 9
NAN_STEP = 2
"""The batch whose loss is not finite."""


class Info:
    """Of the rows that are counted: each has one record, its number in the stream, which is its fingerprint too."""

    def __init__(self, step: int, rows: list[int]) -> None:
        self.replaced, self.dropped, self.windows = len(rows), 0, [(row, 0, 0) for row in rows]
        self.records = tuple((0, 8 * step + row) for row in rows)
        self.fingerprint = f"{sum(hash((record, 1)) % 2**61 for _, record in self.records) % 2**64:016x}"


def batches(mesh, start: int, until: int, strike):
    """This process's rows of the batches from `start` on; asks for a stop, as SIGTERM does, in batch `until`."""
    made, counted = own_rows(8, mesh)
    for step in range(start, STEPS):
        strike(step)
        if step == until:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.5 if jax.process_count() > 1 else 0)  # JAX looks for the notice once a second
        batch = random_batch(step)
        if step == NAN_STEP:
            batch = batch._replace(loss_weights=np.where(batch.loss_weights > 0, np.nan, 0).astype(np.float32))
        yield jax.tree.map(lambda array: array[list(made)], batch), Info(step, list(counted))


def train(workdir: Path, mesh: tuple[int, ...], until: int | None = None, strike=lambda step: None, **fields):
    """The stage on the first devices; `strike(step)` is called before a batch is made."""
    stage = small_stage(name="sft", steps=STEPS, parameters=TRAIN_ALL)
    every = {
        "checkpoint": CheckpointConfig(every=3, keep=2),
        "log_every": 2,
        "optimizer": OptimizerConfig(most_skipped=3),
    }
    run = small_run(stage, **every, **fields)
    architecture = build(CONFIG, PRECISION)
    devices = make_mesh(MeshConfig(*mesh), jax.devices()[: int(np.prod(mesh))])
    stream = lambda start, windows: batches(devices, start, until if jax.process_index() == 0 else None, strike)  # noqa: E731
    return train_stage(run, stage, architecture, partial(random_parameters, architecture), stream, devices, workdir)


FAULTS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hung": lambda: time.sleep(1000),
}


def fault_of(name: str, step: int, index: int):
    """The fault strikes process `index` before it makes the batch of a step."""

    def strike(now: int) -> None:
        if (now, jax.process_index()) == (step, index):
            FAULTS[name]()

    return strike


def all_runs(arguments: list[str]) -> None:
    given = json.loads(arguments[0])
    loop.peak_flops = lambda: 1e12
    start_processes(given["coordinator"], given["count"], given["index"], given.get("lost_after", 100))
    for run in given["runs"]:
        workdir = Path(run.pop("workdir"))
        if fault := run.pop("fault", None):
            run["strike"] = fault_of(*fault)
        with own_log(workdir):
            print(f"here is process {jax.process_index()}", flush=True)
            try:
                train(workdir, **run)
            except Stopped:
                if "until" not in run:
                    raise


if __name__ == "__main__":
    main.VERBS["train"] = ("process_worker", "all_runs", "")
    sys.modules["process_worker"] = sys.modules["__main__"]
    sys.argv = ["qwenvl", "train", *sys.argv[1:]]
    main.main()
