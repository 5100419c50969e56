"""Token cross-entropy without the [B, S, V] logits.

Shape legend: B rows, S tokens, D width, V vocabulary, C chunks of the vocabulary, T shards of it, R ids of a shard's chunk.
"""

from functools import partial

import jax
import jax.numpy as jnp

from qwenvl_jax.parallel.activations import constrain, shards

Sums = tuple[jax.Array, jax.Array, jax.Array]
"""[B, S] each: the largest logit so far, the sum of exponentials below it, the target's logit."""


def token_losses(hidden: jax.Array, head: jax.Array, targets: jax.Array, chunks: int) -> jax.Array:
    """-log p(target) of every position, in float32.

    The vocabulary is visited in chunks, and each chunk's logits are computed again in the backward pass, so that at
    most [B, S, V / C] logits exist. A chunk takes the same share of each device's part of the vocabulary: chunks of
    neighbouring ids would lie on one device each, and every device would compute all of their logits.

    Args:
      hidden: [B, S, D] in the compute type.
      head: [D, V] in the parameters' or the compute type.
      targets: [B, S] int.
      chunks: number of slices of V.

    Returns:
      [B, S] float32.

    Raises:
      ValueError: the chunks do not divide V, or a shard of it.
    """
    vocab, parts = head.shape[1], shards("vocab")
    if vocab % (chunks * parts):
        over = f" over {parts} devices of mesh.tensor" if parts > 1 else ""
        raise ValueError(f"precision.loss_chunks={chunks} does not divide the vocabulary's {vocab} rows{over}")
    return _losses(hidden, head, targets, chunks)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _losses(hidden: jax.Array, head: jax.Array, targets: jax.Array, chunks: int) -> jax.Array:
    return _forward(hidden, head, targets, chunks)[0]


def _forward(hidden: jax.Array, head: jax.Array, targets: jax.Array, chunks: int) -> tuple[jax.Array, tuple]:
    """The losses, and what the backward pass reads."""

    def body(carry: Sums, chunk: tuple[jax.Array, jax.Array]) -> tuple[Sums, None]:
        top, total, correct = carry
        logits = _logits(hidden, chunk[0])
        new_top = jnp.maximum(top, logits.max((-2, -1)))
        total = total * jnp.exp(top - new_top) + jnp.exp(logits - new_top[..., None, None]).sum((-2, -1))
        here = _ids(logits, chunk[1], chunks) == targets[..., None, None]
        return (new_top, total, correct + jnp.where(here, logits, 0).sum((-2, -1))), None

    nothing = jnp.zeros(targets.shape, jnp.float32)
    start = (jnp.full(targets.shape, jnp.finfo(jnp.float32).min), nothing, nothing)
    (top, total, correct), _ = jax.lax.scan(body, start, (_chunks(hidden, head, chunks), jnp.arange(chunks)))
    return top + jnp.log(total) - correct, (hidden, head, targets, top, total)


def _backward(chunks: int, saved: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    """softmax - one-hot, chunk by chunk. It is written once, in the compute type, and read by both matmuls."""
    hidden, head, targets, top, total = saved

    def body(summed: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = _logits(hidden, chunk[0])
        here = _ids(logits, chunk[1], chunks) == targets[..., None, None]
        likely = jnp.exp(logits - top[..., None, None]) / total[..., None, None]
        errors = (likely - here) * gradient[..., None, None]
        errors = jax.lax.optimization_barrier(errors.astype(hidden.dtype))
        below = jnp.einsum("bstr,dtr->bsd", errors, chunk[0], preferred_element_type=jnp.float32)
        return constrain(summed + below, "rows", "sequence", None), jnp.einsum("bsd,bstr->dtr", hidden, errors)

    nothing = jnp.zeros(hidden.shape, jnp.float32)
    below, kernels = jax.lax.scan(body, nothing, (_chunks(hidden, head, chunks), jnp.arange(chunks)))
    # [C, D, T, R] -> [D, V]. Behind a barrier, or the optimizer's moments are copied into the chunks' order instead.
    kernel = jax.lax.optimization_barrier(jnp.moveaxis(kernels, 0, 2).reshape(head.shape))
    return below.astype(hidden.dtype), kernel.astype(head.dtype), None


_losses.defvjp(_forward, _backward)


def _chunks(hidden: jax.Array, head: jax.Array, chunks: int) -> jax.Array:
    """[D, V] -> [C, D, T, R] in the compute type: shard t holds the ids from t C R, its chunk c those from (t C + c) R."""
    width, vocab = head.shape
    parts = shards("vocab")
    kernels = head.astype(hidden.dtype).reshape(width, parts, chunks, vocab // (parts * chunks))
    return jnp.moveaxis(kernels, 2, 0)


def _logits(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
    """[B, S, T, R] float32."""
    logits = jnp.einsum("bsd,dtr->bstr", hidden, kernel, preferred_element_type=jnp.float32)
    return constrain(logits, "rows", "sequence", "vocab", None)


def _ids(logits: jax.Array, chunk: jax.Array, chunks: int) -> jax.Array:
    """[T, R] ids of a chunk's logits."""
    parts, size = logits.shape[-2:]
    return (jnp.arange(parts)[:, None] * chunks + chunk) * size + jnp.arange(size)
