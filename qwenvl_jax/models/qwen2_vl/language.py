"""The language model of Qwen2-VL: Qwen2 with grouped-query attention and M-RoPE (`model` of the original).

Shape legend: B rows, S tokens, T cached positions, D width, N heads, K heads of keys and values, H head size, F mlp width,
V vocabulary, L layers.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qwenvl_jax.config import PrecisionConfig, Qwen2LanguageConfig
from qwenvl_jax.models.attention import attention
from qwenvl_jax.models.layers import (
    Projection,
    RMSNorm,
    apply_rotary,
    gated,
    normal,
    parameter,
    rotary_angles,
    rotary_frequencies,
    scan_layers,
)
from qwenvl_jax.parallel.activations import constrain

Angles = tuple[jax.Array, jax.Array]


def mrope_angles(positions: jax.Array, config: Qwen2LanguageConfig) -> Angles:
    """cos and sin [B, S, 1, H/2]: a head's pairs turn, section by section, with the position in time, row and column.

    Where the three are equal (text) this is the usual rotary embedding. Angles are rotated in float32; the original rounds
    them to the compute type.

    Args:
      positions: [B, 3, S].
    """
    frequencies = rotary_frequencies(config.width // config.heads, config.rope_base)
    ends = np.cumsum((0, *config.mrope_sections))
    sections = [(axis, slice(*section)) for axis, section in enumerate(pairwise(ends))]
    cos, sin = (
        jnp.concatenate([a[:, axis, ..., part] for axis, part in sections], axis=-1)  # a: [B, 3, S, 1, H/2]
        for a in rotary_angles(positions, frequencies)
    )
    return cos, sin


class Cache(NamedTuple):
    """Keys and values of past positions, stacked over layers.

    Attributes:
      k: [L, B, T, K, H].
      v: [L, B, T, K, H].
      segment_ids: [B, T] int32, 0 where nothing is cached (or where padding was).
      length: int32 scalar, positions written so far.
    """

    k: jax.Array
    v: jax.Array
    segment_ids: jax.Array
    length: jax.Array


def empty_cache(config: Qwen2LanguageConfig, rows: int, length: int, dtype: str) -> Cache:
    """A cache for `length` positions."""
    shape = (config.layers, rows, length, config.kv_heads, config.width // config.heads)
    empty = jnp.zeros(shape, jnp.dtype(dtype))
    return Cache(empty, empty, jnp.zeros((rows, length), jnp.int32), jnp.int32(0))


class LanguageBlock(nnx.Module):
    """All decoder blocks, stacked."""

    def __init__(self, config: Qwen2LanguageConfig, implementation: str, rngs: nnx.Rngs):
        self.implementation = implementation
        d, n, k, f, layers = config.width, config.heads, config.kv_heads, config.mlp_width, config.layers
        h, eps = d // n, config.norm_eps
        shared: dict[str, Any] = {
            "shape": (d, k, h),
            "axes": ("embed", "kv_heads", "head"),
            "bias": (1, 2),
            "layers": layers,
        }
        residual = normal((2 * layers * d) ** -0.5)
        self.norm_1 = RMSNorm(d, rngs, layers, eps)
        self.q = Projection("bsd,dnh->bsnh", (d, n, h), ("embed", "heads", "head"), rngs, bias=(1, 2), layers=layers)
        self.k = Projection("bsd,dkh->bskh", rngs=rngs, **shared)
        self.v = Projection("bsd,dkh->bskh", rngs=rngs, **shared)
        self.out = Projection(
            "bsnh,nhd->bsd", (n, h, d), ("heads", "head", "embed"), rngs, layers=layers, init=residual
        )
        self.norm_2 = RMSNorm(d, rngs, layers, eps)
        self.gate = Projection("bsd,df->bsf", (d, f), ("embed", "mlp"), rngs, layers=layers)
        self.up = Projection("bsd,df->bsf", (d, f), ("embed", "mlp"), rngs, layers=layers)
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
        angles: Angles,
        query_segments: jax.Array,
        key_segments: jax.Array,
        start: jax.Array | int,
        cached: tuple[jax.Array, jax.Array] | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        y = self.norm_1(x)
        lanes = self.implementation == "splash"  # that is, on a TPU
        q, k, v = apply_rotary(self.q(y), angles, lanes), apply_rotary(self.k(y), angles, lanes), self.v(y)
        if cached is not None:
            k, v = (jax.lax.dynamic_update_slice_in_dim(c, t, start, 1) for c, t in zip(cached, (k, v)))
            cached = (k, v)
        x = x + self.out(
            attention(
                q, k, v,
                query_segments=query_segments, key_segments=key_segments, causal=True, query_start=start,
                implementation=self.implementation,
            )
        )  # fmt: skip
        y = self.norm_2(x)
        x = x + self.down(gated(self.up(y), self.gate(y)))
        return x, cached


class TiedHead(nnx.Module):
    """The embedding as output layer; has no parameter of its own."""

    def __init__(self, embedding: nnx.Param):
        self.embedding = embedding

    @property
    def kernel(self) -> jax.Array:
        """[D, V], as that of a `Projection`."""
        return self.embedding[...].T

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.einsum("bsd,vd->bsv", x, self.embedding[...].astype(x.dtype))


class LanguageModel(nnx.Module):
    """Embeddings to hidden states; `head` gives logits."""

    def __init__(self, config: Qwen2LanguageConfig, precision: PrecisionConfig, rngs: nnx.Rngs):
        self.config, self.precision = config, precision
        d, v = config.width, config.vocab_size
        # A tied embedding is also the head, whose logits shall start with a size of one.
        self.embedding = parameter(rngs, normal(d**-0.5 if config.tied else 0.5), (v, d), ("vocab", "embed"))
        self.blocks = LanguageBlock(config, precision.attention, rngs)
        self.norm = RMSNorm(d, rngs, eps=config.norm_eps)
        self.head = (
            TiedHead(self.embedding) if config.tied else Projection("bsd,dv->bsv", (d, v), ("embed", "vocab"), rngs)
        )

    @jax.named_scope("language")
    def embed(self, tokens: jax.Array) -> jax.Array:
        """[B, S] ids -> [B, S, D] in the compute type."""
        # As in Qwen-VL: ids are looked up in every device's columns of the table, which never moves.
        embedded = self.embedding[...][constrain(tokens, None, None)]
        return constrain(embedded.astype(jnp.dtype(self.precision.compute)), "rows", "stream", None)

    def empty_cache(self, rows: int, length: int) -> Cache:
        """A cache for `length` positions of each row."""
        return empty_cache(self.config, rows, length, self.precision.compute)

    @jax.named_scope("language")
    def __call__(self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
        """[B, S, D] embeddings -> [B, S, D] hidden states; positions are [B, 3, S], segment_ids [B, S]."""
        x, _ = self._layers(x, mrope_angles(positions, self.config), segment_ids, segment_ids, 0, None)
        return self.norm(x)

    def extend(
        self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """The next S tokens of rows with a cache: x [B, S, D], positions [B, 3, S], segment_ids [B, S].

        The first call (the prompts, padded on the left with segment 0) fills an empty cache; later ones add a token, whose
        position follows the prompt's last one on all three axes.
        """
        seen = jax.lax.dynamic_update_slice_in_dim(cache.segment_ids, segment_ids, cache.length, 1)
        angles = mrope_angles(positions, self.config)
        x, (k, v) = self._layers(x, angles, segment_ids, seen, cache.length, (cache.k, cache.v))
        return self.norm(x), Cache(k, v, seen, cache.length + x.shape[1])

    def _layers(self, x: jax.Array, *shared_and_cache: Any) -> tuple[jax.Array, Any]:
        *shared, cached = shared_and_cache
        remat, unroll = self.precision.remat, self.precision.unroll
        return scan_layers(self.blocks, x, *shared, remat=remat, unroll=unroll, per_layer=cached)
