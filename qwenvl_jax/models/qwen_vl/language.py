"""The language model of Qwen-VL: Qwen-7B (`modeling_qwen.py` of the original).

Shape legend: B rows, S tokens, T cached positions, D width, N heads, H head size, F mlp width, V vocabulary, L layers.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qwenvl_jax.config import LanguageConfig, PrecisionConfig
from qwenvl_jax.models import decoder
from qwenvl_jax.models.layers import Projection, RMSNorm, normal, parameter, rotary_angles, rotary_frequencies
from qwenvl_jax.parallel.activations import constrain


class Cache(NamedTuple):
    """What decoding keeps of past positions.

    Attributes:
      past: their keys and values.
      doublings: [B] int32, how often the training length doubles before the row's prompt fits; chosen when the prompt is
        read, kept for every later token, as the original keeps its `ntk_alpha`.
    """

    past: decoder.Cache
    doublings: jax.Array


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
        self.blocks = decoder.DecoderBlock(
            config.width, config.heads, config.heads, config.mlp_width, config.layers, rngs,
            norm_eps=1e-6, implementation=precision.attention,
        )  # fmt: skip
        self.norm = RMSNorm(config.width, rngs)
        self.head = Projection("bsd,dv->bsv", (config.width, config.vocab_size), ("embed", "vocab"), rngs)

    @jax.named_scope("language")
    def embed(self, tokens: jax.Array) -> jax.Array:
        """[B, S] ids -> [B, S, D] in the compute type."""
        # Every device looks all ids up in its columns of the table; the rows are then exchanged. The table never moves.
        embedded = self.embedding[...][constrain(tokens, None, None)]
        embedded = constrain(embedded.astype(jnp.dtype(self.precision.compute)), "rows", None, "columns")
        return constrain(embedded, "rows", "stream", None)

    def empty_cache(self, rows: int, length: int) -> Cache:
        """A cache for `length` positions of each row."""
        config, dtype = self.config, self.precision.compute
        past = decoder.empty_cache(config.layers, rows, config.heads, length, config.width // config.heads, dtype)
        return Cache(past, jnp.zeros(rows, jnp.int32))

    @jax.named_scope("language")
    def __call__(self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
        """[B, S, D] embeddings -> [B, S, D] hidden states; positions and segment_ids are [B, S].

        As the original trains: neither dynamic NTK nor logn, whatever the length.
        """
        config = self.config
        angles = rotary_angles(positions, rotary_frequencies(config.width // config.heads, config.rope_base))
        return self.norm(decoder.run_blocks(self.blocks, self.precision, x, angles, angles, segment_ids))

    def extend(
        self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """The next S tokens of rows with a cache: x [B, S, D], positions and segment_ids [B, S].

        The first call (the prompts, padded on the left with segment 0) fills an empty cache; later ones add a token.
        Prompts longer than the training length get dynamic NTK and logn. Unlike in the original, padding counts neither as
        position nor as length: a row's result does not depend on the rows beside it.
        """
        past = cache.past
        lengths = training_lengths(self.config, past.segment_ids.shape[1])
        prompt = (segment_ids > 0).sum(-1)
        doublings = jnp.where(past.length == 0, (prompt[:, None] > lengths).sum(-1), cache.doublings)
        frequencies = jnp.asarray(ntk_frequencies(self.config, len(lengths)))[doublings][:, None, None]
        key_angles = query_angles = rotary_angles(positions, frequencies)
        if self.config.logn:
            scale = logn_scale(self.config, positions)[..., None, None]
            query_angles = (key_angles[0] * scale, key_angles[1] * scale)

        x, past = decoder.extend_blocks(self.blocks, self.precision, x, query_angles, key_angles, segment_ids, past)
        return self.norm(x), Cache(past, doublings.astype(jnp.int32))
