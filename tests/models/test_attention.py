"""Promises of `qwenvl_jax.models.attention`."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenvl_jax.models import attention as module
from qwenvl_jax.models.attention import attention


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
