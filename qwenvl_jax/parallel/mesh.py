"""The mesh of devices, and where every array lies on it.

`RULES` is the one table from logical axes (named by the models) to mesh axes. An axis that does not divide, or a mesh
axis that would be used twice in one array, raises one sentence.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qwenvl_jax.batch import Batch, OwnRows
from qwenvl_jax.config import MeshConfig, ModelConfig, Qwen2VLConfig, Stage

AXES = ("data", "fsdp", "context", "tensor")
"""From the slowest network to the fastest: what `context` exchanges (the positions of a layer's queries, keys and values for
heads) is less than what `tensor` does (the whole stream, four times a layer), and waits as `tensor` does, unlike the gathers
of `fsdp`."""
BATCH_AXES = ("data", "fsdp")
"""Rows of a batch are split over both: fsdp is data parallelism whose parameters are sharded too."""
PARAMETER_AXES = ("context", "fsdp")
"""The width of every matrix is split over both. Devices of one `context` group need the same weights, and gathering from
more of them moves the same bytes; a copy on each would cost 12 bytes a parameter, of masters and moments."""

RULES: Mapping[str, tuple[str, ...]] = {
    # logical axis -> mesh axes
    "embed": PARAMETER_AXES,
    "embed_out": (),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head": (),
    "mlp": ("tensor",),
    # Of a ViT's last matrix, whose width (1,664 or 1,280) gives a device of 64 too few columns for a register: laying the
    # gathered matrices out anew took 43 ms of a step of `qwen-vl` on a v5p.
    "mlp_rows": ("tensor", *PARAMETER_AXES),
    "vocab": ("tensor",),
    "vision": (),
    "patch": (),
    "position": (),
    "layers": (),
}

POSITIONS: Mapping[str, int] = {
    # field of a batch -> its axis of tokens or patches, which is split over context; images stay whole
    "tokens": 1,
    "targets": 1,
    "loss_weights": 1,
    "segment_ids": 1,
    "positions": -1,
    "vision_index": 1,
    "task_ids": 1,
    "patches": 1,
    "patch_positions": 1,
    "patch_segments": 1,
}


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices.

    Raises:
      ValueError: the sizes do not multiply to the number of devices; names sizes that do.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, axis) for axis in AXES]
    known = math.prod(size for size in sizes if size != -1)
    valid = all(size > 0 or size == -1 for size in sizes) and sizes.count(-1) <= 1
    if not valid or len(devices) % known or (-1 not in sizes and known != len(devices)):
        described = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes))
        raise ValueError(
            f"mesh {described} does not cover {len(devices)} devices: take sizes of {_divisors(len(devices))} that "
            "multiply to it; one may be -1 for what remains"
        )
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    return Mesh(_arranged(devices, sizes), AXES)


def _arranged(devices: list[jax.Device], sizes: list[int]) -> np.ndarray:
    """Neighbours on the mesh are neighbours on the network of a TPU; several slices lie along `data`.

    Raises:
      ValueError: the slices do not divide mesh.data.
    """
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(sizes)
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    data, *inner = sizes
    if data % slices:
        raise ValueError(f"mesh.data={data} does not divide over {slices} slices: make it a multiple of {slices}")
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, *inner), (slices, *[1] * len(inner)), devices, allow_split_physical_axes=True
    )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _multiples(number: int, unit: int) -> str:
    """Those of the unit next to a number that is none."""
    below = number - number % unit
    return ", ".join(str(n) for n in (below, below + unit) if n)


def _parts(mesh: Mesh | jax.sharding.AbstractMesh, axes: tuple[str, ...]) -> int:
    """Over how many devices these axes split."""
    return math.prod(mesh.shape[axis] for axis in axes)


def parameter_spec(
    path: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh | jax.sharding.AbstractMesh
) -> PartitionSpec:
    """Where one parameter lies.

    Vectors (norm scales, biases of the width) stay replicated: their gather would cost more than their bytes.

    Raises:
      ValueError: an axis has no rule, does not divide, or two axes want the same mesh axis.
    """
    unknown = [axis for axis in axes if axis not in RULES]
    if unknown:
        raise ValueError(f"{path}: logical axis {unknown[0]!r} has no rule in qwenvl_jax.parallel.mesh.RULES")
    matrix = sum(axis != "layers" for axis in axes) > 1
    spec = [RULES[axis] if matrix else () for axis in axes]
    used = [name for names in spec for name in names]
    if len(set(used)) != len(used):
        raise ValueError(f"{path}: axes {axes} put two dimensions on one mesh axis ({used}); change RULES")
    for axis, names, size in zip(axes, spec, shape):
        if size % (parts := _parts(mesh, names)):
            fitting = [n for n in _divisors(size) if n <= mesh.size]
            described = " x ".join(f"mesh.{name}" for name in names)
            raise ValueError(
                f"{path}: {axis}={size} does not divide over {described}={parts}; sizes that work: {fitting}"
            )
    return PartitionSpec(*(names or None for names in spec))


def check_rows(rows: int, accumulation: int, mesh: Mesh) -> None:
    """Every slice of a global batch must give each data shard the same number of rows.

    Raises:
      ValueError: it does not; names the next numbers of rows that do.
    """
    shards = _parts(mesh, BATCH_AXES)
    if rows % (shards * accumulation):
        raise ValueError(
            f"rows={rows} do not divide over {shards} data shards (mesh.data x mesh.fsdp) x accumulation={accumulation}; "
            f"rows that work: {_multiples(rows, shards * accumulation)}"
        )


def check_context(model: ModelConfig, stage: Stage, mesh: Mesh) -> None:
    """Over `context`, tokens and patches of a row must divide, and in attention the heads of all parts of the model.

    The patches of a vision token must lie on one device. Heads of keys and values need not divide; see `models.attention`.

    Raises:
      ValueError: something does not divide; names the sizes that do.
    """
    context, tensor = mesh.shape["context"], mesh.shape["tensor"]
    if context == 1:
        return
    merged = model.vision.merge**2 if isinstance(model, Qwen2VLConfig) else 1
    for field, unit in (("sequence_length", context), ("patches_per_row", context * merged)):
        if (size := getattr(stage, field)) % unit:
            within = f" in groups of {merged}" if unit > context else ""
            raise ValueError(
                f"stage {stage.name}: {field}={size} does not divide{within} over mesh.context={context}; sizes that work: "
                f"{_multiples(size, unit)}"
            )
    for name, part in vars(model).items():
        if part.heads % (context * tensor):
            raise ValueError(
                f"{name}: heads={part.heads} do not divide over mesh.context={context} x mesh.tensor={tensor}; products "
                f"that work: {_divisors(part.heads)}"
            )


def own_rows(rows: int, mesh: Mesh) -> OwnRows:
    """The rows of a global batch that this process's devices hold, and which of them it counts: those that no process
    with a lower number holds. All, where there is one process."""
    held: dict[int, set[int]] = {}
    blocks: Mapping[Any, tuple[slice, ...]] = batch_sharding(mesh).devices_indices_map((rows,))
    for device, (block, *_) in blocks.items():
        held.setdefault(device.process_index, set()).update(range(*block.indices(rows)))
    mine = held[jax.process_index()]
    others = [numbers for index, numbers in held.items() if index < jax.process_index()]
    return OwnRows(tuple(sorted(mine)), tuple(sorted(mine.difference(*others))))


def place(array: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that every process has whole, or that lies on the mesh already, on the devices of the sharding."""
    if sharding.is_fully_addressable or (isinstance(array, jax.Array) and not array.is_fully_addressable):
        return jax.device_put(array, sharding)
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def parameter_shardings(
    axes: Mapping[str, tuple[str, ...]], shapes: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh
) -> dict[str, NamedSharding]:
    """path -> sharding for every parameter; errors of `parameter_spec`."""
    return {p: NamedSharding(mesh, parameter_spec(p, axes[p], shapes[p].shape, mesh)) for p in shapes}


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data and fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shardings(batch: Batch, mesh: Mesh) -> Batch:
    """Where the fields of a batch lie, None for those that it has not: rows as in `batch_sharding`, tokens and patches of a
    row over context."""

    def sharding(field: str, dimensions: int) -> NamedSharding:
        spec: list[Any] = [BATCH_AXES, *[None] * (dimensions - 1)]
        if field in POSITIONS:
            spec[POSITIONS[field]] = "context"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return Batch(*(None if x is None else sharding(field, x.ndim) for field, x in zip(Batch._fields, batch)))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())
