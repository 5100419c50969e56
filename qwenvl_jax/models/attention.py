"""The one attention function of all models.

Where a mesh splits rows over `context`, every device comes with some positions of its heads and leaves with them; in between
all-to-alls give it all positions of fewer heads (Jacobs et al. 2023, DeepSpeed Ulysses). So masks, kernels and the work
lists of the vision tower are those of one device, and causal attention keeps all devices busy alike. It moves
(2 + 2 K / N) / context of what a layer's queries hold. Gathering keys and values instead would ask for nothing of the number
of heads, but would need a mask for each part of the queries, would let all devices wait for the one with the last of them,
and would not do for the vision tower, whose lists of blocks are made for queries and keys at once.

Shape legend: B rows, S query positions, T key positions, N heads, K heads of keys and values, G = N / K, H head size.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from qwenvl_jax.models.splash import LANES, splash_attention
from qwenvl_jax.parallel.activations import gather_positions, shards, split_positions

IMPLEMENTATIONS = ("auto", "xla", "splash", "cudnn")
"""`auto`: splash on a TPU, XLA elsewhere; on a GPU too, as cuDNN's kernel has not been measured here."""
CAUSAL_BLOCKS = (256, 128)
"""Queries per block of causal self-attention, the first that divides a row: rows of 384 compute two thirds of the scores
that one block would, and a step of `tiny` takes 0.9 of the time."""
CPU_LANES = 32
"""Keys whose sums are kept apart on a CPU in the first step: two of AVX-512's registers; XLA itself splits longer sums."""
LONG = 2048
"""Rows from this length on hold the scores of one block of LONG_BLOCKS queries at a time, in the backward pass too: forward
and backward over 20,480 positions and 4 heads of 64 take 0.8 GB in float32 (all scores: 6.7; counted by XLA, on a CPU)."""
LONG_BLOCKS = (512, 256, 128)
STRETCHES = 4
"""Equal parts of a long row, each of which meets the keys up to its end: 5 / 8 of all scores, in four loops."""


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    query_segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    causal: bool = False,
    query_start: jax.Array | int = 0,
    implementation: str = "xla",
    scale: float | None = None,
) -> jax.Array:
    """Scaled dot-product attention, [B, S, N, H] x [B, T, K, H] -> [B, S, N, H]; head n meets keys and values n // G.

    Softmax runs in float32 whatever the inputs' type (the PyTorch original stays in bf16).

    Args:
      query_segments: [B, S] int; a query sees the keys of its own segment only. None: everything.
      key_segments: [B, T] int.
      causal: query s stands at position query_start + s and sees the keys up to that position.
      query_start: positions before the first query (the filled part of a KV cache).
      implementation: one of IMPLEMENTATIONS. Queries behind a cache always run in XLA: kernels want static masks.
      scale: of the scores; None: H ** -0.5. Heads that are filled up with zeros (see `kernel_head_size`) need their own.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k, v = (_enough_heads(x, q.shape[2]) for x in (k, v))
    q, k, v = (gather_positions(x) for x in (q, k, v))
    resolved = resolve_implementation(implementation, jax.default_backend())
    if resolved == "splash" and isinstance(query_start, int):
        mixed = splash_attention(q, k, v, query_segments, key_segments, causal, "attention_output", scale)
    elif resolved == "cudnn" and isinstance(query_start, int):
        mixed = _cudnn_attention(q, k, v, query_segments, key_segments, causal, scale)
    else:
        mixed = _xla_attention(q, k, v, query_segments, key_segments, causal, query_start, scale)
    return split_positions(mixed)


def kernel_head_size(size: int, implementation: str) -> int:
    """The size that heads are best projected to: where a TPU's kernel runs, multiples of what its registers hold.

    Filling up the small kernels of projections instead of their results, and never cutting what attention gives, is worth 30
    ms of a step of `qwen-vl` on a v5p, whose ViT has heads of 104.
    """
    splash = resolve_implementation(implementation, jax.default_backend()) == "splash"
    return size + -size % LANES if splash else size


def _enough_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B, T, K, H] keys or values, each head as often as needed for every device to get one with its heads of queries."""
    parts = shards("attention_heads")
    times = parts // math.gcd(parts, x.shape[2])
    return x if times == 1 or heads % parts else jnp.repeat(x, times, axis=2)


def _xla_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    causal: bool,
    query_start: jax.Array | int,
    scale: float,
) -> jax.Array:
    """As `attention`, of one device's heads."""
    q, k, v = (checkpoint_name(x, "attention_input") for x in (q, k, v))
    block, long_block = causal_block(q.shape[1]), causal_long_block(q.shape[1])
    of_itself = causal and isinstance(query_start, int) and q.shape[1] == k.shape[1]
    if of_itself and long_block:
        mixed = _long_causal(q, k, v, query_segments, key_segments, long_block, scale)
    elif of_itself and block < q.shape[1]:
        # A block of queries meets only the keys up to its end: (n + 1) / 2n of the scores for n blocks.
        ends = range(block, q.shape[1] + 1, block)
        parts = [
            _dense(
                q[:, end - block : end],
                k[:, :end],
                v[:, :end],
                None if query_segments is None else query_segments[:, end - block : end],
                None if key_segments is None else key_segments[:, :end],
                end - block,
                scale,
            )
            for end in ends
        ]
        mixed = jnp.concatenate(parts, axis=1)
    else:
        mixed = _dense(q, k, v, query_segments, key_segments, query_start if causal else None, scale)
    return checkpoint_name(mixed, "attention_output")


def _cudnn_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    causal: bool,
    scale: float,
) -> jax.Array:
    """As `attention`, by cuDNN's flash attention, which JAX has for NVIDIA's GPUs.

    It knows no segments: they become a bias of the inputs' type in the device's memory, [B, 1, S, T], 0.8 GB for a row of
    20,480 positions, and what they empty is computed.

    Raises:
      ValueError: the inputs have 32 bits.
    """
    if q.dtype.itemsize != 2:
        raise ValueError(
            f"precision.attention=cudnn computes in bfloat16, not in {q.dtype}; set precision.compute=bfloat16, "
            "or precision.attention=xla"
        )
    q, k, v = (checkpoint_name(x, "attention_input") for x in (q, k, v))
    mask = None
    if query_segments is not None and key_segments is not None:
        mask = query_segments[:, None, :, None] == key_segments[:, None, None, :]
    mixed = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, scale=scale, implementation="cudnn")
    return checkpoint_name(mixed, "attention_output")


def resolve_implementation(implementation: str, platform: str) -> str:
    """What `auto` means on devices of that platform (`tpu`, `gpu`, `cpu`).

    Raises:
      ValueError: there is no such implementation.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"precision.attention={implementation!r} is none of {', '.join(IMPLEMENTATIONS)}")
    if implementation == "auto":
        return "splash" if platform == "tpu" else "xla"
    return implementation


def causal_block(length: int) -> int:
    """Queries per block in which causal self-attention over `length` positions runs; `length` where it is one block."""
    return next((block for block in CAUSAL_BLOCKS if length > block and length % block == 0), length)


def causal_long_block(length: int) -> int:
    """Queries per block of causal self-attention over a long row; 0 where it is not long, or no block divides it."""
    return next((b for b in LONG_BLOCKS if length >= LONG and length % (b * STRETCHES) == 0), 0)


def mean_keys(length: int) -> float:
    """Scores that causal self-attention needs per query, on average over `length` positions. Long rows compute more (see
    STRETCHES), which is not counted as work done."""
    block = causal_block(length)
    return (length + block) / 2 if block < length else length


@jax.custom_vjp
def softmax(scores: jax.Array) -> jax.Array:
    """[..., T], over the last axis; of float32."""
    weights = jnp.exp(scores - _over_keys(jnp.max, scores))
    return weights / _over_keys(jnp.sum, weights)


def _softmax_forward(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    weights = softmax(scores)
    return weights, weights


def _softmax_backward(weights: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (weights * (gradient - _over_keys(jnp.sum, weights * gradient)),)


softmax.defvjp(_softmax_forward, _softmax_backward)


def _over_keys(reduction: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
    """The reduction of [..., T] over its last axis, which stays with a size of 1.

    On a CPU in two steps, of which the first adds vectors: XLA reduces the fastest axis number by number. Maxima and sums of
    [2, 6, 352, 352] take 0.15 ms instead of 0.93, and a step of stage `multitask` of `tiny-qwen2` 0.95 of its time.
    """
    whole = partial(reduction, axis=-1, keepdims=True)
    if x.shape[-1] % CPU_LANES or x.shape[-1] == CPU_LANES:
        return whole(x)

    def in_two_steps(x: jax.Array) -> jax.Array:
        parts = reduction(x.reshape(*x.shape[:-1], -1, CPU_LANES), axis=-2)
        return whole(jax.lax.optimization_barrier(parts))  # XLA would make one of two sums

    return jax.lax.platform_dependent(x, cpu=in_two_steps, default=whole)


def _long_causal(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    block: int,
    scale: float,
) -> jax.Array:
    """Causal self-attention that never holds more than `block` queries' scores: the backward pass computes them again."""
    rows, length = q.shape[:2]
    stretch = length // STRETCHES
    everyone = jnp.ones((rows, length), jnp.int32)
    query_segments = everyone if query_segments is None else query_segments
    key_segments = everyone if key_segments is None else key_segments
    # In float32, as the loops sum the gradients of keys and values over the blocks of queries in this type.
    k32, v32 = k.astype(jnp.float32), v.astype(jnp.float32)
    ends = range(stretch, length + 1, stretch)
    parts = [
        _in_blocks(
            q[:, end - stretch : end],
            k32[:, :end],
            v32[:, :end],
            query_segments[:, end - stretch : end],
            key_segments[:, :end],
            block,
            scale,
        )
        for end in ends
    ]
    return jnp.concatenate(parts, axis=1)


def _in_blocks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    block: int,
    scale: float,
) -> jax.Array:
    """The last queries of a causal sequence in a loop over blocks of them, each of which meets all keys."""

    @jax.checkpoint
    def of_block(queries: jax.Array, own: jax.Array, start: jax.Array) -> jax.Array:
        return _dense(queries, k.astype(queries.dtype), v.astype(queries.dtype), own, key_segments, start, scale)

    blocks = (
        rearrange(q, "b (n s) h d -> n b s h d", s=block),
        rearrange(query_segments, "b (n s) -> n b s", s=block),
        jnp.arange(k.shape[1] - q.shape[1], k.shape[1], block),
    )
    mixed = jax.lax.map(lambda x: of_block(*x), blocks)
    return rearrange(mixed, "n b s h d -> b (n s) h d")


def _dense(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    query_start: jax.Array | int | None,
    scale: float,
) -> jax.Array:
    """All scores at once; `query_start` None means that no order is imposed."""
    # The queries of a group as if they were more positions: with an axis of their own XLA on a CPU lays scores out anew.
    length, joined = q.shape[1], rearrange(q, "b s (k g) h -> b k (g s) h", k=k.shape[2])
    scores = jnp.einsum("bkqh,btkh->bkqt", joined, k, preferred_element_type=jnp.float32) * scale
    mask = None
    if query_segments is not None and key_segments is not None:
        mask = query_segments[:, :, None] == key_segments[:, None, :]
    if query_start is not None:
        order = jnp.arange(length)[:, None] + query_start >= jnp.arange(k.shape[1])
        mask = order[None] if mask is None else mask & order
    if mask is not None:
        grouped = rearrange(scores, "b k (g s) t -> b k g s t", s=length)
        grouped = jnp.where(mask[:, None, None], grouped, jnp.finfo(jnp.float32).min)
        scores = rearrange(grouped, "b k g s t -> b k (g s) t")
    weights = softmax(scores).astype(v.dtype)
    return rearrange(jnp.einsum("bkqt,btkh->bkqh", weights, v), "b k (g s) h -> b s (k g) h", s=length)
