"""Qwen2-VL: vision tower, merger and language model (paper section 2).

Shape legend: B rows, S tokens, P patches of a row, C width of the vision encoder, V vision tokens of a row, D width.
"""

import jax
from flax import nnx

from qwenvl_jax.batch import Batch
from qwenvl_jax.config import PrecisionConfig, Qwen2VLConfig
from qwenvl_jax.models.fusion import place_vision
from qwenvl_jax.models.qwen2_vl.language import LanguageModel
from qwenvl_jax.models.qwen2_vl.vision import Merger, VisionEncoder


class Qwen2VL(nnx.Module):
    """`model(batch)` gives logits; training uses `hidden` with the chunked loss instead."""

    def __init__(self, config: Qwen2VLConfig, precision: PrecisionConfig, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionEncoder(config.vision, precision, rngs)
        self.merger = Merger(config.vision, config.language.width, rngs)
        self.language = LanguageModel(config.language, precision, rngs)

    def encode_patches(self, batch: Batch) -> jax.Array:
        """[B, P, C] of the vision encoder."""
        features: jax.Array = self.vision(batch.patches, batch.patch_positions, batch.patch_segments)
        return features

    def embed(self, batch: Batch) -> jax.Array:
        """Text embeddings with the vision tokens of images and videos in their places, [B, S, D]."""
        x = self.language.embed(batch.tokens)
        if batch.patches.shape[1] == 0:  # a stage without vision; decided by shape, never by content
            return x
        return place_vision(x, self.merger(self.encode_patches(batch)), batch.vision_index)

    def hidden(self, batch: Batch) -> jax.Array:
        """Final hidden states [B, S, D]."""
        return self.language(self.embed(batch), batch.positions, batch.segment_ids)

    def __call__(self, batch: Batch) -> jax.Array:
        """Logits [B, S, V] in the compute type."""
        return self.language.head(self.hidden(batch))
