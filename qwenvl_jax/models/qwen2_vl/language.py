"""The language model of Qwen2-VL: Qwen2 with grouped-query attention and M-RoPE (`model` of the original).

Shape legend: B rows, S tokens, T cached positions, D width, N heads, K heads of keys and values, H head size, F mlp width,
V vocabulary, L layers.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qwenvl_jax.config import PrecisionConfig, Qwen2LanguageConfig
from qwenvl_jax.models import decoder
from qwenvl_jax.models.decoder import Angles, Cache
from qwenvl_jax.models.layers import Projection, RMSNorm, normal, parameter, rotary_angles, rotary_frequencies
from qwenvl_jax.parallel.activations import constrain


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
        self.blocks = decoder.DecoderBlock(
            d, config.heads, config.kv_heads, config.mlp_width, config.layers, rngs,
            norm_eps=config.norm_eps, implementation=precision.attention,
        )  # fmt: skip
        self.norm = RMSNorm(d, rngs, eps=config.norm_eps)
        self.head = (
            TiedHead(self.embedding) if config.tied else Projection("bsd,dv->bsv", (d, v), ("embed", "vocab"), rngs)
        )

    @jax.named_scope("language")
    def embed(self, tokens: jax.Array) -> jax.Array:
        """[B, S] ids -> [B, S, D] in the compute type."""
        # As in Qwen-VL: ids are looked up in every device's columns of the table, which never moves.
        embedded = self.embedding[...][constrain(tokens, None, None)]
        embedded = constrain(embedded.astype(jnp.dtype(self.precision.compute)), "rows", None, "columns")
        return constrain(embedded, "rows", "stream", None)

    def empty_cache(self, rows: int, length: int) -> Cache:
        """A cache for `length` positions of each row."""
        config, dtype = self.config, self.precision.compute
        return decoder.empty_cache(config.layers, rows, config.kv_heads, length, config.width // config.heads, dtype)

    @jax.named_scope("language")
    def __call__(self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
        """[B, S, D] embeddings -> [B, S, D] hidden states; positions are [B, 3, S], segment_ids [B, S]."""
        angles = mrope_angles(positions, self.config)
        return self.norm(decoder.run_blocks(self.blocks, self.precision, x, angles, angles, segment_ids))

    def extend(
        self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """The next S tokens of rows with a cache: x [B, S, D], positions [B, 3, S], segment_ids [B, S].

        The first call (the prompts, padded on the left with segment 0) fills an empty cache; later ones add a token, whose
        position follows the prompt's last one on all three axes.
        """
        angles = mrope_angles(positions, self.config)
        x, cache = decoder.extend_blocks(self.blocks, self.precision, x, angles, angles, segment_ids, cache)
        return self.norm(x), cache
