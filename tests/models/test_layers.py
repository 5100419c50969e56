"""Promises of `qwenvl_jax.models.layers`."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import CONFIG, PRECISION, random_batch, small_stage

from qwenvl_jax.models.layers import (
    REMAT_POLICIES,
    Projection,
    apply_rotary,
    biased,
    gated,
    matmul,
    rotary_angles,
    rotary_frequencies,
    sum_by_product,
    summed_axes,
)
from qwenvl_jax.models.parameters import build
from qwenvl_jax.training.step import batch_loss


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 2000))
@settings(max_examples=20, deadline=None)
def test_rotary_scores_depend_on_distance_alone(first: int, second: int, shift: int) -> None:
    """Moving a query and a key by the same number of positions leaves their score."""
    q, k = np.random.default_rng(first).normal(size=(2, 1, 1, 8)).astype(np.float32)

    def score(a: int, b: int) -> float:
        turned = [
            apply_rotary(x, rotary_angles(np.array([p]), rotary_frequencies(8, 10000.0))) for x, p in ((q, a), (k, b))
        ]
        return float((turned[0] * turned[1]).sum())

    assert score(first, second) == pytest.approx(score(first + shift, second + shift), abs=2e-3)


def test_rotary_runs_in_float32() -> None:
    """Angles of large positions keep their precision in bfloat16 models, and the type comes back."""
    x = jnp.ones((1, 1, 1, 4), jnp.bfloat16)
    angles = rotary_angles(np.array([[2001]]), rotary_frequencies(4, 10000.0))
    turned = apply_rotary(x, angles)
    assert angles[0].dtype == jnp.float32
    assert turned.dtype == jnp.bfloat16
    cos, sin = np.cos(2001.0), np.sin(2001.0)
    np.testing.assert_allclose(np.asarray(turned, np.float32)[0, 0, 0, [0, 2]], [cos - sin, cos + sin], atol=0.01)


def test_summed_axes_are_read_from_the_equation() -> None:
    """The kernel's first axes; equations that a product of two matrices cannot compute are refused."""
    assert summed_axes("bsd,dnh->bsnh") == 1
    assert summed_axes("bsnh,nhd->bsd") == 2
    for equation in ("bsd,nhd->bsnh", "bds,dn->bsn", "bsd,dnh->bshn"):
        with pytest.raises(ValueError, match="does not sum the input's last axes"):
            summed_axes(equation)


def test_rotation_by_a_permutation_is_exact() -> None:
    """Halves exchanged by a product are the halves exchanged by a slice, bit for bit, also in bfloat16."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3, 8)), jnp.bfloat16)
    angles = rotary_angles(jnp.arange(5)[None], rotary_frequencies(8, 1e4))
    assert np.array_equal(apply_rotary(x, angles), apply_rotary(x, angles, lanes=True))


def test_the_gated_product_has_the_gradient_of_its_formula() -> None:
    """Its own backward pass is that of up * silu(gate)."""
    rng = np.random.default_rng(1)
    up, gate, weights = (jnp.asarray(rng.normal(size=(4, 6)).astype(np.float32)) for _ in range(3))

    def graded(function):
        return jax.grad(lambda up, gate: (weights * function(up, gate)).sum(), argnums=(0, 1))(up, gate)

    for ours, plain in zip(graded(gated), graded(lambda up, gate: up * jax.nn.silu(gate))):
        np.testing.assert_allclose(ours, plain, rtol=1e-6)


def test_remat_and_unrolling_change_no_gradient(parameters) -> None:
    """Every rematerialisation policy and unrolling compute the same loss and gradients."""
    batch = random_batch(0, rows=2)
    found = {}
    for remat, unroll in [*((name, 1) for name in REMAT_POLICIES), ("everything", 3)]:
        precision = dataclasses.replace(PRECISION, remat=remat, unroll=unroll)
        architecture = build(CONFIG, precision)
        loss = partial(batch_loss, architecture, PRECISION, small_stage(), batch=batch)
        found[remat, unroll] = jax.jit(jax.value_and_grad(loss, has_aux=True))(parameters)
    expected = found.pop(("everything", 1))
    for result in found.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), result, expected)


def test_matmul_has_the_gradients_of_a_product() -> None:
    """Its own backward pass gives what JAX's would, for any number of leading axes."""
    rng = np.random.default_rng(0)
    for leading in ((), (7,), (2, 7)):
        x, matrix = jnp.asarray(rng.normal(size=(*leading, 3))), jnp.asarray(rng.normal(size=(3, 5)))
        weights = jnp.asarray(rng.normal(size=(*leading, 5)))
        ours, theirs = (jax.vjp(f, x, matrix)[1](weights) for f in (matmul, jnp.matmul))
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # float32, sums of up to 14 products


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_bias_has_the_gradient_of_a_sum(dtype) -> None:
    """Its gradient is the sum over all rows in float32, whatever the type of what it is added to: in bfloat16, where 8 bits
    hold sums up to 256 alone, thousands of ones add up exactly. Programs for a TPU have a product for it, those for a CPU a
    sum, and nothing is computed for a frozen one."""
    y, bias = jnp.zeros((5, 1001, 2, 3), dtype), jnp.arange(6.0).reshape(2, 3)

    def total(y: jax.Array, bias: jax.Array) -> jax.Array:
        return biased(y, bias).astype(jnp.float32).sum()

    of_y, of_bias = jax.grad(total, argnums=(0, 1))(y, bias)
    assert of_bias.dtype == jnp.float32
    assert of_y.dtype == dtype
    np.testing.assert_array_equal(of_bias, np.full((2, 3), 5005.0))
    np.testing.assert_array_equal(np.asarray(of_y, np.float32), 1.0)
    np.testing.assert_array_equal(np.asarray(biased(y, bias)[0, 0], np.float32), np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(sum_by_product(jnp.ones_like(y), 2), of_bias)
    for_tpu, for_cpu = (
        jax.jit(jax.grad(total, argnums=1)).trace(y, bias).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("tpu", "cpu")
    )
    assert "dot_general" in for_tpu
    assert "dot_general" not in for_cpu
    assert "dot_general" not in str(jax.make_jaxpr(jax.grad(total))(y, bias))


def test_heads_filled_up_change_nothing() -> None:
    """Into heads of 128 and back from them: zeros behind each head's values, and the same gradients of the kernels."""
    rngs = nnx.Rngs(0)
    inward = Projection("bpd,dnh->bpnh", (8, 2, 5), ("embed", "heads", "head"), rngs, bias=(1, 2))
    outward = Projection("bpnh,nhd->bpd", (2, 5, 8), ("heads", "head", "embed"), rngs, bias=(2,))
    inward.bias[...] = jnp.arange(10.0).reshape(2, 5)
    x = jax.random.normal(jax.random.key(1), (3, 4, 8))
    np.testing.assert_allclose(inward(x, 128)[..., :5], inward(x), atol=1e-6)  # another order of sums
    np.testing.assert_array_equal(inward(x, 128)[..., 5:], 0.0)

    @partial(jax.jit, static_argnums=1)
    def gradients(modules: tuple[Projection, Projection], size: int):
        return nnx.grad(lambda pair: jnp.square(pair[1](pair[0](x, size))).sum())(modules)

    for ours, expected in zip(
        jax.tree.leaves(gradients((inward, outward), 128)), jax.tree.leaves(gradients((inward, outward), 0))
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-4)  # gradients of some hundreds
