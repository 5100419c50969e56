"""The training loop of one stage.

The order within a step is a contract: next batch, step, record, checkpoint. A checkpoint of step n therefore holds the
parameters that have seen exactly the batches 0..n-1, and the loader of a resumed run starts at batch n.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from qwenvl_jax.batch import Batch
from qwenvl_jax.config import Run, Stage
from qwenvl_jax.models.parameters import Architecture, Parameters
from qwenvl_jax.parallel.mesh import batch_sharding, parameter_shardings, replicated
from qwenvl_jax.training.checkpoints import Checkpoints
from qwenvl_jax.training.flops import peak_flops, step_flops
from qwenvl_jax.training.metrics import Meter, Recorder
from qwenvl_jax.training.optimizer import ParameterTable, learning_rate, make_optimizer, resolve
from qwenvl_jax.training.step import TrainState, make_step


class BatchInfo(Protocol):
    """What the loader tells about a batch beside its arrays."""

    fingerprint: str


Batches = Iterator[tuple[Batch, Any]]


def initial_state(
    run: Run, stage: Stage, architecture: Architecture, parameters: Parameters, mesh: Mesh
) -> tuple[TrainState, ParameterTable]:
    """The state at step 0 of a stage: masters in float32, frozen parameters in the compute type, a new optimizer.

    Raises:
      ValueError: the parameter table does not cover every parameter, or the mesh does not divide one.
    """
    table = resolve(stage.parameters, architecture.shapes)
    shardings = parameter_shardings(architecture.axes, architecture.shapes, mesh)
    optimizer = make_optimizer(run.optimizer, learning_rate(stage.schedule, stage.steps), table, architecture.shapes)
    compute = jnp.dtype(run.precision.compute)
    trained = {p: jax.device_put(parameters[p].astype(jnp.float32), shardings[p]) for p in table.trained}
    frozen = {p: jax.device_put(parameters[p].astype(compute), shardings[p]) for p in table.frozen}
    state = TrainState(jnp.int32(0), trained, frozen, optimizer.init(trained))
    everywhere = replicated(mesh)

    def place(leaf: jax.Array) -> jax.Array:
        return leaf if leaf.ndim else jax.device_put(leaf, everywhere)

    return jax.tree.map(place, state), table


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """This process's rows of the global batch, on its devices."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def compile_step(
    run: Run, stage: Stage, architecture: Architecture, table: ParameterTable, state: TrainState, batch: Batch
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The stage's one compiled step. An executable cannot recompile: other shapes or types raise a TypeError."""
    optimizer = make_optimizer(run.optimizer, learning_rate(stage.schedule, stage.steps), table, architecture.shapes)
    step = make_step(architecture, run.precision, stage, optimizer)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)).lower(state, batch).compile()


def train_stage(
    run: Run,
    stage: Stage,
    architecture: Architecture,
    parameters: Parameters,
    open_batches: Callable[[int], Batches],
    mesh: Mesh,
    workdir: Path,
) -> Parameters:
    """Trains one stage from its newest checkpoint, or from `parameters`, to its last step.

    Args:
      open_batches: called with the first step to deliver; yields this process's rows of each global batch.

    Returns:
      All parameters after the stage.
    """
    checkpoints = Checkpoints(workdir / "checkpoints" / stage.name, run.checkpoint.keep)
    state, table = initial_state(run, stage, architecture, parameters, mesh)
    start, fingerprint = checkpoints.latest() or 0, ""
    if start:
        state, position = checkpoints.restore(start, state)
        fingerprint = position["fingerprint"]
    if start < stage.steps:
        schedule = learning_rate(stage.schedule, stage.steps)
        flops = step_flops(run.model, stage, table.trained)
        peak, tasks = peak_flops(), tuple(component.task for component in stage.mixture)
        recorder, meter = Recorder(workdir, stage.name, start, stage.steps, tasks), Meter()
        batches, step, compiled = open_batches(start), start, None
        try:
            while step < stage.steps:
                began = time.perf_counter()
                host, info = next(batches)
                wait, fingerprint = time.perf_counter() - began, info.fingerprint
                batch = put_batch(host, mesh)
                if compiled is None:
                    compiled = compile_step(run, stage, architecture, table, state, batch)
                    meter.reset()
                state, metrics = compiled(state, batch)
                meter.add(wait, host.segment_ids, metrics)
                step += 1
                if step % run.log_every == 0 or step == stage.steps:
                    figures = meter.figures(tasks)
                    speed = sum(flops.values()) / figures["step_seconds"]
                    figures |= {f"flops/{part}": count for part, count in flops.items()}
                    figures |= {"learning_rate": float(schedule(step - 1)), "flops_per_second": speed, "mfu": speed / peak}
                    recorder.write(step, figures)
                    recorder.show(step, figures["loss"], figures["samples_per_second"])
                    meter.reset()
                if step % run.checkpoint.every == 0 or step == stage.steps:
                    checkpoints.save(step, state, {"step": step, "stage": stage.name, "fingerprint": fingerprint})
        except KeyboardInterrupt:
            checkpoints.save(step, state, {"step": step, "stage": stage.name, "fingerprint": fingerprint})
            raise
        finally:
            recorder.close()
            checkpoints.wait()
    checkpoints.close()
    return {**state.trained, **state.frozen}
