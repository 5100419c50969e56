"""The language model of Qwen-VL: Qwen-7B (`modeling_qwen.py` of the original).

Shape legend: B rows, S tokens, T cached positions, D width, N heads, H head size, F mlp width, V vocabulary, L layers.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qwenvl_jax.config import LanguageConfig, PrecisionConfig
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


class Cache(NamedTuple):
    """Keys and values of past positions, stacked over layers.

    Attributes:
      k: [L, B, T, N, H].
      v: [L, B, T, N, H].
      segment_ids: [B, T] int32, 0 where nothing is cached (or where padding was).
      length: int32 scalar, positions written so far.
      doublings: [B] int32, how often the training length doubles before the row's prompt fits; chosen when the prompt is
        read, kept for every later token, as the original keeps its `ntk_alpha`.
    """

    k: jax.Array
    v: jax.Array
    segment_ids: jax.Array
    length: jax.Array
    doublings: jax.Array


class LanguageBlock(nnx.Module):
    """All decoder blocks, stacked."""

    def __init__(self, config: LanguageConfig, implementation: str, rngs: nnx.Rngs):
        self.implementation = implementation
        d, n, f, layers = config.width, config.heads, config.mlp_width, config.layers
        h = d // n
        inward: dict[str, Any] = {
            "shape": (d, n, h),
            "axes": ("embed", "heads", "head"),
            "bias": (1, 2),
            "layers": layers,
        }
        residual = normal((2 * layers * d) ** -0.5)
        self.norm_1 = RMSNorm(d, rngs, layers)
        self.q = Projection("bsd,dnh->bsnh", rngs=rngs, **inward)
        self.k = Projection("bsd,dnh->bsnh", rngs=rngs, **inward)
        self.v = Projection("bsd,dnh->bsnh", rngs=rngs, **inward)
        self.out = Projection(
            "bsnh,nhd->bsd", (n, h, d), ("heads", "head", "embed"), rngs, layers=layers, init=residual
        )
        self.norm_2 = RMSNorm(d, rngs, layers)
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
        cached: tuple[jax.Array, jax.Array] | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        y = self.norm_1(x)
        lanes = self.implementation == "splash"  # that is, on a TPU
        q, k, v = apply_rotary(self.q(y), query_angles, lanes), apply_rotary(self.k(y), key_angles, lanes), self.v(y)
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


def empty_cache(config: LanguageConfig, rows: int, length: int, dtype: str) -> Cache:
    """A cache for `length` positions."""
    shape = (config.layers, rows, length, config.heads, config.width // config.heads)
    empty = jnp.zeros(shape, jnp.dtype(dtype))
    return Cache(
        empty, empty, jnp.zeros((rows, length), jnp.int32), jnp.int32(0), jnp.zeros(rows, jnp.int32)
    )  # fmt: skip


def training_lengths(config: LanguageConfig, longest: int) -> np.ndarray:
    """The training length times 1, 2, 4, ... as far as below `longest`: each that a prompt exceeds is one doubling."""
    doublings = max(0, math.ceil(math.log2(longest / config.training_length))) if config.dynamic_ntk else 0
    return config.training_length * 2 ** np.arange(doublings)


def ntk_frequencies(config: LanguageConfig, doublings: int) -> np.ndarray:
    """[doublings + 1, H/2] rotary frequencies of prompts whose length doubles the training length 0, 1, ... times.

    The base grows by alpha ** (H / (H - 2)), alpha = 2 ** (n + 1) - 1 (`get_ntk_alpha` of the original).
    """
    h = config.width // config.heads
    alphas = [2.0 ** (n + 1) - 1 for n in range(doublings + 1)]
    return np.stack([rotary_frequencies(h, config.rope_base * alpha ** (h / (h - 2))) for alpha in alphas])


def logn_scale(config: LanguageConfig, positions: jax.Array) -> jax.Array:
    """Factor of the query at each position: log of (position + 1) to the base of the training length, at least 1."""
    return jnp.maximum(jnp.log(positions + 1.0) / math.log(config.training_length), 1.0)


class LanguageModel(nnx.Module):
    """Embeddings to hidden states; `head` gives logits."""

    def __init__(self, config: LanguageConfig, precision: PrecisionConfig, rngs: nnx.Rngs):
        self.config, self.precision = config, precision
        # Of the size of the vision tokens and of what blocks add (the original's 0.02 suits a width of 4096).
        self.embedding = parameter(rngs, normal(0.5), (config.vocab_size, config.width), ("vocab", "embed"))
        self.blocks = LanguageBlock(config, precision.attention, rngs)
        self.norm = RMSNorm(config.width, rngs)
        self.head = Projection("bsd,dv->bsv", (config.width, config.vocab_size), ("embed", "vocab"), rngs)

    @jax.named_scope("language")
    def embed(self, tokens: jax.Array) -> jax.Array:
        """[B, S] ids -> [B, S, D] in the compute type."""
        # Every device looks all ids up in its columns of the table; the rows are then exchanged. The table never moves.
        embedded = self.embedding[...][constrain(tokens, None, None)]
        return constrain(embedded.astype(jnp.dtype(self.precision.compute)), "rows", "stream", None)

    def empty_cache(self, rows: int, length: int) -> Cache:
        """A cache for `length` positions of each row."""
        return empty_cache(self.config, rows, length, self.precision.compute)

    @jax.named_scope("language")
    def __call__(self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
        """[B, S, D] embeddings -> [B, S, D] hidden states; positions and segment_ids are [B, S].

        As the original trains: neither dynamic NTK nor logn, whatever the length.
        """
        config = self.config
        angles = rotary_angles(positions, rotary_frequencies(config.width // config.heads, config.rope_base))
        x, _ = self._layers(x, angles, angles, segment_ids, segment_ids, 0, None)
        return self.norm(x)

    def extend(
        self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """The next S tokens of rows with a cache: x [B, S, D], positions and segment_ids [B, S].

        The first call (the prompts, padded on the left with segment 0) fills an empty cache; later ones add a token.
        Prompts longer than the training length get dynamic NTK and logn. Unlike in the original, padding counts neither as
        position nor as length: a row's result does not depend on the rows beside it.
        """
        lengths = training_lengths(self.config, cache.k.shape[2])
        prompt = (segment_ids > 0).sum(-1)
        doublings = jnp.where(cache.length == 0, (prompt[:, None] > lengths).sum(-1), cache.doublings)
        frequencies = jnp.asarray(ntk_frequencies(self.config, len(lengths)))[doublings][:, None, None]
        key_angles = query_angles = rotary_angles(positions, frequencies)
        if self.config.logn:
            scale = logn_scale(self.config, positions)[..., None, None]
            query_angles = (key_angles[0] * scale, key_angles[1] * scale)

        seen = jax.lax.dynamic_update_slice_in_dim(cache.segment_ids, segment_ids, cache.length, 1)
        x, (k, v) = self._layers(x, query_angles, key_angles, segment_ids, seen, cache.length, (cache.k, cache.v))
        return self.norm(x), Cache(k, v, seen, cache.length + x.shape[1], doublings.astype(jnp.int32))

    def _layers(self, x: jax.Array, *shared_and_cache: Any) -> tuple[jax.Array, Any]:
        *shared, cached = shared_and_cache
        remat, unroll = self.precision.remat, self.precision.unroll
        return scan_layers(self.blocks, x, *shared, remat=remat, unroll=unroll, per_layer=cached)
