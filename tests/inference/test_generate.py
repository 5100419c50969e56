"""Promises of `qwenvl_jax.inference.generate`: batching, padding and the cache change no token."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as Picture
from small_model import QUERIES, RESOLUTION

from qwenvl_jax.batch import Batch, empty_batch
from qwenvl_jax.inference.generate import decode_greedy, generate, left_padded
from qwenvl_jax.processing.sample import Image, Sample, Text, encode_sample
from qwenvl_jax.processing.tokenizer import Tokenizer, load_tokenizer

NEW = 10
NEVER = (479,)
"""A stop id that is not in the vocabulary: rows go on to the end."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("bytes")


@pytest.fixture(scope="module")
def on_device(parameters) -> dict:
    """With sharp attention, so that a position that is wrong by one changes tokens."""
    sharp = {"language/blocks/q/kernel": 8.0, "language/blocks/k/kernel": 8.0}
    return {path: jnp.asarray(array) * sharp.get(path, 1.0) for path, array in parameters.items()}


@pytest.fixture(scope="module")
def prompts() -> list[Sample]:
    """With 0, 2, 1 and 0 pictures, in lengths of 5 to 30 tokens."""
    rng = np.random.default_rng(0)

    def png() -> bytes:
        file = io.BytesIO()
        Picture.fromarray(rng.integers(0, 256, (14, 18, 3), np.uint8)).save(file, "PNG")
        return file.getvalue()

    return [
        Sample((Text("What?"),)),
        Sample((Text("a"), Image(0), Text("and"), Image(1), Text("which is larger?")), (png(), png())),
        Sample((Image(0), Text("Describe the picture:")), (png(),)),
        Sample((Text("Twenty letters and more"),)),
    ]


@pytest.fixture(scope="module")
def encoded(prompts, tokenizer):
    return [encode_sample(prompt, tokenizer, QUERIES) for prompt in prompts]


@pytest.fixture(scope="module")
def batched(architecture, on_device, encoded, tokenizer) -> np.ndarray:
    """[4, NEW] tokens of all prompts in one batch."""
    batch = left_padded(encoded, 40, 2, RESOLUTION, tokenizer.eod_id)
    return np.asarray(decode_greedy(architecture, on_device, batch, NEW, NEVER, tokenizer.size))


def test_a_batch_gives_the_tokens_of_each_prompt_alone(architecture, on_device, encoded, tokenizer, batched) -> None:
    """Neighbours, the length of the padding and empty image slots change nothing."""
    for number, sample in enumerate(encoded):
        slots = len(sample.images)
        batch = left_padded([sample], len(sample.tokens), slots, RESOLUTION, tokenizer.eod_id)
        alone = decode_greedy(architecture, on_device, batch, NEW, NEVER, tokenizer.size)
        assert np.array_equal(alone[0], batched[number])


def test_the_cache_gives_the_tokens_of_the_full_forward_pass(
    architecture, on_device, encoded, tokenizer, batched
) -> None:
    """Every token is the argmax of the whole model on prompt and answer so far, without cache or padding."""

    @jax.jit
    def logits(batch, position):
        model = architecture.assemble(on_device)
        return jax.lax.dynamic_index_in_dim(model(batch), position, 1)[0, 0, : tokenizer.size]

    for sample, expected in zip(encoded[1:3], batched[1:3]):
        length, slots = len(sample.tokens), len(sample.images)
        prompt = left_padded([sample], length, slots, RESOLUTION, tokenizer.eod_id)
        behind = empty_batch(1, NEW, slots, RESOLUTION, tokenizer.eod_id)
        batch = Batch(*(np.concatenate(fields, axis=1) for fields in zip(prompt, behind)))._replace(
            images=prompt.images
        )
        batch.positions[0] = np.arange(length + NEW)
        for place, token in enumerate(expected, start=length):
            assert int(jnp.argmax(logits(batch, place - 1))) == token
            batch.tokens[0, place], batch.segment_ids[0, place] = token, 1


def test_a_row_that_stops_leaves_the_others_alone(architecture, on_device, encoded, tokenizer, batched) -> None:
    """Up to its stop id a row has the same tokens, behind it a stop id; rows that do not stop are unchanged."""
    stop = int(batched[0, 2])
    batch = left_padded(encoded, 40, 2, RESOLUTION, tokenizer.eod_id)
    stopped = np.asarray(decode_greedy(architecture, on_device, batch, NEW, (479, stop), tokenizer.size))
    for before, after in zip(batched, stopped):
        found = np.flatnonzero(before == stop)
        end = found[0] + 1 if len(found) else NEW
        assert np.array_equal(before[:end], after[:end])
        assert np.isin(after[end:], (479, stop)).all()


def test_answers_come_in_the_order_of_the_prompts(architecture, on_device, prompts, tokenizer) -> None:
    """Batches are sorted by pictures and length; each prompt gets its own answer, in batches of any size."""
    options = {"resolution": RESOLUTION, "queries": QUERIES, "max_new_tokens": NEW}
    together = generate(architecture, on_device, tokenizer, prompts, **options)
    apart = generate(architecture, on_device, tokenizer, prompts, batch_size=3, multiple=16, **options)
    assert together == apart
    assert len(set(together)) == len(prompts)
    assert generate(architecture, on_device, tokenizer, [], **options) == []


def test_rows_of_the_head_without_a_token_are_never_chosen(
    architecture, on_device, encoded, prompts, tokenizer
) -> None:
    """The head has 480 rows, the tokenizer 473 ids: an untrained row with a large logit must not end in an error."""
    head = on_device["language/head/kernel"]
    loud = {**on_device, "language/head/kernel": head.at[:, tokenizer.size :].multiply(100)}
    batch = left_padded(encoded, 40, 2, RESOLUTION, tokenizer.eod_id)
    assert (decode_greedy(architecture, loud, batch, NEW, NEVER, 480) >= tokenizer.size).any()
    generate(architecture, loud, tokenizer, prompts, resolution=RESOLUTION, queries=QUERIES, max_new_tokens=NEW)
