"""From a run to its compiled step: the state, the batch and the jitted step, as arrays or as shapes alone.

`train` gives arrays and runs what it gets; `plan` gives shapes on the devices of a topology that it has not got, and
reads the compiler's report. Both go through the same functions.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from qwenvl_jax.batch import Batch, stage_batch
from qwenvl_jax.config import Run, Stage
from qwenvl_jax.models.attention import resolve_implementation
from qwenvl_jax.models.parameters import Architecture
from qwenvl_jax.parallel.memory import device_bytes, on_host
from qwenvl_jax.parallel.mesh import batch_shardings, check_context, check_rows, parameter_shardings, replicated
from qwenvl_jax.training.optimizer import ParameterTable, learning_rate, make_optimizer, resolve
from qwenvl_jax.training.step import TrainState, make_step

TPU_OPTIONS: Mapping[str, Any] = {
    # No matmul is cut into pieces that follow the pieces of a gathered weight: Qwen-7B on fsdp 16 x tensor 4 of v5p:4x4x4
    # takes 0.91 s a step instead of 1.23; plans without a tensor axis stay as they are.
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
    # Gathers of weights run beside matmuls.
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
    "xla_tpu_overlap_compute_collective_tc": True,
    "xla_enable_async_all_gather": True,
}
SPARSE_CORE: Mapping[str, Any] = {
    # The sparse cores reduce gradients beside the tensor core.
    "xla_tpu_enable_sparse_core_collective_offload_all_reduce": True,
    "xla_tpu_enable_all_reduce_offload_tracing": True,
}
COMPILER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    # device_kind -> options; none for other kinds
    "TPU v4": TPU_OPTIONS,
    "TPU v5 lite": TPU_OPTIONS,
    "TPU v5": {**TPU_OPTIONS, **SPARSE_CORE},
    "TPU v5p": {**TPU_OPTIONS, **SPARSE_CORE},
    "TPU v6 lite": TPU_OPTIONS,
}


def abstract_state(run: Run, stage: Stage, architecture: Architecture, mesh: Mesh) -> tuple[TrainState, ParameterTable]:
    """The state of a stage as shapes with shardings: masters in float32, frozen parameters in the compute type.

    Raises:
      ValueError: the parameter table does not cover every parameter, or the mesh does not divide one, or the rows, or what
        lies in them.
    """
    check_rows(stage.rows, stage.accumulation, mesh)
    check_context(run.model, stage, mesh)
    table = resolve(stage.parameters, architecture.shapes)
    shardings = parameter_shardings(architecture.axes, architecture.shapes, mesh)
    everywhere = replicated(mesh)

    def shape(path: str, dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(architecture.shapes[path].shape, dtype, sharding=shardings[path])

    def like_its_parameter(keys: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        path = next((key.key for key in keys if isinstance(key, jax.tree_util.DictKey)), None)
        if path is None:
            sharding = everywhere
        else:
            sharding = on_host(shardings[path]) if run.precision.offload_moments else shardings[path]
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    compute = jnp.dtype(run.precision.compute)
    trained: Any = {path: shape(path, jnp.dtype("float32")) for path in table.trained}
    frozen: Any = {path: shape(path, compute) for path in table.frozen}
    optimizer = make_optimizer(run.optimizer, learning_rate(stage.schedule, stage.steps), table, architecture.shapes)
    moments = jax.tree_util.tree_map_with_path(like_its_parameter, jax.eval_shape(optimizer.init, trained))
    step: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    return TrainState(step, trained, frozen, moments), table


def check_memory(state: TrainState, stage: Stage, limit: float) -> None:
    """Before anything is put on a device: what a stage holds all the time, and its gradients, must fit.

    Args:
      state: see `abstract_state`.
      limit: bytes of a device.

    Raises:
      ValueError: they do not; what the step needs beside them is not counted.
    """

    needed = device_bytes(state) + device_bytes(state.trained)
    if needed > limit:
        raise ValueError(
            f"stage {stage.name}: parameters, moments and gradients take {needed / 1e9:,.1f} GB on each device, which has "
            f"{limit / 1e9:,.1f}: share them among more devices with --mesh.fsdp or --mesh.tensor (qwenvl plan "
            "tells what a mesh needs)"
        )


def abstract_batch(run: Run, stage: Stage, mesh: Mesh) -> Batch:
    """A global batch of the stage as shapes with shardings."""
    one = stage_batch(run.model, stage, 1, 0)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct((stage.rows, *x.shape[1:]), x.dtype, sharding=sharding),
        one,
        batch_shardings(one, mesh),
    )


def check_batch(batch: Batch, compiled_for: Batch) -> None:
    """A stage has one step, compiled once: a batch that would need another one ends the run.

    Raises:
      ValueError: an array has another shape or type; names it.
    """
    for name, array, expected in zip(Batch._fields, batch, compiled_for):
        found, wanted = (None if x is None else (x.shape, str(x.dtype)) for x in (array, expected))
        if found != wanted:
            raise ValueError(
                f"batch.{name} is {_described(found)}, and the stage's step was compiled for {_described(wanted)}: it would "
                "have to be compiled again; every batch of a stage has the same shapes"
            )


def _described(array: tuple[tuple[int, ...], str] | None) -> str:
    return "not there" if array is None else f"{array[1]}{list(array[0])}"


def on_devices(run: Run, mesh: Mesh) -> Run:
    """The run with what it leaves to the kind of device decided: the implementation of attention."""
    attention = resolve_implementation(run.precision.attention, mesh.devices.flat[0].platform)
    return dataclasses.replace(run, precision=dataclasses.replace(run.precision, attention=attention))


def trace_step(
    run: Run,
    stage: Stage,
    architecture: Architecture,
    table: ParameterTable,
    state: TrainState,
    batch: Batch,
    mesh: Mesh,
) -> jax.stages.Traced:
    """The stage's one step, traced for these shapes and shardings; arrays or shapes alike."""
    optimizer = make_optimizer(run.optimizer, learning_rate(stage.schedule, stage.steps), table, architecture.shapes)
    step = make_step(architecture, run.precision, stage, optimizer, run.optimizer.skip_above)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    with jax.set_mesh(mesh):  # what the models' named activation axes are laid on
        return jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated(mesh))).trace(state, batch)


def compile_step(traced: jax.stages.Traced, mesh: Mesh) -> jax.stages.Compiled:
    """The executable, with the options of its kind of device."""
    with jax.set_mesh(mesh):
        options = COMPILER_OPTIONS.get(mesh.devices.flat[0].device_kind, {})
        return traced.lower().compile(compiler_options=dict(options))
