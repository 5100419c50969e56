"""Token cross-entropy without the [B, S, V] logits.

Shape legend: B rows, S tokens, D width, V vocabulary, C chunks of the vocabulary.
"""

import jax
import jax.numpy as jnp


def token_losses(hidden: jax.Array, head: jax.Array, targets: jax.Array, chunks: int) -> jax.Array:
    """-log p(target) of every position, in float32.

    The vocabulary is visited in chunks, and each chunk's logits are computed again in the backward pass, so that at most
    [B, S, V / C] logits exist. Chunks over the vocabulary keep the head's shards in place (chunks over tokens gather the
    head once per chunk).

    Args:
      hidden: [B, S, D] in the compute type.
      head: [D, V] in the parameters' type.
      targets: [B, S] int.
      chunks: number of slices of V; V must be a multiple.

    Returns:
      [B, S] float32.
    """
    width, vocab = head.shape
    if vocab % chunks:
        raise ValueError(f"precision.loss_chunks={chunks} does not divide the vocabulary's {vocab} rows")
    step = vocab // chunks
    kernels = head.reshape(width, chunks, step).swapaxes(0, 1)
    starts = jnp.arange(chunks) * step

    def body(carry: tuple, chunk: tuple) -> tuple[tuple, None]:
        top, total, correct = carry
        kernel, start = chunk
        logits = jnp.einsum("bsd,dv->bsv", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
        new_top = jnp.maximum(top, jax.lax.stop_gradient(logits.max(-1)))
        total = total * jnp.exp(top - new_top) + jnp.exp(logits - new_top[..., None]).sum(-1)
        local = targets - start
        inside = (local >= 0) & (local < step)
        found = jnp.take_along_axis(logits, jnp.clip(local, 0, step - 1)[..., None], axis=-1)[..., 0]
        return (new_top, total, jnp.where(inside, found, correct)), None

    lowest = jnp.full(targets.shape, jnp.finfo(jnp.float32).min)
    nothing = jnp.zeros(targets.shape, jnp.float32)
    (top, total, correct), _ = jax.lax.scan(
        jax.checkpoint(body, prevent_cse=False), (lowest, nothing, nothing), (kernels, starts)
    )
    return top + jnp.log(total) - correct
