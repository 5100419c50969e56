"""Where activations lie. Models name the axes of what they compute; the mesh around the trace turns names into a layout.

Without these constraints XLA's partitioner prefers to keep weights where they are and to sum partial products: the step of
Qwen-7B on 64 devices then moves 1,700 GB of partial sums a step instead of gathering 27 GB of weights.
"""

import math
from collections.abc import Mapping
from functools import partial

import jax
from jax.sharding import PartitionSpec

from qwenvl_jax.parallel.mesh import BATCH_AXES, parameter_spec

ACTIVATION_RULES: Mapping[str, tuple[str, ...]] = {
    # logical axis of an activation -> mesh axes, the outer one first
    "rows": BATCH_AXES,
    "stream": ("context", "tensor"),  # positions of the residual stream, of norms and of their backward
    "sequence": ("context",),  # positions, where something else lies over tensor
    "columns": ("context", "tensor"),  # the width, where positions are looked up and must be whole
    "heads": ("tensor",),
    "attention_heads": ("tensor", "context"),  # heads, where all positions of a row meet
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}


def activation_spec(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: jax.sharding.AbstractMesh
) -> PartitionSpec:
    """The layout of an activation; names without a rule stay whole.

    An axis is split over its mesh axes as far as they divide it, the outer ones first: what stays whole costs time, never
    the result.
    """
    spec: list[tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        names = tuple(name for name in ACTIVATION_RULES.get(axis or "", ()) if name in mesh.shape)
        while size % math.prod(mesh.shape[name] for name in names):
            names = names[:-1]
        spec.append(names or None)
    return PartitionSpec(*spec)


def shards(axis: str) -> int:
    """Devices over which the mesh around the trace splits an activation's axis; 1 outside `jax.set_mesh`."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes.get(name, 1) for name in ACTIVATION_RULES[axis])


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Fixes the layout of an activation by its logical axes, one per dimension; does nothing outside `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(axes, x.shape, mesh))


def reduced(gradient: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The gradient of a matrix with these axes, summed over devices and laid as the matrix is stored."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.lax.with_sharding_constraint(gradient, parameter_spec("gradient", axes, gradient.shape, mesh))


def gather_stream(x: jax.Array) -> jax.Array:
    """[B, S, D] of the residual stream -> the positions that `tensor` splits, gathered once for all projections that read
    them; in the backward pass what these give is summed into the stream. Left to itself XLA gathers for each projection and
    each of its gradients: 129 GB a step of Qwen-7B on fsdp 16 x tensor 4, where 39 do.
    """
    return _relaid(x, ("rows", "sequence", None), ("rows", "stream", None)) if shards("heads") > 1 else x


def split_stream(x: jax.Array) -> jax.Array:
    """What a projection gives to the residual stream, summed into it; its gradient is gathered once for both factors."""
    stream = ("rows", "stream", None)
    return _relaid(x, stream, ("rows", "sequence", None)) if shards("heads") > 1 else constrain(x, *stream)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _relaid(x: jax.Array, axes: tuple[str | None, ...], gradient: tuple[str | None, ...]) -> jax.Array:
    """x laid by its axes, its gradient by others."""
    return constrain(x, *axes)


_relaid.defvjp(
    lambda x, axes, _: (constrain(x, *axes), None),
    lambda _, axes, __, gradient: (constrain(gradient, *axes),),
)


def gather_positions(x: jax.Array) -> jax.Array:
    """[B, S, N, H] of the positions of a device and its heads -> of all positions and, for as many, fewer heads.

    Two constraints, of which XLA makes one all-to-all; with the second alone it may exchange what x was computed from, and
    does so for both halves of a rotary embedding.
    """
    return constrain(constrain(x, "rows", "sequence", "heads", None), "rows", None, "attention_heads", None)


def split_positions(x: jax.Array) -> jax.Array:
    """The inverse of `gather_positions`."""
    return constrain(constrain(x, "rows", None, "attention_heads", None), "rows", "sequence", "heads", None)
