"""Promises of `qwenvl_jax.models.segment_attention`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenvl_jax.models import segment_attention as module
from qwenvl_jax.models.attention import attention
from qwenvl_jax.models.segment_attention import computed_scores, plan_attention, segment_attention

ROWS, LENGTH, HEADS, SIZE = 2, 30, 2, 4


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Rows of 30 are eight blocks, the last one padded; turns of three pairs do not divide them."""
    monkeypatch.setattr(module, "SHORT", 0)
    monkeypatch.setattr(module, "BLOCK", 4)
    monkeypatch.setattr(module, "GROUP", 3)


def segments_of(lengths: list[list[int]]) -> np.ndarray:
    """Ids of segments of these lengths behind each other, zeros at the end."""
    segments = np.zeros((len(lengths), LENGTH), np.int32)
    for row, sizes in enumerate(lengths):
        ids = np.repeat(np.arange(1, len(sizes) + 1), sizes)[:LENGTH]
        segments[row, : len(ids)] = ids
    return segments


@jax.jit
@jax.value_and_grad
def in_blocks(qkv, segments, target):
    with jax.default_matmul_precision("highest"):
        return (segment_attention(*qkv, plan_attention(segments)) * target).sum()


@jax.jit
@jax.value_and_grad
def at_once(qkv, segments, target):
    with jax.default_matmul_precision("highest"):
        mixed = attention(*qkv, query_segments=segments, key_segments=segments)
        return (jnp.where(segments[..., None, None] > 0, mixed, 0) * target).sum()


LENGTHS = st.lists(st.lists(st.integers(1, 20), max_size=6), min_size=ROWS, max_size=ROWS)


@given(LENGTHS, st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_equals_dense_attention(lengths: list[list[int]], seed: int) -> None:
    """Result and all three gradients, for any segments, rows of padding alone among them."""
    rng = np.random.default_rng(seed)
    qkv = rng.normal(size=(3, ROWS, LENGTH, HEADS, SIZE)).astype(np.float32)
    target = rng.normal(size=(ROWS, LENGTH, HEADS, SIZE)).astype(np.float32)
    segments = segments_of(lengths)
    value, gradient = in_blocks(qkv, segments, target)
    expected, expected_gradient = at_once(qkv, segments, target)
    np.testing.assert_allclose(value, expected, atol=2e-5)  # a sum of up to 480 numbers of order one
    np.testing.assert_allclose(gradient, expected_gradient, atol=5e-6)


@given(LENGTHS)
@settings(max_examples=50, deadline=None)
def test_blocks_meet_once_where_segments_overlap(lengths: list[list[int]]) -> None:
    """The list holds exactly the pairs that share a segment, and no turn has a block of queries twice."""
    segments = segments_of(lengths)
    work = plan_attention(jnp.asarray(segments))
    blocks = np.pad(segments, ((0, 0), (0, 2))).reshape(ROWS, 8, 4)
    for row in range(ROWS):
        ids = [set(block[block > 0].tolist()) for block in blocks[row]]
        expected = {(a, b) for a in range(8) for b in range(8) if ids[a] & ids[b]}
        queries, keys = np.asarray(work.queries[row]), np.asarray(work.keys[row])
        listed = [(int(a), int(b)) for a, b in zip(queries, keys) if a < 8]
        assert sorted(listed) == sorted(expected)
        assert not (queries[int(work.turns) * 3 :] < 8).any()
        for turn in queries.reshape(-1, 3):
            real = turn[turn < 8]
            assert len(set(real)) == len(real)


def test_cost_follows_the_segments() -> None:
    """Twice as many segments of one length cost twice as much, not four times; padding costs nothing."""
    counts = [computed_scores(segments_of([[4] * n]), "xla") for n in (0, 3, 6)]
    assert counts == [0, 3 * 16, 6 * 16]
    assert computed_scores(segments_of([[30]]), "xla") == 72 * 16  # 8 ranks of 8 pairs, each in turns of 3


def test_short_rows_are_one_block(monkeypatch) -> None:
    """Up to `SHORT` a row computes all its scores, in one turn, with the same results; padding gets zeros."""
    segments = segments_of([[7, 12], [30]])
    qkv = np.random.default_rng(0).normal(size=(3, ROWS, LENGTH, HEADS, SIZE)).astype(np.float32)
    cut = segment_attention(*qkv, plan_attention(jnp.asarray(segments)))
    monkeypatch.setattr(module, "SHORT", LENGTH)
    work = plan_attention(jnp.asarray(segments))
    assert computed_scores(segments, "xla") == ROWS * LENGTH**2
    whole = np.asarray(segment_attention(*qkv, work))
    np.testing.assert_allclose(whole, cut, atol=5e-6)
    assert not whole[0, 19:].any()


def test_softmax_runs_in_float32() -> None:
    """Equal keys keep their weights' sum in bfloat16, over many blocks."""
    ones = jnp.ones((1, 200, 1, 4), jnp.bfloat16)
    mixed = segment_attention(ones, ones, ones, plan_attention(jnp.ones((1, 200), jnp.int32)))
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(mixed, np.float32), 1.0, atol=0.01)
