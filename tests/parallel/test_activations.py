"""Promises of `qwenvl_jax.parallel.activations`: what lies over `tensor` is exchanged once for all that read it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from small_model import PRECISION

from qwenvl_jax.config import MeshConfig
from qwenvl_jax.models.decoder import DecoderBlock, run_blocks
from qwenvl_jax.models.layers import rotary_angles, rotary_frequencies
from qwenvl_jax.parallel.mesh import batch_sharding, make_mesh, parameter_spec

ROWS, LENGTH, WIDTH, HEADS, MLP, LAYERS = 2, 16, 32, 4, 64, 3


def loss(state, x):
    """A number of what three decoder blocks make of [B, S, D]."""
    angles = rotary_angles(jnp.arange(x.shape[1])[None].repeat(ROWS, 0), rotary_frequencies(WIDTH // HEADS, 1e4))
    segments = jnp.ones(x.shape[:2], jnp.int32)
    blocks = nnx.merge(nnx.graphdef(blocks_of(0)), state)
    return jnp.square(run_blocks(blocks, PRECISION, x, angles, angles, segments)).sum()


def blocks_of(seed: int) -> DecoderBlock:
    return DecoderBlock(WIDTH, HEADS, HEADS, MLP, LAYERS, nnx.Rngs(seed), norm_eps=1e-6, implementation="xla")


def placed(state, mesh):
    """The parameters where they lie on the mesh."""

    def place(parameter):
        spec = parameter_spec("", parameter.axes, parameter[...].shape, mesh)
        return parameter.replace(jax.device_put(parameter[...], NamedSharding(mesh, spec)))

    return jax.tree.map(place, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def test_a_layer_gathers_the_stream_once_for_all_projections() -> None:
    """Four devices share heads, the mlp and the positions of the stream. Queries, keys and values read one gathered array,
    and so do both matrices of the mlp: two gathers a layer, two when it is computed again, and two of the gradients of what
    goes back into the stream. The gradients are those of one device."""
    state = nnx.state(blocks_of(0), nnx.Param)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, LENGTH, WIDTH)), jnp.float32)
    expected = jax.jit(jax.grad(loss, (0, 1)))(state, x)
    mesh = make_mesh(MeshConfig(1, 1, 4), jax.devices()[:4])
    shared = placed(state, mesh)
    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(shared, jax.device_put(x, batch_sharding(mesh))).compile()
    lines = [line for line in compiled.as_text().splitlines() if re.search(r" all-gather(-start)?\(", line)]
    assert len([line for line in lines if f"f32[{ROWS},{LENGTH},{WIDTH}]" in line]) == len(lines) == 6
    found = compiled(shared, jax.device_put(x, batch_sharding(mesh)))
    for ours, one in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, one, atol=1e-4)  # gradients of up to 87, in sums of other orders


@pytest.mark.parametrize("length, reduced_first", [(WIDTH // 2, True), (WIDTH, False)])
def test_a_gradient_larger_than_its_input_is_reduced_before_the_others(length, reduced_first) -> None:
    """Where a device has fewer positions than the width, the gradient of an MLP's last matrix is held together with that of
    its input, and so is reduced first; else not. The gradients are those of one device."""
    state = nnx.state(blocks_of(0), nnx.Param)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, length, WIDTH)), jnp.float32)
    expected = jax.jit(jax.grad(loss, (0, 1)))(state, x)
    mesh = make_mesh(MeshConfig(1, ROWS, 1), jax.devices()[:ROWS])
    arguments = placed(state, mesh), jax.device_put(x, batch_sharding(mesh))
    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments)
    held = f"tensor<{ROWS}x{length}x{MLP}xf32>, tensor<{MLP}x{WIDTH}xf32>"
    barriers = [line for line in lowered.as_text().splitlines() if "optimization_barrier" in line]
    assert any(line.rstrip().endswith(held) for line in barriers) == reduced_first
    found = lowered.compile()(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)  # as above
