"""Attention inside segments, for long rows of many: its cost follows the segments that are there, not the row's square.

A row that is not short is cut into blocks. Blocks that share no segment never meet: a work list, made once per step from
the segment ids, names the pairs of blocks that do, and a loop of as many turns computes them. Only the number of turns
changes, no shape.
Softmax is accumulated over the key blocks of a query (Milakov and Gimelshein 2018; Dao et al. 2022 for the backward pass).
On a TPU kernels (`segment_kernel`) take the place of the loop, with a list of their own: a loop's turn is too small for one.

Shape legend: B rows, P positions, N heads, H head size, C positions of a block, T = P / C blocks, G pairs of one turn.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from qwenvl_jax.models.attention import attention, resolve_implementation
from qwenvl_jax.models.segment_kernel import attend_pairs
from qwenvl_jax.parallel.activations import activation_spec, constrain, gather_positions, split_positions

BLOCK = 128
"""Positions of a block. On two CPU cores 128 is as fast as 256 for slices of 256 to 1024 patches, faster for small ones."""
SHORT = 384
"""Rows up to this length are one block, all of whose scores are computed: with slices of 36 patches, forward and backward on
two CPU cores, that takes 0.4 of the time of blocks for a row of 256 patches, 0.7 for 384, 1.4 for 1,024
(`launch.benchmarks.vision_attention`)."""
GROUP = 4
"""Pairs of blocks that one turn computes: G x N x C x C scores exist at a time in each row."""
KERNEL_BLOCK = 256
"""Positions of a block of the kernels: 2,304 patches of an image of 672 x 672 are nine of them. The list of pairs has room
for the square of a row's blocks in scalar memory, 262 KB for 65,536 patches."""
_LOWEST = -1e30


class WorkList(NamedTuple):
    """Which blocks of queries meet which blocks of keys, in turns of G pairs with different queries.

    Attributes:
      segments: [B, T, C] int32, 0 for padding.
      queries: [B, turns * G] int32, the block of queries; T where there is no pair.
      keys: [B, turns * G] int32, the block of keys.
      turns: int32 scalar, turns that the longest list of all rows has.
    """

    segments: jax.Array
    queries: jax.Array
    keys: jax.Array
    turns: jax.Array


class PairList(NamedTuple):
    """Which blocks of queries meet which blocks of keys, for the kernels: see `segment_kernel.attend_pairs`.

    Attributes:
      segments: [B, T, C] int32, 0 for padding.
      pairs: [B, T * T + 1] int32, T * T where there are no more.
    """

    segments: jax.Array
    pairs: jax.Array


def plan_attention(segments: jax.Array, implementation: str = "xla") -> WorkList | PairList:
    """The list of rows with these segment ids, [B, P] int32, 0 for padding; `implementation` as in `models.attention`.

    A segment is best contiguous: two blocks meet where the ranges of their ids overlap.
    """
    segments = constrain(segments, "rows", None)
    by_kernel = resolve_implementation(implementation, jax.default_backend()) == "splash"
    size = _block_size(segments.shape[1], by_kernel)
    segments = jnp.pad(segments, ((0, 0), (0, -segments.shape[1] % size)))
    blocks = rearrange(segments, "b (t c) -> b t c", c=size)
    meets = _meetings(blocks, jnp)
    if by_kernel and blocks.shape[1] > 1:
        return PairList(blocks, _pair_list(meets))
    return _work_list(blocks, meets)


def _pair_list(meets: jax.Array) -> jax.Array:
    """[B, T, T] -> [B, T * T + 1]."""
    every = meets.shape[1] ** 2
    flat = rearrange(meets, "b q k -> b (q k)")
    return jax.vmap(lambda row: jnp.nonzero(row, size=every + 1, fill_value=every)[0].astype(jnp.int32))(flat)


def _work_list(blocks: jax.Array, meets: jax.Array) -> WorkList:
    """Of [B, T, C] segment ids in blocks and [B, T, T] which of them meet."""
    count = blocks.shape[1]
    group = min(GROUP, count)
    # Turn by turn every query block gets its next key block, so that the queries of a turn are all different.
    rank = jnp.cumsum(meets, axis=2) - 1
    active = meets.sum(2, keepdims=True) > jnp.arange(count)  # [B, T, rank]
    padded = -(-active.sum(1) // group) * group
    first = jnp.cumsum(padded, axis=1) - padded
    place = first[:, None] + jnp.cumsum(active, axis=1) - 1
    capacity = count * (count + -count % group)
    slot = jnp.where(meets, jnp.take_along_axis(place, jnp.maximum(rank, 0), axis=2), capacity)
    block = jnp.arange(count)
    empty = jnp.full(capacity, count, jnp.int32)
    queries = jax.vmap(lambda places: empty.at[places].set(block[:, None], mode="drop"))(slot)
    keys = jax.vmap(lambda places: empty.at[places].set(block, mode="drop"))(slot)
    return WorkList(blocks, queries, keys, padded.sum(1).max() // group)


def computed_scores(segments: np.ndarray, implementation: str) -> int:
    """Scores that each head computes for host rows with these segment ids, [B, P], all rows together."""
    meets, size, by_kernel = _host_meetings(segments, implementation)
    if by_kernel:
        return int(meets.sum()) * size**2
    return _turns(meets) * min(GROUP, meets.shape[1]) * size**2 * len(segments)


def turns_of(segments: np.ndarray, implementation: str) -> int:
    """Turns of the loop over host rows with these segment ids, [B, P], or pairs that the kernels compute in the fullest."""
    meets, _, by_kernel = _host_meetings(segments, implementation)
    return int(meets.sum((1, 2)).max()) if by_kernel else _turns(meets)


def _turns(meets: np.ndarray) -> int:
    """Turns of four pairs, with different queries, that the fullest of [B, T, T] rows needs."""
    group = min(GROUP, meets.shape[1])
    together = (meets.sum(2)[:, :, None] > np.arange(meets.shape[1])).sum(1)  # [B, rank] blocks that have so many pairs
    return int((-(-together // group)).sum(1).max())


def _host_meetings(segments: np.ndarray, implementation: str) -> tuple[np.ndarray, int, bool]:
    """[B, T, T] which blocks meet, their size, and whether kernels compute them."""
    by_kernel = implementation == "splash"
    size = _block_size(segments.shape[1], by_kernel)
    segments = np.pad(segments, ((0, 0), (0, -segments.shape[1] % size)))
    meets = _meetings(rearrange(segments, "b (t c) -> b t c", c=size), np)
    return meets, size, by_kernel and meets.shape[1] > 1


def _block_size(length: int, by_kernel: bool) -> int:
    """Positions of a block of rows of that length."""
    return length if length <= SHORT else min(KERNEL_BLOCK if by_kernel else BLOCK, length)


def _meetings(blocks: Any, xp: Any) -> Any:
    """[B, T, C] segment ids -> [B, T, T] bool: blocks whose ranges of ids overlap; of NumPy or of JAX arrays."""
    high = blocks.max(-1)
    low = xp.where(blocks > 0, blocks, np.iinfo(np.int32).max).min(-1)
    return (low[:, :, None] <= high[:, None, :]) & (low[:, None, :] <= high[:, :, None])


def segment_attention(q: jax.Array, k: jax.Array, v: jax.Array, work: WorkList | PairList) -> jax.Array:
    """Scaled dot-product attention of [B, P, N, H] within the segments of the list; padding gets zeros.

    Scores, softmax and sums are in float32 whatever the inputs' type. On a mesh each device has whole rows of its own
    heads, as in `models.attention`.
    """
    length = q.shape[1]
    _, count, size = work.segments.shape
    if count == 1:
        segments = work.segments[:, 0]
        mixed = attention(q, k, v, query_segments=segments, key_segments=segments)
        return jnp.where((segments > 0)[..., None, None], mixed, 0)
    q, k, v = (gather_positions(x) for x in (q, k, v))
    padding = ((0, 0), (0, count * size - length), (0, 0), (0, 0))
    q, k, v = (jnp.pad(x, padding) for x in (q, k, v))
    if isinstance(work, PairList):
        attend: Any = _attend_pairs
        lists: Any = PairList
    else:
        attend, lists = _attend_list, WorkList
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:  # left to itself, XLA exchanges blocks in every turn
        spec = activation_spec(("rows", None, "attention_heads", None), q.shape, mesh)
        rows = PartitionSpec(spec[0])
        listed = lists(*(rows if x.ndim else PartitionSpec() for x in work))
        attend = jax.shard_map(attend, in_specs=(spec, spec, spec, listed), out_specs=spec, check_vma=False)
    return split_positions(attend(q, k, v, work)[:, :length])


def _attend_pairs(q: jax.Array, k: jax.Array, v: jax.Array, work: PairList) -> jax.Array:
    """[B, S, N, H] of one device, by the kernels."""
    q = (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)
    q, k, v = (checkpoint_name(x.swapaxes(1, 2), "attention_input") for x in (q, k, v))
    return attend_pairs(q, k, v, *work).swapaxes(1, 2)


def _attend_list(q: jax.Array, k: jax.Array, v: jax.Array, work: WorkList) -> jax.Array:
    """[B, S, N, H] of one device, by the loop."""
    q, k, v = (rearrange(x, "b (t c) n h -> b t n c h", c=work.segments.shape[2]) for x in (q, k, v))
    return rearrange(_attend(q, k, v, work), "b t n c h -> b (t c) n h")


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, work: WorkList) -> jax.Array:
    """[B, T, N, C, H] -> the same."""
    return _forward(q, k, v, work)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, work: WorkList) -> tuple[jax.Array, Any]:
    def turn(number: jax.Array, state: tuple) -> tuple:
        at_q, at_k = _pairs(work, number)
        mixed, top, total = (_take(x, at_q) for x in state)
        scores = _scores(_take(q, at_q), _take(k, at_k), work, at_q, at_k)
        new_top = jnp.maximum(top, scores.max(-1))
        weights = jnp.exp(scores - new_top[..., None])
        shrunk = jnp.exp(top - new_top)
        total = total * shrunk + weights.sum(-1)
        added = jnp.einsum(
            "bgnst,bgnth->bgnsh", weights.astype(v.dtype), _take(v, at_k), preferred_element_type=jnp.float32
        )
        new = (mixed * shrunk[..., None] + added, new_top, total)
        return tuple(_put(x, at_q, part) for x, part in zip(state, new))

    nothing = jnp.zeros(q.shape, jnp.float32)
    state = (nothing, jnp.full(q.shape[:-1], _LOWEST), nothing[..., 0])
    mixed, top, total = jax.lax.fori_loop(0, work.turns, turn, state)
    # A query without a key (padding) has met none or masked ones alone; masked scores weigh exp(0) there.
    real = (work.segments > 0)[:, :, None]
    total = jnp.where(real, total, 1.0)
    mixed = jnp.where(real[..., None], mixed / total[..., None], 0.0).astype(q.dtype)
    mixed = checkpoint_name(mixed, "attention_output")
    log_total = checkpoint_name(top + jnp.log(total), "attention_output")
    return mixed, (q, k, v, work, mixed, log_total)


def _backward(saved: Any, gradient: jax.Array) -> tuple:
    q, k, v, work, mixed, log_total = saved
    scale = q.shape[-1] ** -0.5
    delta = (gradient.astype(jnp.float32) * mixed.astype(jnp.float32)).sum(-1)
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def score_gradients(at_q: jax.Array, at_k: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Weights and gradients of the scores, [B, G, N, C queries, C keys]."""
        scores = _scores(_take(q, at_q), _take(k, at_k), work, at_q, at_k)
        weights = jnp.where(scores > _LOWEST, jnp.exp(scores - _take(log_total, at_q)[..., None]), 0.0)
        meant = product("bgnsh,bgnth->bgnst", _take(gradient, at_q), _take(v, at_k))
        return weights, weights * (meant - _take(delta, at_q)[..., None]) * scale

    def turn(number: jax.Array, state: tuple) -> tuple:
        # Meeting is mutual: the same pairs, read the other way round, give each block of keys all of its queries. So every
        # turn writes to blocks that are all different, and sums have one order.
        own, other = _pairs(work, number)
        dq, dk, dv = (_take(x, own) for x in state)
        dq += product("bgnst,bgnth->bgnsh", score_gradients(own, other)[1].astype(k.dtype), _take(k, other))
        weights, ds = score_gradients(other, own)
        dk += product("bgnst,bgnsh->bgnth", ds.astype(q.dtype), _take(q, other))
        dv += product("bgnst,bgnsh->bgnth", weights.astype(gradient.dtype), _take(gradient, other))
        return tuple(_put(x, own, part) for x, part in zip(state, (dq, dk, dv)))

    nothing = jnp.zeros(q.shape, jnp.float32)
    dq, dk, dv = jax.lax.fori_loop(0, work.turns, turn, (nothing, nothing, nothing))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attend.defvjp(_forward, _backward)


def _pairs(work: WorkList, turn: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B, G] blocks of queries and of keys of one turn."""
    group = min(GROUP, work.segments.shape[1])
    queries, keys = (jax.lax.dynamic_slice_in_dim(x, turn * group, group, 1) for x in (work.queries, work.keys))
    return queries, keys


def _take(x: jax.Array, at: jax.Array) -> jax.Array:
    """[B, T, ...] and [B, G] -> [B, G, ...]; where there is no pair, the last block, whose result `_put` drops."""
    return jax.vmap(lambda row, places: row.at[places].get(mode="clip"))(x, at)


def _put(x: jax.Array, at: jax.Array, blocks: jax.Array) -> jax.Array:
    return jax.vmap(lambda row, places, new: row.at[places].set(new, mode="drop", unique_indices=True))(x, at, blocks)


def _scores(q: jax.Array, k: jax.Array, work: WorkList, at_q: jax.Array, at_k: jax.Array) -> jax.Array:
    """[B, G, N, C queries, C keys] in float32; across segments the lowest number."""
    scores = jnp.einsum("bgnsh,bgnth->bgnst", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    sides = _take(work.segments, at_q)[..., :, None], _take(work.segments, at_k)[..., None, :]
    return jnp.where(((sides[0] == sides[1]) & (sides[0] > 0))[:, :, None], scores, _LOWEST)
