"""Decoding with a KV cache: `prefill` reads the prompts, `advance` writes some tokens of every answer.

Prompts are padded on the left to one length, so that every row writes its next token to the same cache position. The
cache has its final size from the start and travels in one donated state: nothing is compiled or copied per token.
Shape legend: B prompts, S prompt tokens (padded), D width, T cache length (S + most new tokens), V vocabulary.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qwenvl_jax.batch import Batch
from qwenvl_jax.inference.sampling import Sampling, choose
from qwenvl_jax.models.parameters import Architecture, Parameters


class Decoding(NamedTuple):
    """Answers that are being written.

    Attributes:
      cache: keys and values of the prompts and of all tokens but the newest, as the language model keeps them.
      token: [B] int32, the newest token of each answer.
      position: [B] int32, its rotary position; [B, 3] for M-RoPE, the same on all axes.
      number: int32 scalar, tokens of the answers so far.
      done: [B] bool, rows that need no more tokens; what they are given is to be thrown away.
    """

    cache: Any
    token: jax.Array
    position: jax.Array
    number: jax.Array
    done: jax.Array


@partial(jax.jit, static_argnames="architecture")
def embed(architecture: Architecture, parameters: Parameters, batch: Batch) -> jax.Array:
    """[B, S, D]: a batch's text with the vision tokens of its images in their places."""
    embedded: jax.Array = architecture.assemble(parameters).embed(jax.tree.map(jnp.asarray, batch))
    return embedded


@partial(jax.jit, static_argnames=("architecture", "new_tokens", "vocabulary"))
def prefill(
    architecture: Architecture,
    parameters: Parameters,
    embedded: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    sampling: Sampling | None,
    *,
    new_tokens: int,
    vocabulary: int,
) -> Decoding:
    """Fills the cache with left-padded prompts and chooses each answer's first token.

    Args:
      embedded: [B, S, D], from `embed`.
      positions: [B, S] of the batch, or [B, 3, S] for M-RoPE.
      segment_ids: [B, S] of the batch.
      sampling: None for greedy decoding.
      new_tokens: most tokens of an answer.
      vocabulary: only ids below it are chosen: the head may have more rows than the tokenizer has ids.
    """
    language = architecture.assemble(parameters).language
    rows, length, _ = embedded.shape
    cache = language.empty_cache(rows, length + new_tokens)
    hidden, cache = language.extend(embedded, positions, segment_ids, cache)
    token = choose(language.head(hidden[:, -1:])[:, 0, :vocabulary], sampling, jnp.int32(0))
    # Behind an image or video text goes on after the largest position, on all axes of M-RoPE; padding has position 0.
    behind = positions.reshape(rows, -1).max(-1) + 1
    position = jnp.broadcast_to(behind.reshape(rows, *[1] * (positions.ndim - 2)), positions.shape[:-1])
    return Decoding(cache, token, position, jnp.int32(1), jnp.zeros(rows, bool))


@partial(jax.jit, static_argnames=("architecture", "steps", "vocabulary"), donate_argnames="state")
def advance(
    architecture: Architecture,
    parameters: Parameters,
    state: Decoding,
    sampling: Sampling | None,
    stop_ids: jax.Array,
    limit: jax.Array | np.int32,
    *,
    steps: int,
    vocabulary: int,
) -> tuple[Decoding, jax.Array]:
    """The next tokens of every answer: the state behind them, and [B, steps] int32, of which `number` tells how many count.

    Args:
      state: used up.
      stop_ids: [K] int32; a row whose newest token is one of them is done.
      limit: tokens that an answer may still have; fewer than `steps` are written where it is less, or every row is done.
      sampling, vocabulary: as given to `prefill`.
    """
    language = architecture.assemble(parameters).language
    ones = jnp.ones((len(state.token), 1), jnp.int32)

    def ended(state: Decoding) -> jax.Array:
        return state.done | (state.token[:, None] == stop_ids).any(-1)

    def unfinished(carry: tuple[jax.Array, Decoding, jax.Array]) -> jax.Array:
        step, state, _ = carry
        return (step < jnp.minimum(limit, steps)) & ~state.done.all()

    def write(carry: tuple[jax.Array, Decoding, jax.Array]) -> tuple[jax.Array, Decoding, jax.Array]:
        step, state, written = carry
        embedded = language.embed(state.token[:, None])
        hidden, cache = language.extend(embedded, state.position[..., None], ones, state.cache)
        token = choose(language.head(hidden)[:, 0, :vocabulary], sampling, state.number)
        token = jnp.where(state.done, state.token, token)
        after = Decoding(cache, token, state.position + 1, state.number + 1, state.done)
        written = jax.lax.dynamic_update_slice_in_dim(written, token[:, None], step, 1)
        return step + 1, after._replace(done=ended(after)), written

    nothing = jnp.zeros((len(state.token), steps), jnp.int32)
    begin = (jnp.int32(0), state._replace(done=ended(state)), nothing)
    _, state, written = jax.lax.while_loop(unfinished, write, begin)
    return state, written
