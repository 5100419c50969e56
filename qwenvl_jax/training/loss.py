"""Token cross-entropy without the [B, S, V] logits.

Shape legend: B rows, S tokens, D width, V vocabulary, C chunks of the vocabulary.
"""

import jax
import jax.numpy as jnp


def token_losses(hidden: jax.Array, head: jax.Array, targets: jax.Array, chunks: int) -> jax.Array:
    """-log p(target) of every position, in float32.

    The vocabulary is visited in chunks, and each chunk's logits are computed again in the backward pass, so that at
    most [B, S, V / C] logits exist. Chunk c holds the ids c, c + C, c + 2 C, ...: a head that is sharded over the
    vocabulary then has its part of every chunk on every device. (Chunks of neighbouring ids lie on one device each:
    XLA gathers them, and every device computes all of their logits.)

    Args:
      hidden: [B, S, D] in the compute type.
      head: [D, V] in the parameters' type.
      targets: [B, S] int.
      chunks: number of slices of V.

    Returns:
      [B, S] float32.

    Raises:
      ValueError: the chunks do not divide V.
    """
    width, vocab = head.shape
    if vocab % chunks:
        raise ValueError(f"precision.loss_chunks={chunks} does not divide the vocabulary's {vocab} rows")
    kernels = jnp.moveaxis(head.reshape(width, vocab // chunks, chunks), 2, 0)

    def body(carry: tuple, chunk: tuple) -> tuple[tuple, None]:
        top, total, correct = carry
        kernel, number = chunk
        logits = jnp.einsum("bsd,dv->bsv", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
        new_top = jnp.maximum(top, jax.lax.stop_gradient(logits.max(-1)))
        total = total * jnp.exp(top - new_top) + jnp.exp(logits - new_top[..., None]).sum(-1)
        found = jnp.take_along_axis(logits, (targets // chunks)[..., None], axis=-1)[..., 0]
        return (new_top, total, jnp.where(targets % chunks == number, found, correct)), None

    lowest = jnp.full(targets.shape, jnp.finfo(jnp.float32).min)
    nothing = jnp.zeros(targets.shape, jnp.float32)
    (top, total, correct), _ = jax.lax.scan(
        jax.checkpoint(body, prevent_cse=False), (lowest, nothing, nothing), (kernels, jnp.arange(chunks))
    )
    return top + jnp.log(total) - correct
