"""Where activations lie. Models name the axes of what they compute; the mesh around the trace turns names into a layout.

Without these constraints XLA's partitioner prefers to keep weights where they are and to sum partial products: the step of
Qwen-7B on 64 devices then moves 1,700 GB of partial sums a step instead of gathering 27 GB of weights.
"""

import math
from collections.abc import Mapping
from functools import partial

import jax
from jax.sharding import PartitionSpec

from qwenvl_jax.parallel.mesh import BATCH_AXES, RULES

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


def gathered(kernel: jax.Array, *axes: str) -> jax.Array:
    """A weight matrix, gathered over `fsdp` for the matmuls that read it; its gradient is scattered back at once.

    Said where the forward pass reads it, so that one gather serves the layer's recomputation and its backward pass: left
    to the partitioner, the query, key, value and output kernels of Qwen-7B came twice (4.3 GB more a step on 64 devices).

    Args:
      axes: the logical axis of each of its two dimensions; the first one of those that were merged into it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return kernel if mesh.empty or mesh.size == 1 else _gathered(kernel, axes)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(kernel: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    whole = [None if RULES[axis] == "fsdp" else RULES[axis] for axis in axes]
    return jax.lax.with_sharding_constraint(kernel, PartitionSpec(*whole))


def _gathered_forward(kernel: jax.Array, axes: tuple[str, ...]) -> tuple[jax.Array, None]:
    return _gathered(kernel, axes), None


def _gathered_backward(axes: tuple[str, ...], _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, PartitionSpec(*(RULES[axis] for axis in axes))),)


_gathered.defvjp(_gathered_forward, _gathered_backward)
