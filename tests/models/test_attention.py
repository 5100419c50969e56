"""Promises of `qwenvl_jax.models.attention`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenvl_jax.models import attention as module
from qwenvl_jax.models.attention import attention, softmax


def reference(q, k, v, query_segments, key_segments, start):
    """Row by row in float64: a query meets the keys of its segment up to its position."""
    result = np.zeros(q.shape)
    for b, s, n in np.ndindex(*q.shape[:3]):
        seen = [t for t in range(k.shape[1]) if t <= s + start and query_segments[b, s] == key_segments[b, t]]
        scores = k[b, seen, n].astype(np.float64) @ q[b, s, n] / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        result[b, s, n] = weights / weights.sum() @ v[b, seen, n]
    return result


@given(st.integers(0, 10**6), st.sampled_from([1, 5, 8, 12, 16]))
@settings(max_examples=12, deadline=None)
def test_causal_attention_within_segments(seed: int, length: int) -> None:
    """Against the definition, for any segments, with and without blocks of queries (8 and 12 are blocks of 4, 16 of 8)."""
    rng = np.random.default_rng(seed)
    q, k, v = rng.normal(size=(3, 2, length, 2, 4)).astype(np.float32)
    segments = np.sort(rng.integers(0, 3, (2, length)), axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CAUSAL_BLOCKS", (8, 4))
        ours = attention(q, k, v, query_segments=segments, key_segments=segments, causal=True)
    np.testing.assert_allclose(ours, reference(q, k, v, segments, segments, 0), atol=2e-6)


@pytest.mark.parametrize("keys", [1, 31, 32, 64, 352])
def test_softmax_is_jax_nns(keys: int) -> None:
    """Value and gradient, where keys are summed in two steps and where they are not; rows that see nothing are even."""
    rng = np.random.default_rng(keys)
    scores, gradient = jnp.asarray(rng.normal(size=(2, 5, keys)).astype(np.float32) * [[[9]], [[1]]])
    scores = scores.at[0].set(jnp.where(jnp.arange(keys) % 3 == 0, jnp.finfo(jnp.float32).min, scores[0]))
    scores = scores.at[-1].set(jnp.finfo(jnp.float32).min)
    ours, pull = jax.vjp(softmax, scores)
    theirs, their_pull = jax.vjp(jax.nn.softmax, scores)
    # A sum of 352 numbers in another order.
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(pull(gradient)[0], their_pull(gradient)[0], rtol=1e-5, atol=1e-6)


@given(st.integers(0, 10**6))
@settings(max_examples=4, deadline=None)
def test_long_rows_equal_short_ones(seed: int) -> None:
    """Block by block, computed again backwards: results and gradients are those of the short form but for rounding."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(2, 64, 4, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, 64, 2, 8)).astype(np.float32)
    segments = np.sort(rng.integers(0, 4, (2, 64)), axis=1)
    with pytest.MonkeyPatch.context() as patch:
        short = value_and_gradients(q, k, v, segments)
        patch.setattr(module, "LONG", 64)
        patch.setattr(module, "LONG_BLOCKS", (16, 8))
        assert (module.causal_long_block(64), module.causal_long_block(72)) == (16, 0)
        long = value_and_gradients(q, k, v, segments)
    for ours, theirs in zip(long, short):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def value_and_gradients(q, k, v, segments):
    def total(q, k, v):
        return jnp.sin(attention(q, k, v, query_segments=segments, key_segments=segments, causal=True)).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(q, k, v)
    return value / q.size, *gradients


def test_long_rows_never_hold_all_scores(monkeypatch) -> None:
    """Memory of forward and backward pass together, of a row in which all scores would be 4.2 MB: without blocks more than
    that, in blocks of 32 queries of 512 less than half of it."""
    shapes = [jax.ShapeDtypeStruct((1, 512, 4, 8), jnp.float32)] * 3

    def temporary() -> int:
        gradient = jax.grad(lambda q, k, v: attention(q, k, v, causal=True).sum(), argnums=(0, 1, 2))
        return jax.jit(gradient).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    monkeypatch.setattr(module, "CAUSAL_BLOCKS", (512,))
    whole = 4 * 4 * 512 * 512
    assert temporary() > whole
    monkeypatch.setattr(module, "LONG", 512)
    monkeypatch.setattr(module, "LONG_BLOCKS", (32,))
    assert temporary() < whole / 2


def test_queries_behind_a_cache() -> None:
    """`query_start` counts the cached positions; cached places that are not yet written have segment 0."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, s, 2, 4)).astype(np.float32) for s in (2, 8, 8))
    keys, queries = np.array([[0, 0, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]]), np.ones((2, 2), int)
    ours = attention(q, k, v, query_segments=queries, key_segments=keys, causal=True, query_start=jnp.int32(4))
    np.testing.assert_allclose(ours, reference(q, k, v, queries, keys, 4), atol=2e-6)


def test_softmax_runs_in_float32() -> None:
    """Two hundred equal keys keep their weights' sum in bfloat16."""
    ones = jnp.ones((1, 200, 1, 4), jnp.bfloat16)
    mixed = attention(ones, ones, ones)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(mixed, np.float32), 1.0, atol=0.01)


@pytest.mark.parametrize("causal, kv_heads", [(True, 2), (False, 4)], ids=["language", "vision"])
def test_cudnn_is_asked_for_the_same(monkeypatch, causal: bool, kv_heads: int) -> None:
    """What cuDNN gets means what the XLA path computes: the same call, answered by JAX's own XLA implementation, forward and
    backward, with groups of queries, segments and a scale. The kernel itself runs on GPUs alone. In bfloat16, so to within
    some of its steps of 2 ** -8."""
    asked = []

    def by_xla(*arrays, implementation, **options):
        asked.append(implementation)
        return dot_product_attention(*arrays, implementation="xla", **options)

    dot_product_attention = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    rng = np.random.default_rng(0)
    q, k, v, weights = (
        jnp.asarray(rng.normal(size=(2, 16, heads, 8)), jnp.bfloat16) for heads in (4, kv_heads, kv_heads, 4)
    )
    segments = jnp.asarray(np.sort(rng.integers(0, 3, (2, 16)), axis=1)) if causal else None

    def graded(implementation: str):
        def total(q, k, v):
            masks = {"query_segments": segments, "key_segments": segments, "causal": causal}
            mixed = attention(q, k, v, implementation=implementation, scale=0.5, **masks)
            return (mixed * weights).astype(jnp.float32).sum(), mixed

        gradients, mixed = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return mixed, *gradients

    for ours, theirs in zip(graded("xla"), graded("cudnn")):
        np.testing.assert_allclose(ours.astype(np.float32), theirs.astype(np.float32), atol=0.02, rtol=0.02)
    assert asked == ["cudnn"]
    with pytest.raises(ValueError, match="cudnn computes in bfloat16, not in float32; set"):
        attention(q.astype(jnp.float32), k, v, implementation="cudnn")
