"""The training loop of one stage.

The order within a step is a contract: next batch, step, record, checkpoint. A checkpoint of step n therefore holds the
parameters that have seen exactly the batches 0..n-1, and the loader of a resumed run starts at batch n.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from qwenvl_jax.batch import Batch, joined_fingerprint
from qwenvl_jax.config import Run, Stage
from qwenvl_jax.models.parameters import Architecture, Parameters
from qwenvl_jax.parallel.memory import memory_limit
from qwenvl_jax.parallel.mesh import batch_shardings, own_rows, place
from qwenvl_jax.parallel.processes import gather, wait_for_all, writes
from qwenvl_jax.training.checkpoints import Checkpoints
from qwenvl_jax.training.compilation import (
    abstract_batch,
    abstract_state,
    check_batch,
    check_memory,
    compile_step,
    trace_step,
)
from qwenvl_jax.training.flops import peak_flops, step_flops
from qwenvl_jax.training.metrics import Counts, Meter, NoRecorder, Recorder
from qwenvl_jax.training.optimizer import ParameterTable, learning_rate, make_optimizer
from qwenvl_jax.training.skipped import Records, SkippedUpdates
from qwenvl_jax.training.step import TrainState
from qwenvl_jax.training.trace import Trace
from qwenvl_jax.training.watchdog import FIRST, Watchdog


class BatchInfo(Counts, Records, Protocol):
    """What the loader tells about the rows of a batch that this process counts."""

    @property
    def fingerprint(self) -> str:
        """Identifies the samples in them; see `joined_fingerprint`."""

    @property
    def windows(self) -> Sequence[Sequence[int]]:
        """Where they lie in their plans, as integers; a resumed loader is given those of all processes, so that it need
        not plan all before."""


Batches = Generator[tuple[Batch, BatchInfo], None, None]

NO_STEP_YET: Mapping[str, Any] = {"windows": [], "unlogged": [], "skipped_in_a_row": 0}
"""What a checkpoint tells about the loop beside its state, before the first one."""


def initial_state(
    run: Run, stage: Stage, architecture: Architecture, parameters: Parameters, mesh: Mesh
) -> tuple[TrainState, ParameterTable]:
    """The state at step 0 of a stage: masters in float32, frozen parameters in the compute type, a new optimizer.

    Raises:
      ValueError: the parameter table does not cover every parameter, or the mesh does not divide one, or the rows.
    """
    shapes, table = abstract_state(run, stage, architecture, mesh)
    trained, frozen = (
        {path: place(parameters[path].astype(leaf.dtype), leaf.sharding) for path, leaf in part.items()}
        for part in (shapes.trained, shapes.frozen)
    )
    optimizer = make_optimizer(run.optimizer, learning_rate(stage.schedule, stage.steps), table, architecture.shapes)
    moments = jax.jit(optimizer.init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes.optimizer))(trained)
    step = place(np.int32(0), shapes.step.sharding)
    return TrainState(step, trained, frozen, moments), table


def put_batch(batch: Batch, rows: int, mesh: Mesh) -> Batch:
    """The rows that this process has made of a global batch of so many, on its devices.

    It has made them whole, also where its devices hold a part of their positions.
    """
    return jax.tree.map(
        lambda x, sharding: jax.make_array_from_process_local_data(sharding, x, (rows, *x.shape[1:])),
        batch,
        batch_shardings(batch, mesh),
    )


def train_stage(
    run: Run,
    stage: Stage,
    architecture: Architecture,
    starting_point: Callable[[], Parameters],
    open_batches: Callable[[int, Sequence[Sequence[int]]], Batches],
    mesh: Mesh,
    workdir: Path,
) -> Parameters:
    """Trains one stage from its newest checkpoint, or from its starting point, to its last step.

    Args:
      starting_point: gives path -> array, where there is no checkpoint of the stage; used up: their memory may become the
        state's.
      open_batches: called with the first step to deliver and the `windows` of the batch before; yields this process's rows
        of each global batch.

    Returns:
      All parameters after the stage.

    Raises:
      Stopped: a signal asked to stop; the state is saved.
      ValueError: no checkpoint of the stage can be read. The parameter table, the mesh, the rows or the memory do not fit;
        see `initial_state`, `check_rows` and `check_memory`. A batch has other shapes than the step was compiled for; see
        `check_batch`. Too many updates in a row were skipped.
      OSError: the last checkpoint could not be written.
    """
    with closing(Checkpoints(workdir / "checkpoints" / stage.name, run.checkpoint.keep)) as checkpoints:
        shapes, table = abstract_state(run, stage, architecture, mesh)
        check_memory(shapes, stage, memory_limit(mesh.local_devices[0]))
        start, state, position = checkpoints.resume(shapes) or (
            0, initial_state(run, stage, architecture, starting_point(), mesh)[0], NO_STEP_YET
        )  # fmt: skip
        if start >= stage.steps:
            return {**state.trained, **state.frozen}
        accounting, expected = Accounting(run, stage, table), abstract_batch(run, stage, mesh)
        compiled, stop, watchdog = None, StopRequest(), Watchdog(workdir, run.hang_seconds)
        meter = Meter(counted_rows(stage.rows, mesh), run.precision.attention, position["unlogged"])
        with (
            closing(Recorder(workdir, stage.name, start, stage.steps) if writes() else NoRecorder()) as recorder,
            closing(skipped_updates(run, stage, workdir, start, position)) as skipped,
            closing(Trace(run, workdir, stage.name, start)) as trace,
            closing(open_batches(start, position["windows"])) as batches,
            stop,
            watchdog,
        ):
            for step in range(start + 1, stage.steps + 1):
                began = time.perf_counter()
                with watchdog.waits_for(f"batch {step} from the loader", 1 if compiled else FIRST):
                    host, info = next(batches)
                wait = time.perf_counter() - began
                batch = put_batch(host, stage.rows, mesh)
                check_batch(batch, expected)
                if compiled is None:
                    with watchdog.waits_for("the compiled step, in all processes", FIRST):
                        traced = trace_step(run, stage, architecture, table, state, batch, mesh)
                        compiled, wait, before = compile_step(traced, mesh), 0.0, None
                        wait_for_all(f"stage {stage.name} is compiled")
                    meter.restart_clock()
                with watchdog.waits_for(f"the devices to take step {step}"):
                    trace.begin(step, before)
                    state, metrics = compiled(state, batch)
                    jax.block_until_ready(before)  # the devices have the next step by now, and never wait
                    before = metrics
                    trace.end(step, metrics)
                meter.add(wait, host, info, metrics)
                skipped.add(step, metrics, info)
                stopped = stop.reached()  # read once: a signal after the saving must not end the loop
                logs = step == stage.steps or step % run.log_every == 0
                saves = stopped or step == stage.steps or step % run.checkpoint.every == 0
                if logs or saves:
                    with watchdog.waits_for(f"step {step} on the devices"):
                        fingerprint, windows = of_all_processes(info)
                        figures, unlogged = meter.figures(accounting.tasks), meter.unlogged()
                        skipped.settle()
                if logs:
                    recorder.write(step, accounting.complete(step, figures), fingerprint)
                    meter.reset()
                if saves:
                    position = {
                        "stage": stage.name, "fingerprint": fingerprint, "windows": windows,
                        "unlogged": [] if logs else unlogged, "skipped_in_a_row": skipped.in_a_row,
                    }  # fmt: skip
                    with watchdog.waits_for(f"the disk to take checkpoint {step}", FIRST):
                        checkpoints.save(step, state, position)
                checkpoints.poll()
                if stopped:
                    checkpoints.wait()
                    raise Stopped(stop.number)
            checkpoints.finish()
    return {**state.trained, **state.frozen}


def of_all_processes(info: BatchInfo) -> tuple[str, list[tuple[int, ...]]]:
    """The fingerprint of a global batch, and where its rows lie in their plans."""
    fingerprints, windows = zip(*gather((info.fingerprint, info.windows)))
    return joined_fingerprint(fingerprints), sorted({tuple(known) for part in windows for known in part})


def counted_rows(rows: int, mesh: Mesh) -> list[int]:
    """Which rows of its host batch this process counts."""
    own = own_rows(rows, mesh)
    return [own.made.index(row) for row in own.counted]


def skipped_updates(run: Run, stage: Stage, workdir: Path, start: int, position: Mapping[str, Any]) -> SkippedUpdates:
    """The stage's list of skipped updates, going on behind step `start`."""
    sources = tuple(component.source for component in stage.mixture)
    in_a_row = position["skipped_in_a_row"]
    return SkippedUpdates(workdir, stage.name, sources, start, run.optimizer.most_skipped, in_a_row)


class Accounting:
    """What is known of every step of a stage: learning rate and FLOPs; turns them into speed and MFU."""

    def __init__(self, run: Run, stage: Stage, table: ParameterTable):
        self.tasks = tuple(component.task for component in stage.mixture)
        self._schedule = learning_rate(stage.schedule, stage.steps)
        self._flops = lambda scores: step_flops(run.model, stage, table.trained, scores)
        self._peak = peak_flops()

    def complete(self, step: int, figures: dict[str, float]) -> dict[str, float]:
        """The figures of a line of metrics, with FLOPs by part, speed and MFU."""
        flops = self._flops(figures.get("vision_scores"))
        speed = sum(flops.values()) / figures["step_seconds"]
        return {
            **figures,
            "learning_rate": float(self._schedule(step - 1)),
            **{f"flops/{part}": count for part, count in flops.items()},
            "flops_per_second": speed,
            "mfu": speed / self._peak,
        }


class Stopped(KeyboardInterrupt):
    """A signal asked a stage to stop, and it is saved.

    Attributes:
      number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class StopRequest:
    """Within this context, the first SIGINT or SIGTERM asks the loop to save and end; a second SIGINT ends at once.

    Of several processes it is enough that one is asked: SIGTERM is left to JAX, whose coordinator tells all of them, and
    Ctrl-C is passed on as SIGTERM.

    Attributes:
      number: the signal that came; SIGTERM is what comes before a machine is taken away.
    """

    _calls = itertools.count(1)
    """JAX agrees on a call of `reached` as the last one, by its number; all processes make the same calls."""

    def __init__(self) -> None:
        self.number = 0
        self._several = jax.process_count() > 1
        self._previous: dict[int, Any] = {}

    def reached(self) -> bool:
        """Whether to stop after this step; all processes ask once a step and get the same answer."""
        if self._several and multihost_utils.reached_preemption_sync_point(next(self._calls)):
            self.number = signal.SIGTERM
            return True
        return self.number != 0 and not self._several

    def _ask(self, number: int, _: Any) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            handled = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)
            self._previous = {n: signal.signal(n, self._ask) for n in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
