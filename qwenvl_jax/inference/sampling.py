"""How the next token is chosen: the most likely one, or one drawn from the nucleus (top-p).

Source of top-p: Holtzman et al., "The Curious Case of Neural Text Degeneration" (arXiv 1904.09751), section 3.1.
Shape legend: B rows, V vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """Drawing instead of taking the most likely token.

    Attributes:
      seeds: [B] uint32. What a row draws depends on its own seed and logits alone, not on the rows beside it.
      temperature: float32 scalar above 0, divides the logits first.
      top_p: float32 scalar in (0, 1].

    All three are arrays, of NumPy or of JAX: other values compile nothing anew.
    """

    seeds: Any
    temperature: Any
    top_p: Any


def nucleus(logits: jax.Array, top_p: jax.Array) -> jax.Array:
    """[B, V] bool: the smallest set of tokens whose probabilities reach `top_p`; equally likely tokens stand together.

    The least probability that is kept is found by bisection over the bits of a float32, which are ordered as the numbers
    are: 30 sums over the vocabulary and no sort.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        enough, short = bounds  # the tokens from `enough` on reach top_p, those from `short` on do not
        middle = enough + (short - enough) // 2
        mass = jnp.where(bits >= middle, probabilities, 0).sum(-1, keepdims=True)
        reached = mass >= top_p
        return jnp.where(reached, middle, enough), jnp.where(reached, short, middle)

    highest = bits.max(-1, keepdims=True)
    # 1.0 has the bits 127 << 23, less than 2 ** 30.
    threshold, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(highest), highest + 1))
    return bits >= threshold


def choose(logits: jax.Array, sampling: Sampling | None, number: jax.Array) -> jax.Array:
    """[B] int32 tokens from logits [B, V]; `sampling` None takes the most likely ones.

    Args:
      number: int32 scalar, how many tokens of the answer stand before this one.
    """
    if sampling is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    scaled = logits.astype(jnp.float32) / sampling.temperature
    kept = jnp.where(nucleus(scaled, sampling.top_p), scaled, -jnp.inf)

    def draw(seed: jax.Array, row: jax.Array) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(jax.random.key(seed), number), row)

    return jax.vmap(draw)(sampling.seeds, kept).astype(jnp.int32)
