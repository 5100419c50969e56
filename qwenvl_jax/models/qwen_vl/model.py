"""Qwen-VL: vision encoder, adapter and language model (paper section 2).

Shape legend: B rows, S tokens, M image slots of a row, R pixels, Q queries of an image, D width, V vocabulary.
"""

import jax
from einops import rearrange
from flax import nnx

from qwenvl_jax.batch import Batch
from qwenvl_jax.config import PrecisionConfig, QwenVLConfig
from qwenvl_jax.models.fusion import place_vision
from qwenvl_jax.models.qwen_vl.adapter import Adapter
from qwenvl_jax.models.qwen_vl.language import LanguageModel
from qwenvl_jax.models.qwen_vl.vision import VisionEncoder
from qwenvl_jax.processing.images import normalize


class QwenVL(nnx.Module):
    """`model(batch)` gives logits; training uses `hidden` with the chunked loss instead."""

    def __init__(self, config: QwenVLConfig, precision: PrecisionConfig, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionEncoder(config.vision, precision, rngs)
        self.adapter = Adapter(config, precision, rngs)
        self.language = LanguageModel(config.language, precision, rngs)

    def encode_patches(self, batch: Batch) -> jax.Array:
        """[B*M, P, C] of the vision encoder."""
        features: jax.Array = self.vision(normalize(rearrange(batch.images, "b m y x c -> (b m) y x c")))
        return features

    def encode_images(self, batch: Batch) -> jax.Array:
        """[B, M*Q, D] vision tokens."""
        return rearrange(self.adapter(self.encode_patches(batch)), "(b m) q d -> b (m q) d", b=batch.images.shape[0])

    def embed(self, batch: Batch) -> jax.Array:
        """Text embeddings with the vision tokens in their places, [B, S, D]."""
        x = self.language.embed(batch.tokens)
        if batch.images.shape[1] == 0:  # a stage without pictures; decided by shape, never by content
            return x
        return place_vision(x, self.encode_images(batch), batch.vision_index)

    def hidden(self, batch: Batch) -> jax.Array:
        """Final hidden states [B, S, D]."""
        return self.language(self.embed(batch), batch.positions, batch.segment_ids)

    def __call__(self, batch: Batch) -> jax.Array:
        """Logits [B, S, V] in the compute type."""
        return self.language.head(self.hidden(batch))
