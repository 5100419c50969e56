"""Placing vision tokens into the text. Every row carries its own vision, so the gather never leaves its data shard."""

import jax
import jax.numpy as jnp


def place_vision(embedded: jax.Array, vision: jax.Array, vision_index: jax.Array) -> jax.Array:
    """Replaces embeddings by vision tokens where `vision_index` names one.

    Args:
      embedded: [B, S, D] token embeddings.
      vision: [B, V, D] the row's vision tokens.
      vision_index: [B, S] int, -1 for text, else 0..V-1.

    Returns:
      [B, S, D].
    """
    placed = jnp.take_along_axis(vision, jnp.maximum(vision_index, 0)[..., None], axis=1)
    return jnp.where(vision_index[..., None] >= 0, placed.astype(embedded.dtype), embedded)
