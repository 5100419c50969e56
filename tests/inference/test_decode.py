"""Promises of `qwenvl_jax.inference.decode`: batching, padding, portions and the cache change no token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from greedy_tokens import tokens_of
from small_model import RESOLUTION

from qwenvl_jax.batch import Batch, empty_batch
from qwenvl_jax.inference.decode import advance, prefill
from qwenvl_jax.inference.sampling import Sampling

NEW = 10
SAMPLED = (np.float32(0.9), np.float32(0.8))
"""Temperature and top-p."""


def sampling_of(mode: str, seeds: list[int]) -> Sampling | None:
    return None if mode == "greedy" else Sampling(np.asarray(seeds, np.uint32), *SAMPLED)


@pytest.fixture(scope="module")
def encoded(prompts, processor):
    return processor.prompts(prompts)


@pytest.fixture(scope="module", params=["greedy", "sampled"])
def mode(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def batched(mode, model, processor, encoded, tokenizer) -> np.ndarray:
    """[4, NEW] tokens of all prompts in one batch."""
    return tokens_of(
        model, processor.batch(encoded), tokenizer.size, new=NEW, sampling=sampling_of(mode, [7, 8, 9, 10])
    )


def test_a_batch_gives_the_tokens_of_each_prompt_alone(mode, model, encoded, tokenizer, batched) -> None:
    """Neighbours, the length of the padding, empty image slots and the portions change nothing, drawn tokens included."""
    for number, (_, sample) in enumerate(encoded):
        slots = len(sample.images)
        batch = unpadded(sample, slots, tokenizer)
        alone = tokens_of(model, batch, tokenizer.size, new=NEW, sampling=sampling_of(mode, [7 + number]), steps=7)
        assert np.array_equal(alone[0], batched[number])


def unpadded(sample, slots, tokenizer) -> Batch:
    from qwenvl_jax.processing.images import decode_image
    from qwenvl_jax.processing.resize import resize_bicubic

    batch = empty_batch(1, len(sample.tokens), slots, RESOLUTION, tokenizer.eod_id)
    batch.tokens[0], batch.vision_index[0], batch.segment_ids[0] = sample.tokens, sample.vision_index, 1
    batch.positions[0] = np.arange(len(sample.tokens))
    for slot, data in enumerate(sample.images):
        batch.images[0, slot] = resize_bicubic(decode_image(data), RESOLUTION, RESOLUTION)
    return batch


def test_the_cache_gives_the_tokens_of_the_full_forward_pass(model, processor, encoded, tokenizer) -> None:
    """Every greedy token is the argmax of the whole model on prompt and answer so far, without cache or padding."""
    written = tokens_of(model, processor.batch(encoded), tokenizer.size, new=NEW)

    @jax.jit
    def logits(batch, position):
        module = model.architecture.assemble(model.parameters)
        return jax.lax.dynamic_index_in_dim(module(batch), position, 1)[0, 0, : tokenizer.size]

    for (_, sample), expected in zip(encoded[1:3], written[1:3]):
        length, slots = len(sample.tokens), len(sample.images)
        prompt = unpadded(sample, slots, tokenizer)
        behind = empty_batch(1, NEW, slots, RESOLUTION, tokenizer.eod_id)
        joined = jax.tree.map(lambda *fields: np.concatenate(fields, axis=1), prompt, behind)
        batch = joined._replace(images=prompt.images)
        batch.positions[0] = np.arange(length + NEW)
        for place, token in enumerate(expected, start=length):
            assert int(jnp.argmax(logits(batch, place - 1))) == token
            batch.tokens[0, place], batch.segment_ids[0, place] = token, 1


def test_a_row_that_stops_leaves_the_others_alone(model, processor, encoded, tokenizer) -> None:
    """Up to its stop id a row has the same tokens; rows that do not stop are unchanged; all stopped ends the decoding."""
    batch = processor.batch(encoded)
    before = tokens_of(model, batch, tokenizer.size, new=NEW)
    stop = before[0, 2]
    after = tokens_of(model, batch, tokenizer.size, new=NEW, stops=np.array([479, stop], np.int32))
    for free, stopped in zip(before, after):
        found = np.flatnonzero(free == stop)
        end = found[0] + 1 if len(found) else NEW
        assert np.array_equal(free[:end], stopped[:end])
    first = before[:, 0].astype(np.int32)
    assert tokens_of(model, batch, tokenizer.size, new=NEW, stops=first).shape[1] == 1


def test_one_program_writes_every_portion(model, processor, encoded, tokenizer) -> None:
    """Nothing is compiled per token, per portion, or for another seed, temperature or limit."""
    batch = processor.batch(encoded)
    for number, new in enumerate((NEW, NEW, NEW)):
        sampling = Sampling(np.arange(4, dtype=np.uint32) + number, np.float32(1 + number), np.float32(0.5))
        tokens_of(model, batch, tokenizer.size, new=new, sampling=sampling, steps=3)
        if number == 0:
            compiled = prefill._cache_size(), advance._cache_size()
    assert (prefill._cache_size(), advance._cache_size()) == compiled


def test_rows_of_the_head_without_a_token_are_never_chosen(model, processor, encoded, tokenizer) -> None:
    """The head has 480 rows, the tokenizer 473 ids: an untrained row with a large logit must not end in an error."""
    head = model.parameters["language/head/kernel"]
    loud = head.at[:, tokenizer.size :].multiply(100)
    loud_model = type(model)(model.architecture, {**model.parameters, "language/head/kernel": loud})
    batch = processor.batch(encoded)
    assert (tokens_of(loud_model, batch, 480, new=NEW) >= tokenizer.size).any()
    assert (tokens_of(loud_model, batch, tokenizer.size, new=NEW) < tokenizer.size).all()
