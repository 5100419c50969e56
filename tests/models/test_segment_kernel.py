"""Promises of `qwenvl_jax.models.segment_kernel`: the TPU kernels, interpreted on the CPU, compute what XLA computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from qwenvl_jax.config import MeshConfig
from qwenvl_jax.models import segment_attention as module
from qwenvl_jax.models.attention import attention
from qwenvl_jax.models.segment_attention import PairList, computed_scores, plan_attention, segment_attention, turns_of
from qwenvl_jax.parallel.mesh import make_mesh

BLOCK, LENGTH = 128, 500
ROWS = {
    "images of any size, and padding": [[60, 200, 90, 30], [500]],
    "a block of padding alone": [[300], [40, 60]],
    "nothing": [[], [256]],
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(module, "SHORT", 0)
    monkeypatch.setattr(module, "KERNEL_BLOCK", BLOCK)


def segments_of(rows: list[list[int]]) -> np.ndarray:
    """[B, LENGTH] ids of segments of these lengths behind each other, zeros at the end."""
    segments = np.zeros((len(rows), LENGTH), np.int32)
    for row, sizes in zip(segments, rows):
        row[: sum(sizes)] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    return segments


def graded(attend, q, k, v, weights):
    """The result and the gradients of q, k, v."""

    def weighted(q, k, v):
        mixed = attend(q, k, v)
        return (mixed * weights).sum(), mixed

    gradients, mixed = jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return mixed, *gradients


def tensors(rows: int, heads: int, size: int) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(rows, LENGTH, heads, size)).astype(np.float32)) for _ in range(4)]


def by_kernels(segments: np.ndarray):
    return lambda q, k, v: segment_attention(q, k, v, plan_attention(jnp.asarray(segments), "splash"))


def at_once(segments: np.ndarray):
    def attend(q, k, v):
        mixed = attention(q, k, v, query_segments=segments, key_segments=segments)
        return jnp.where((segments > 0)[..., None, None], mixed, 0)

    return attend


def compare(ours, expected) -> None:
    """In float32; other orders of sums differ by some 1e-6."""
    for a, b in zip(ours, expected):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("lengths", ROWS.values(), ids=ROWS)
def test_kernels_equal_one_masked_square(lengths: list[list[int]]) -> None:
    """Result and gradients; a length that no block divides, segments across blocks, padding, a head of 80."""
    segments, tensor = segments_of(lengths), tensors(2, 2, 80)
    expected = graded(at_once(segments), *tensor)
    with pltpu.force_tpu_interpret_mode():
        compare(graded(by_kernels(segments), *tensor), expected)


def test_each_device_runs_its_own_rows_and_heads() -> None:
    """Rows over fsdp, which have lists of different lengths, and heads over tensor."""
    segments, tensor = segments_of([[60, 200], [500]]), tensors(2, 2, 16)
    expected = graded(at_once(segments), *tensor)
    with jax.set_mesh(make_mesh(MeshConfig(1, 2, 2), jax.devices()[:4])), pltpu.force_tpu_interpret_mode():
        compare(graded(by_kernels(segments), *tensor), expected)


def test_the_list_names_the_blocks_that_meet() -> None:
    """Ascending by the block of queries, each pair both ways round, 16 where there are no more; what is counted on the host
    is what the list holds, and rows of padding cost nothing."""
    segments = segments_of([[60, 200], [300], []])
    work = plan_attention(jnp.asarray(segments), "splash")
    assert isinstance(work, PairList)
    listed = [[int(pair) for pair in row if pair < 16] for row in np.asarray(work.pairs)]
    assert listed[0] == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert listed[2] == []
    for row in listed:
        assert row == sorted(row)
        assert {(pair % 4) * 4 + pair // 4 for pair in row} == set(row)
    assert computed_scores(segments, "splash") == sum(map(len, listed)) * BLOCK**2
    assert turns_of(segments, "splash") == max(map(len, listed))
