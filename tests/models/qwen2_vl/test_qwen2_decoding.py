"""Decoding with a cache: equal to the whole sequence at once, and to the original's greedy tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from original_inputs import inputs_of
from small_qwen2_vl import PAD, SmallSample, make_sample, pack
from transformers import GenerationConfig

from qwenvl_jax.processing.patches import Grid

PROMPT, PATCHES, NEW = 40, 256, 12


@pytest.fixture(scope="module")
def samples() -> list[SmallSample]:
    """Text, images, and a long video: positions behind a prompt differ from its number of tokens both ways."""
    rng = np.random.default_rng(2)
    pieces = ((9,), (2, Grid(1, 4, 4), 3, Grid(1, 6, 2), 4), (3, Grid(12, 2, 2), 5))
    return [make_sample(rng, *piece) for piece in pieces]


@pytest.fixture(scope="module")
def module(qwen2_architecture, qwen2_parameters):
    return qwen2_architecture.assemble(qwen2_parameters)


@pytest.fixture(scope="module")
def decoding(samples, module):
    """([3, NEW] greedy tokens, [3, NEW, V] logits that chose them) of left-padded prompts."""
    batch = pack([[sample] for sample in samples], PROMPT, PATCHES, left=True)

    @jax.jit
    def prefill(batch):
        cache = module.language.empty_cache(len(samples), PROMPT + NEW)
        hidden, cache = module.language.extend(module.embed(batch), batch.positions, batch.segment_ids, cache)
        return module.language.head(hidden[:, -1:]), cache

    @jax.jit
    def step(ids, positions, cache):
        hidden, cache = module.language.extend(module.language.embed(ids), positions, jnp.ones_like(ids), cache)
        return module.language.head(hidden), cache

    logits, cache = prefill(batch)
    tokens, seen = [], []
    for number in range(NEW):
        seen.append(logits)
        tokens.append(jnp.argmax(logits, axis=-1))
        logits, cache = step(tokens[-1], batch.positions[..., -1:] + 1 + number, cache)
    return np.concatenate(tokens, axis=1), np.concatenate(seen, axis=1)


def test_cached_equals_full(samples, module, decoding, table) -> None:
    """The same tokens in one pass, with the positions of text behind the prompt, give the same logits."""
    tokens, logits = decoding
    longer = [
        sample._replace(
            tokens=np.append(sample.tokens, new[:-1]),
            vision_index=np.append(sample.vision_index, np.full(NEW - 1, -1)),
            loss_weights=np.zeros(len(sample.tokens) + NEW - 1, bool),
            positions=np.concatenate([sample.positions, sample.positions[:, -1:] + np.arange(1, NEW)], axis=1),
        )
        for sample, new in zip(samples, tokens)
    ]
    batch = pack([[sample] for sample in longer], PROMPT + NEW - 1, PATCHES, left=True)
    full = jax.jit(module.__call__)(batch)
    table.compare("logits of cached steps against one pass", logits, full[:, -NEW:], 1e-5)


def test_greedy_tokens_are_the_originals(samples, original, decoding) -> None:
    """Batched, left-padded generation of transformers chooses the same tokens; margins are far above rounding."""
    tokens, logits = decoding
    best = np.sort(logits, axis=-1)
    assert (best[..., -1] - best[..., -2]).min() > 1e-4
    inputs = inputs_of(samples, left=True)
    with torch.no_grad():
        config = GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=PAD)
        theirs = original.generate(**inputs, generation_config=config)
    assert np.array_equal(theirs[:, -NEW:].numpy(), tokens)
    # The last position plus one is the original's count of (padded) tokens plus its delta.
    starts = [sample.positions[0, -1] + 1 for sample in samples]
    deltas = original.model.rope_deltas.flatten().numpy()
    assert np.array_equal(inputs["input_ids"].shape[1] + deltas, starts)
