"""Greedy decoding with a KV cache: batched prompts of different lengths and numbers of pictures, static shapes.

Prompts are padded on the left to one length, so that every row writes its next token to the same cache position.
Shape legend: B prompts, S prompt tokens (padded), M image slots, R pixels, T cache length, V vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qwenvl_jax.batch import Batch, empty_batch
from qwenvl_jax.models.parameters import Architecture, Parameters
from qwenvl_jax.models.qwen_vl.language import empty_cache
from qwenvl_jax.processing.images import decode_image, resize_image
from qwenvl_jax.processing.sample import EncodedSample, Sample, encode_sample
from qwenvl_jax.processing.tokenizer import GROUNDING_TOKENS, Tokenizer


def left_padded(samples: Sequence[EncodedSample], length: int, images: int, resolution: int, pad_id: int) -> Batch:
    """Prompts as a batch whose last position is every prompt's last token; padding has segment 0."""
    batch = empty_batch(len(samples), length, images, resolution, pad_id)
    for row, sample in enumerate(samples):
        begin = length - len(sample.tokens)
        batch.tokens[row, begin:] = sample.tokens
        batch.vision_index[row, begin:] = sample.vision_index
        batch.segment_ids[row, begin:] = 1
        batch.positions[row, begin:] = np.arange(length - begin)
        for slot, data in enumerate(sample.images):
            batch.images[row, slot] = resize_image(decode_image(data), resolution)
    return batch


class _Decoded(NamedTuple):
    step: jax.Array
    token: jax.Array
    written: jax.Array
    done: jax.Array
    cache: tuple


@partial(jax.jit, static_argnames=("architecture", "new_tokens", "stop_ids", "vocabulary"))
def decode_greedy(
    architecture: Architecture,
    parameters: Parameters,
    batch: Batch,
    new_tokens: int,
    stop_ids: tuple[int, ...],
    vocabulary: int,
) -> jax.Array:
    """[B, new_tokens] greedy continuations of left-padded prompts; positions after a stop id hold a stop id.

    The loop ends as soon as every row has stopped. Only ids below `vocabulary` are chosen: the head may have more rows
    than the tokenizer has ids.
    """
    model = architecture.assemble(parameters)
    language = model.language
    rows, length = batch.tokens.shape
    cache = empty_cache(language.config, rows, length + new_tokens, language.precision.compute)
    stops = jnp.asarray(stop_ids)
    ones = jnp.ones((rows, 1), jnp.int32)

    def best(hidden: jax.Array) -> jax.Array:
        return jnp.argmax(language.head(hidden)[..., :vocabulary], axis=-1).astype(jnp.int32)

    hidden, cache = language.extend(model.embed(batch), batch.positions, batch.segment_ids, cache)
    first = best(hidden[:, -1:])
    start = batch.positions[:, -1:] + 1

    def unfinished(state: _Decoded) -> jax.Array:
        return (state.step < new_tokens) & ~state.done.all()

    def advance(state: _Decoded) -> _Decoded:
        written = jax.lax.dynamic_update_slice_in_dim(state.written, state.token, state.step, 1)
        done = state.done | (state.token == stops).any(-1)
        hidden, cache = language.extend(language.embed(state.token), start + state.step, ones, state.cache)
        token = jnp.where(done[:, None], state.token, best(hidden))
        return _Decoded(state.step + 1, token, written, done, cache)

    nothing = jnp.full((rows, new_tokens), stop_ids[0], jnp.int32)
    state = _Decoded(jnp.int32(0), first, nothing, jnp.zeros(rows, bool), cache)
    return jax.lax.while_loop(unfinished, advance, state).written


def generate(
    architecture: Architecture,
    parameters: Parameters,
    tokenizer: Tokenizer,
    prompts: Sequence[Sample],
    *,
    resolution: int,
    queries: int,
    max_new_tokens: int,
    batch_size: int = 32,
    multiple: int = 64,
) -> list[str]:
    """Greedy answers to prompts, in their order; ends at `<|endoftext|>` or a ChatML tag. Of special tokens, those of
    grounding stay in the text.

    Prompts are sorted by length into batches; lengths are rounded up to `multiple`, image slots to what a batch needs, so
    that few shapes are compiled.
    """
    encoded = [encode_sample(prompt, tokenizer, queries) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(encoded[i].images), len(encoded[i].tokens)))
    stops = (tokenizer.eod_id, tokenizer.im_end_id, tokenizer.im_start_id)
    answers = [""] * len(prompts)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        samples = [encoded[i] for i in chosen]
        samples += [samples[-1]] * (batch_size - len(chosen) if len(order) > batch_size else 0)
        longest = max(len(sample.tokens) for sample in samples)
        slots = max(len(sample.images) for sample in samples)
        batch = left_padded(samples, -(-longest // multiple) * multiple, slots, resolution, tokenizer.eod_id)
        ids = np.asarray(decode_greedy(architecture, parameters, batch, max_new_tokens, stops, tokenizer.size))
        for i, row in zip(chosen, ids):
            ends = np.flatnonzero(np.isin(row, stops))
            answers[i] = tokenizer.decode(
                row[: ends[0]].tolist() if len(ends) else row.tolist(), True, GROUNDING_TOKENS
            )
    return answers
