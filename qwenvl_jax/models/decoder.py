"""The decoder block of Qwen and Qwen2, and the cache of its keys and values.

Shape legend: B rows, S tokens, T cached positions, D width, N heads, K heads of keys and values, H head size, F mlp width,
L layers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from qwenvl_jax.config import PrecisionConfig
from qwenvl_jax.models.attention import attention
from qwenvl_jax.models.layers import Projection, RMSNorm, apply_rotary, gated, normal, scan_layers
from qwenvl_jax.parallel.activations import constrain, gather_stream

Angles = tuple[jax.Array, jax.Array]
"""cos and sin, [B, S, 1, H/2] each."""


class Cache(NamedTuple):
    """Keys and values of past positions, stacked over layers.

    A head's positions lie behind one another: attention reads them as they are, [B, T, K, H] it would first lay out anew.

    Attributes:
      k: [L, B, K, T, H].
      v: [L, B, K, T, H].
      segment_ids: [B, T] int32, 0 where nothing is cached (or where padding was).
      length: int32 scalar, positions written so far.
    """

    k: jax.Array
    v: jax.Array
    segment_ids: jax.Array
    length: jax.Array


def empty_cache(layers: int, rows: int, heads: int, length: int, head_size: int, dtype: str) -> Cache:
    """A cache for `length` positions; `heads` are those of keys and values."""
    empty = jnp.zeros((layers, rows, heads, length, head_size), jnp.dtype(dtype))
    return Cache(empty, empty, jnp.zeros((rows, length), jnp.int32), jnp.int32(0))


class DecoderBlock(nnx.Module):
    """All decoder blocks, stacked: causal attention with rotary positions, then SwiGLU, each behind an RMSNorm."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        mlp_width: int,
        layers: int,
        rngs: nnx.Rngs,
        *,
        norm_eps: float,
        implementation: str,
    ):
        """`implementation` is one of `attention.IMPLEMENTATIONS`."""
        self.implementation = implementation
        d, n, k, f, h = width, heads, kv_heads, mlp_width, width // heads
        of_keys: dict[str, Any] = {
            "shape": (d, k, h),
            "axes": ("embed", "heads" if k == n else "kv_heads", "head"),
            "bias": (1, 2),
            "layers": layers,
        }
        self.norm_1 = RMSNorm(d, rngs, layers, norm_eps)
        self.q = Projection("bsd,dnh->bsnh", (d, n, h), ("embed", "heads", "head"), rngs, bias=(1, 2), layers=layers)
        self.k = Projection("bsd,dkh->bskh", rngs=rngs, **of_keys)
        self.v = Projection("bsd,dkh->bskh", rngs=rngs, **of_keys)
        self.out = Projection(
            "bsnh,nhd->bsd",
            (n, h, d),
            ("heads", "head", "embed"),
            rngs,
            layers=layers,
            init=normal((2 * layers * d) ** -0.5),
        )
        self.norm_2 = RMSNorm(d, rngs, layers, norm_eps)
        self.up = Projection("bsd,df->bsf", (d, f), ("embed", "mlp"), rngs, layers=layers)
        self.gate = Projection("bsd,df->bsf", (d, f), ("embed", "mlp"), rngs, layers=layers)
        self.down = Projection(
            "bsf,fd->bsd",
            (f, d),
            ("mlp", "embed"),
            rngs,
            layers=layers,
            init=normal((2 * layers * f) ** -0.5),
        )

    def __call__(
        self,
        x: jax.Array,
        query_angles: Angles,
        key_angles: Angles,
        query_segments: jax.Array,
        key_segments: jax.Array,
        start: jax.Array | int,
        cached: tuple[jax.Array, tuple[jax.Array, jax.Array]] | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """One layer: `cached` is its number and the keys and values of all layers, which come back with its own written."""
        y = gather_stream(self.norm_1(x))
        lanes = self.implementation == "splash"  # that is, on a TPU
        q, k, v = apply_rotary(self.q(y), query_angles, lanes), apply_rotary(self.k(y), key_angles, lanes), self.v(y)
        stored = None
        if cached is not None:
            layer, (stored_k, stored_v) = cached
            stored_k, k = _write(stored_k, k, layer, start)
            stored_v, v = _write(stored_v, v, layer, start)
            stored = stored_k, stored_v
        x = x + self.out(
            attention(
                q, k, v,
                query_segments=query_segments, key_segments=key_segments, causal=True, query_start=start,
                implementation=self.implementation,
            )
        )  # fmt: skip
        y = gather_stream(self.norm_2(x))
        x = x + self.down(gated(self.up(y), self.gate(y)))
        return x, stored


def _write(stored: jax.Array, new: jax.Array, layer: jax.Array, start: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """Writes a layer's new positions [B, S, K, H] into [L, B, K, T, H]; also gives the layer's whole [B, T, K, H]."""
    stored = jax.lax.dynamic_update_slice(stored, new.swapaxes(1, 2)[None], (layer, 0, 0, start, 0))
    whole = jax.lax.dynamic_index_in_dim(stored, layer, keepdims=False)
    return stored, whole.swapaxes(1, 2)


def run_blocks(
    blocks: DecoderBlock,
    precision: PrecisionConfig,
    x: jax.Array,
    query_angles: Angles,
    key_angles: Angles,
    segment_ids: jax.Array,
) -> jax.Array:
    """[B, S, D] -> [B, S, D] through all layers; segment_ids is [B, S]."""
    segment_ids = constrain(segment_ids, "rows", None)  # all positions meet in every layer
    x, _ = scan_layers(
        blocks, x, query_angles, key_angles, segment_ids, segment_ids, 0,
        remat=precision.remat, unroll=precision.unroll,
    )  # fmt: skip
    return x


def extend_blocks(
    blocks: DecoderBlock,
    precision: PrecisionConfig,
    x: jax.Array,
    query_angles: Angles,
    key_angles: Angles,
    segment_ids: jax.Array,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """`run_blocks` of the S tokens that follow the cache, and the cache with them."""
    seen = jax.lax.dynamic_update_slice_in_dim(cache.segment_ids, segment_ids, cache.length, 1)
    x, (k, v) = scan_layers(
        blocks, x, query_angles, key_angles, segment_ids, seen, cache.length,
        remat=precision.remat, unroll=precision.unroll, carried=(cache.k, cache.v),
    )  # fmt: skip
    return x, Cache(k, v, seen, cache.length + x.shape[1])
