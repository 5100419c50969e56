"""The training loop of one stage.

The order within a step is a contract: next batch, step, record, checkpoint. A checkpoint of step n therefore holds the
parameters that have seen exactly the batches 0..n-1, and the loader of a resumed run starts at batch n.
"""

import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from qwenvl_jax.batch import Batch
from qwenvl_jax.config import Run, Stage
from qwenvl_jax.models.parameters import Architecture, Parameters
from qwenvl_jax.parallel.mesh import batch_sharding
from qwenvl_jax.training.checkpoints import Checkpoints
from qwenvl_jax.training.compilation import abstract_batch, abstract_state, check_batch, compile_step, trace_step
from qwenvl_jax.training.flops import peak_flops, step_flops
from qwenvl_jax.training.metrics import Meter, Recorder, patch_figures
from qwenvl_jax.training.optimizer import ParameterTable, learning_rate, make_optimizer
from qwenvl_jax.training.skipped import SkippedUpdates
from qwenvl_jax.training.step import TrainState


class BatchInfo(Protocol):
    """What the loader tells about a batch beside its arrays."""

    @property
    def fingerprint(self) -> str:
        """Identifies the samples in the batch."""

    @property
    def replaced(self) -> int:
        """Samples that could not be read and were replaced."""

    @property
    def dropped(self) -> int:
        """Samples that could not be read and for which nothing fitted."""

    @property
    def records(self) -> Sequence[tuple[int, int]]:
        """Component and record of every sample."""

    @property
    def window(self) -> tuple[int, int]:
        """Where the batch lies in its plan; given back to a resumed run's loader, so that it need not plan all before."""


Batches = Generator[tuple[Batch, BatchInfo], None, None]


def initial_state(
    run: Run, stage: Stage, architecture: Architecture, parameters: Parameters, mesh: Mesh
) -> tuple[TrainState, ParameterTable]:
    """The state at step 0 of a stage: masters in float32, frozen parameters in the compute type, a new optimizer.

    Raises:
      ValueError: the parameter table does not cover every parameter, or the mesh does not divide one, or the rows.
    """
    shapes, table = abstract_state(run, stage, architecture, mesh)
    trained, frozen = (
        {path: jax.device_put(parameters[path].astype(leaf.dtype), leaf.sharding) for path, leaf in part.items()}
        for part in (shapes.trained, shapes.frozen)
    )
    optimizer = make_optimizer(run.optimizer, learning_rate(stage.schedule, stage.steps), table, architecture.shapes)
    moments = jax.tree.map(
        lambda leaf, like: jax.device_put(leaf, like.sharding), optimizer.init(trained), shapes.optimizer
    )
    step = jax.device_put(jnp.int32(0), shapes.step.sharding)
    return TrainState(step, trained, frozen, moments), table


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """This process's rows of the global batch, on its devices."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def train_stage(
    run: Run,
    stage: Stage,
    architecture: Architecture,
    parameters: Parameters,
    open_batches: Callable[[int, tuple[int, int]], Batches],
    mesh: Mesh,
    workdir: Path,
) -> Parameters:
    """Trains one stage from its newest checkpoint, or from `parameters`, to its last step.

    Args:
      parameters: path -> array; used up: their memory may become the state's.
      open_batches: called with the first step to deliver and the `window` of the batch before; yields this process's rows of
        each global batch.

    Returns:
      All parameters after the stage.

    Raises:
      Stopped: a signal asked to stop; the state is saved.
      ValueError: no checkpoint of the stage can be read. The parameter table, the mesh or the rows do not fit; see
        `initial_state` and `check_rows`. A batch has other shapes than the step was compiled for; see `check_batch`. Too
        many updates in a row were skipped.
    """
    with closing(Checkpoints(workdir / "checkpoints" / stage.name, run.checkpoint.keep)) as checkpoints:
        shapes, table = abstract_state(run, stage, architecture, mesh)
        if found := checkpoints.resume(shapes):
            start, state, position = found
        else:
            start, position = 0, {"window": (0, 0), "unlogged": [], "skipped_in_a_row": 0}
            state, _ = initial_state(run, stage, architecture, parameters, mesh)
        if start < stage.steps:
            accounting, expected = Accounting(run, stage, table), abstract_batch(run, stage, mesh)
            with closing(Recorder(workdir, stage.name, start, stage.steps)) as recorder:
                compiled, meter, stop = None, Meter(position["unlogged"]), StopRequest()
                skipped = skipped_updates(run, stage, workdir, start, position)
                with closing(open_batches(start, position["window"])) as batches, stop:
                    for step in range(start + 1, stage.steps + 1):
                        began = time.perf_counter()
                        host, info = next(batches)
                        wait = time.perf_counter() - began
                        batch = put_batch(host, mesh)
                        check_batch(batch, expected)
                        if compiled is None:
                            traced = trace_step(run, stage, architecture, table, state, batch, mesh)
                            compiled, wait = compile_step(traced, mesh), 0.0
                            meter.restart_clock()
                        state, metrics = compiled(state, batch)
                        bad = {"replaced": info.replaced, "dropped": info.dropped}
                        meter.add(wait, host.segment_ids, {**metrics, **bad, **patch_figures(host)})
                        skipped.add(step, metrics, info)
                        stopped = stop.requested  # read once: a signal after the saving must not end the loop
                        if step == stage.steps or step % run.log_every == 0:
                            recorder.write(step, accounting.complete(step, meter.figures(accounting.tasks)), info)
                            skipped.settle()
                            meter.reset()
                        if stopped or step == stage.steps or step % run.checkpoint.every == 0:
                            skipped.settle()
                            position = {"stage": stage.name, "fingerprint": info.fingerprint, "window": info.window}
                            position |= {"unlogged": meter.unlogged(), "skipped_in_a_row": skipped.in_a_row}
                            checkpoints.save(step, state, position)
                        if stopped:
                            break
                if stop.requested:
                    checkpoints.wait()
                    raise Stopped(stop.number)
    return {**state.trained, **state.frozen}


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
        flops = self._flops(figures["vision_scores"] * jax.process_count() if "vision_scores" in figures else None)
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

    Attributes:
      requested: whether one came.
      number: which; SIGTERM is what comes before a machine is taken away.
    """

    def __init__(self) -> None:
        self.requested, self.number = False, 0
        self._previous: dict[int, Any] = {}

    def _ask(self, number: int, _: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.number = True, number

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {n: signal.signal(n, self._ask) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
