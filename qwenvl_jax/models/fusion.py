"""Placing vision tokens into the text. Every row carries its own vision, so the gather never leaves its data shard."""

import jax
import jax.numpy as jnp

from qwenvl_jax.parallel.activations import constrain


def place_vision(embedded: jax.Array, vision: jax.Array, vision_index: jax.Array) -> jax.Array:
    """Replaces embeddings by vision tokens where `vision_index` names one.

    Args:
      embedded: [B, S, D] token embeddings.
      vision: [B, V, D] the row's vision tokens.
      vision_index: [B, S] int, -1 for text, else 0..V-1.

    Returns:
      [B, S, D].
    """
    # Where positions are split, a token's vision may lie anywhere in its row: each device looks all of them up in its
    # columns, which are then exchanged for positions. So the backward pass adds up on one device.
    vision = constrain(vision, "rows", None, "columns")
    wanted = constrain(jnp.maximum(vision_index, 0), "rows", None)
    placed = constrain(jnp.take_along_axis(vision, wanted[..., None], axis=1), "rows", None, "columns")
    placed = constrain(placed.astype(embedded.dtype), "rows", "stream", None)
    return jnp.where(vision_index[..., None] >= 0, placed, embedded)
