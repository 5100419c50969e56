"""Attention inside segments as Pallas kernels for TPUs: of all pairs of blocks those of a list are computed, and no others.

The list is data, and so is the length of the grid: one step of it takes one pair of blocks and some heads, and scores never
leave the chip. Splash attention cannot do that: what its grid leaves out must be known when it is compiled.

Scores stand with keys in rows and queries in columns, so that what belongs to a query is a row, which is how a TPU's
registers hold it. `segment_attention` makes the list and has the same in XLA for other devices.

Shape legend: N heads, G heads of a step, S positions of a row, C of a block, T = S / C, H head size.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

HEADS = 8
"""Heads of one step, at most: a pair of blocks of one head alone is done before the step's own cost."""
_LOWEST = -0.7 * float(jnp.finfo(jnp.float32).max)
_NN = (((1,), (0,)), ((), ()))
_NT = (((1,), (1,)), ((), ()))
_product = partial(jax.lax.dot_general, preferred_element_type=jnp.float32)


@jax.custom_vjp
def attend_pairs(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, pairs: jax.Array) -> jax.Array:
    """Attention of rows, one behind the other. B rows.

    Args:
      q, k, v: [B, N, S, H]; q is scaled.
      segments: [B, T, C] int32, 0 for padding, whose results are zeros.
      pairs: [B, T * T + 1] int32: T times a block of queries plus the block of keys that it meets, ascending, T * T where
        there are no more. Blocks meet mutually.

    Returns:
      [B, N, S, H].
    """
    return _forward(q, k, v, segments, pairs)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, pairs: jax.Array
) -> tuple[jax.Array, tuple]:
    mixed, log_total = jax.lax.map(lambda row: _row_forward(*row), (q, k, v, segments, pairs))
    # A block that meets none is never written, and a padded query has met masked keys alone.
    real = (segments > 0).reshape(segments.shape[0], 1, -1)
    mixed = jnp.where(real[..., None], mixed.swapaxes(2, 3), 0)
    mixed = checkpoint_name(mixed, "attention_output")
    log_total = checkpoint_name(log_total, "attention_output")
    return mixed, (q, k, v, segments, pairs, mixed, log_total)


def _backward(saved: tuple, gradient: jax.Array) -> tuple:
    q, k, v, segments, pairs, mixed, log_total = saved
    delta = (gradient.astype(jnp.float32) * mixed.astype(jnp.float32)).sum(-1)[:, :, None]
    rows = (q, k, v, gradient, log_total, delta, segments, pairs)
    found = jax.lax.map(lambda row: _row_backward(*row), rows)
    met = (segments > 0).any(2)  # blocks of padding alone are never written
    real = jnp.repeat(met, segments.shape[2], axis=1)[:, None, :, None]
    return *(jnp.where(real, x, 0) for x in found), None, None


attend_pairs.defvjp(_forward, _backward)


def _row_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, pairs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """[N, S, H] -> [N, H, S] mixed values and [N, 1, S] logarithms of the sums of exponents."""
    own, other = _blocks(q.shape, segments.shape)
    heads, length, size = q.shape
    group, block = own.group, own.block
    return _over_pairs(
        _forward_kernel,
        "segment_attention_forward",
        pairs,
        own,
        [(q, own.rows), (k, other.rows), (v.swapaxes(1, 2), other.columns), *_ids(segments, own, other)],
        [
            (jax.ShapeDtypeStruct((heads, size, length), q.dtype), own.columns),
            (jax.ShapeDtypeStruct((heads, 1, length), jnp.float32), own.line),
        ],
        [(group, 1, block), (group, 1, block), (group, size, block)],
    )


def _row_backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gradient: jax.Array,
    log_total: jax.Array,
    delta: jax.Array,
    segments: jax.Array,
    pairs: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[N, S, H], three times: gradients of q, k and v."""
    own, other = _blocks(q.shape, segments.shape)
    heads, length, size = q.shape
    (dq,) = _over_pairs(
        _queries_kernel,
        "segment_attention_queries",
        pairs,
        own,
        [
            (q, own.rows), (k, other.rows), (k.swapaxes(1, 2), other.columns), (v, other.rows), (gradient, own.rows),
            (log_total, own.line), (delta, own.line), *_ids(segments, own, other),
        ],
        [(jax.ShapeDtypeStruct((heads, size, length), q.dtype), own.columns)],
        [(own.group, size, own.block)],
    )  # fmt: skip
    dk, dv = _over_pairs(
        _keys_kernel,
        "segment_attention_keys",
        pairs,
        own,
        [
            (q, other.rows), (k, own.rows), (v, own.rows), (gradient, other.rows),
            (log_total, other.line), (delta, other.line), *_ids(segments, other, own),
        ],
        [(jax.ShapeDtypeStruct(x.shape, x.dtype), own.rows) for x in (k, v)],
        [(own.group, own.block, size)] * 2,
    )  # fmt: skip
    return dq.swapaxes(1, 2), dk, dv


class _Blocks:
    """Where the blocks of one side of a pair lie, for the arrays of a row."""

    def __init__(self, group: int, block: int, count: int, size: int, is_first: bool):
        self.group, self.block, self.count, self.is_first = group, block, count, is_first

        def at(pairs: Any, step: Any) -> Any:
            return jax.lax.div(pairs[step], count) if is_first else jax.lax.rem(pairs[step], count)

        self.rows = pl.BlockSpec((group, block, size), lambda g, p, pairs: (g, at(pairs, p), 0))
        self.columns = pl.BlockSpec((group, size, block), lambda g, p, pairs: (g, 0, at(pairs, p)))
        self.line = pl.BlockSpec((group, 1, block), lambda g, p, pairs: (g, 0, at(pairs, p)))
        self.ids_in_columns = pl.BlockSpec((1, 1, block), lambda g, p, pairs: (at(pairs, p), 0, 0))
        self.ids_in_rows = pl.BlockSpec((1, block, 1), lambda g, p, pairs: (at(pairs, p), 0, 0))


def _blocks(shape: tuple[int, ...], segments: tuple[int, ...]) -> tuple[_Blocks, _Blocks]:
    """Of the block that a list's entries are sorted by, and of the one that it meets."""
    heads, _, size = shape
    count, block = segments
    group = max(g for g in range(1, HEADS + 1) if heads % g == 0)
    return _Blocks(group, block, count, size, is_first=True), _Blocks(group, block, count, size, is_first=False)


def _ids(segments: jax.Array, queries: _Blocks, keys: _Blocks) -> list[tuple[jax.Array, pl.BlockSpec]]:
    """Segments of queries in columns and of keys in rows; padding meets nothing, not even padding."""
    own = jnp.where(segments > 0, segments, -1)
    return [(own[:, None, :], queries.ids_in_columns), (segments[:, :, None], keys.ids_in_rows)]


def _over_pairs(
    kernel: Any, name: str, pairs: jax.Array, own: _Blocks, inputs: list, outputs: list, scratch: list[tuple]
) -> Any:
    """Runs a kernel over all pairs of the list, which is ordered by the block that its outputs belong to."""
    steps = (pairs < own.count**2).sum()
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(inputs[0][0].shape[0] // own.group, steps),
        in_specs=[spec for _, spec in inputs],
        out_specs=[spec for _, spec in outputs],
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
    )
    return pl.pallas_call(
        partial(kernel, count=own.count, group=own.group),
        grid_spec=grid,
        out_shape=[shape for shape, _ in outputs],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        name=name,
    )(pairs, *(x for x, _ in inputs))


def _place(pairs: Any, count: int) -> tuple[Any, Any]:
    """Whether this step is the first, and the last, of those that write to its block."""
    step = pl.program_id(1)
    # `//` would ask for the sign, for which Pallas must know the device: plans are made where there is none.
    before, block, after = (jax.lax.div(pairs[at], count) for at in (jnp.maximum(step - 1, 0), step, step + 1))
    return (step == 0) | (before != block), after != block


def _forward_kernel(
    pairs, q, k, v, query_ids, key_ids, mixed, log_total, top, total, sums, *, count: int, group: int
) -> None:
    first, last = _place(pairs, count)

    @pl.when(first)
    def begin():
        top[...] = jnp.full_like(top, _LOWEST)
        total[...] = jnp.zeros_like(total)
        sums[...] = jnp.zeros_like(sums)

    mask = key_ids[0] == query_ids[0]  # [C keys, C queries]
    for h in range(group):
        scores = jnp.where(mask, _product(k[h], q[h], _NT), _LOWEST)
        new_top = jnp.maximum(top[h], scores.max(0, keepdims=True))
        weights = jnp.exp(scores - new_top)
        shrunk = jnp.exp(top[h] - new_top)
        total[h] = total[h] * shrunk + weights.sum(0, keepdims=True)
        sums[h] = sums[h] * shrunk + _product(v[h], weights.astype(v.dtype), _NN)
        top[h] = new_top

    @pl.when(last)
    def end():
        mixed[...] = (sums[...] / total[...]).astype(mixed.dtype)
        log_total[...] = top[...] + jnp.log(total[...])


def _score_gradients(q, k, v, gradient, log_total, delta, mask) -> tuple[jax.Array, jax.Array]:
    """Weights, and gradients of the scores, [C keys, C queries] of one head."""
    weights = jnp.where(mask, jnp.exp(_product(k, q, _NT) - log_total), 0.0)
    return weights, weights * (_product(v, gradient, _NT) - delta)


def _queries_kernel(
    pairs, q, k, k_columns, v, gradient, log_total, delta, query_ids, key_ids, dq, sums, *, count: int, group: int
) -> None:
    first, last = _place(pairs, count)

    @pl.when(first)
    def begin():
        sums[...] = jnp.zeros_like(sums)

    mask = key_ids[0] == query_ids[0]
    for h in range(group):
        _, ds = _score_gradients(q[h], k[h], v[h], gradient[h], log_total[h], delta[h], mask)
        sums[h] += _product(k_columns[h], ds.astype(k.dtype), _NN)

    @pl.when(last)
    def end():
        dq[...] = sums[...].astype(dq.dtype)


def _keys_kernel(
    pairs, q, k, v, gradient, log_total, delta, query_ids, key_ids, dk, dv, k_sums, v_sums, *, count: int, group: int
) -> None:
    first, last = _place(pairs, count)

    @pl.when(first)
    def begin():
        k_sums[...] = jnp.zeros_like(k_sums)
        v_sums[...] = jnp.zeros_like(v_sums)

    mask = key_ids[0] == query_ids[0]
    for h in range(group):
        weights, ds = _score_gradients(q[h], k[h], v[h], gradient[h], log_total[h], delta[h], mask)
        k_sums[h] += _product(ds.astype(q.dtype), q[h], _NN)
        v_sums[h] += _product(weights.astype(gradient.dtype), gradient[h], _NN)

    @pl.when(last)
    def end():
        dk[...] = k_sums[...].astype(dk.dtype)
        dv[...] = v_sums[...].astype(dv.dtype)
