"""Where activations lie. Models name the axes of what they compute; the mesh around the trace turns names into a layout.

Without these constraints XLA's partitioner prefers to keep weights where they are and to sum partial products: the step of
Qwen-7B on 64 devices then moves 1,700 GB of partial sums a step instead of gathering 27 GB of weights.
"""

import math
from collections.abc import Mapping

import jax
from jax.sharding import PartitionSpec

from qwenvl_jax.parallel.mesh import BATCH_AXES

ACTIVATION_RULES: Mapping[str, str | tuple[str, ...]] = {
    # logical axis of an activation -> mesh axes; names that are not here stay whole
    "rows": BATCH_AXES,
    "stream": "tensor",  # positions, where nothing else lies over tensor: the residual stream, norms and their backward
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
}


def activation_spec(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: jax.sharding.AbstractMesh
) -> PartitionSpec:
    """The layout of an activation. An axis that does not divide stays whole: that costs time, never the result."""
    spec: list[str | tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        names = ACTIVATION_RULES.get(axis or "", ())
        present = tuple(name for name in ((names,) if isinstance(names, str) else names) if name in mesh.shape)
        parts = math.prod(mesh.shape[name] for name in present)
        spec.append(present if present and size % parts == 0 else None)
    return PartitionSpec(*spec)


def shards(axis: str) -> int:
    """Devices over which the mesh around the trace splits an activation's axis; 1 outside `jax.set_mesh`."""
    names = ACTIVATION_RULES[axis]
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes.get(name, 1) for name in ((names,) if isinstance(names, str) else names))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Fixes the layout of an activation by its logical axes, one per dimension; does nothing outside `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(axes, x.shape, mesh))
