"""Answers to batches of queries, and one answer while it is being written."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from qwenvl_jax.inference.decode import advance, embed, prefill
from qwenvl_jax.inference.generation_config import GenerationConfig
from qwenvl_jax.inference.model import Model
from qwenvl_jax.inference.processor import Processor, Prompt, Query
from qwenvl_jax.inference.sampling import Sampling
from qwenvl_jax.inference.streaming import AnswerWriter, stop_ids

STREAMED, TOGETHER = 4, 32
"""Tokens per call of the device: few where someone reads along, many where only the whole answer counts. Stop words of
several tokens are noticed between two calls."""
MAX_SEED = 2**32


def generate(
    model: Model,
    processor: Processor,
    queries: Sequence[Query],
    *,
    seed: int | Sequence[int] = 0,
    batch_size: int = 32,
    allow_urls: bool = False,
    **changes: Any,
) -> list[str]:
    """Answers to queries, in their order; `<ref>`, `<box>` and `<quad>` tags stay in the text.

    An answer depends on its query and its seed alone: not on the other queries, nor on the size of the batches.

    Args:
      queries: texts, lists of elements (`{"image": ...}`, `{"video": ...}`, `{"text": ...}`, ...), or samples that are
        prompts already.
      seed: of all answers, or one for each (to draw several answers to one query); in [0, 2 ** 32).
      batch_size: prompts that are decoded together; the cache of keys and values grows with it.
      allow_urls: pictures may be http(s) addresses.
      changes: fields of `GenerationConfig` that differ from `processor.generation`: `max_new_tokens`, `temperature`,
        `top_p`, `stop`.

    Raises:
      ValueError, FileNotFoundError: a query, a picture, a seed or a setting is none; one sentence says what and where.
    """
    processor = configured(processor, changes)
    seeds = [seed] * len(queries) if isinstance(seed, int) else list(seed)
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: a batch needs at least one prompt")
    if len(seeds) != len(queries):
        raise ValueError(f"{len(seeds)} seeds for {len(queries)} queries; give one, or one for each")
    prompts = processor.prompts(queries, allow_urls)
    # Sorted by pictures and length, so that neighbours need little padding and few shapes are compiled.
    order = sorted(range(len(queries)), key=lambda i: (prompts[i].encoded.vision, len(prompts[i].encoded.tokens)))
    answers = [""] * len(queries)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        # The last batch is filled up to the size of the others, which is compiled already.
        rows = chosen + [chosen[-1]] * (batch_size - len(chosen) if len(order) > batch_size else 0)
        pieces = decode(model, processor, [prompts[i] for i in rows], [seeds[i] for i in rows], TOGETHER)
        for row, texts in zip(chosen, zip(*pieces)):
            answers[row] = "".join(texts)
    return answers


def stream(
    model: Model, processor: Processor, query: Query, *, seed: int = 0, allow_urls: bool = False, **changes: Any
) -> Iterator[str]:
    """The answer to one query in pieces, as they are written; put together they are what `generate` returns.

    A piece never ends within a character or a tag. Arguments and errors are those of `generate`; errors are raised before
    the first piece is asked for.
    """
    processor = configured(processor, changes)
    pieces = decode(model, processor, processor.prompts([query], allow_urls), [seed], STREAMED)
    return (text for [text] in pieces if text)


def configured(processor: Processor, changes: dict[str, Any]) -> Processor:
    """The processor with other settings of generation; None keeps its own."""
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(processor, generation=dataclasses.replace(processor.generation, **given))


def decode(
    model: Model, processor: Processor, prompts: Sequence[Prompt], seeds: Sequence[int], steps: int
) -> Iterator[list[str]]:
    """What each answer grows by, again and again until all have ended; `steps` tokens are decoded per device call.

    Raises:
      ValueError: a seed is out of range.
    """
    sampling = _sampling(processor.generation, seeds)
    return _decode(model, processor, prompts, sampling, steps)


def _decode(
    model: Model, processor: Processor, prompts: Sequence[Prompt], sampling: Sampling | None, steps: int
) -> Iterator[list[str]]:
    architecture, parameters = model.architecture, model.parameters
    tokenizer, most = processor.tokenizer, processor.generation.max_new_tokens
    writers = [AnswerWriter(tokenizer, processor.generation.stop) for _ in prompts]
    ends = jnp.asarray(stop_ids(tokenizer), jnp.int32)
    batch = processor.batch(prompts)
    embedded = embed(architecture, parameters, batch)
    state = prefill(
        architecture, parameters, embedded, batch.positions, batch.segment_ids, sampling,
        new_tokens=most, vocabulary=tokenizer.size,
    )  # fmt: skip
    tokens, number = np.asarray(state.token)[:, None], 1
    while True:
        yield [writer.write(row.tolist()) for writer, row in zip(writers, tokens)]
        finished = np.array([writer.finished for writer in writers])
        if number == most or finished.all():
            break
        state, written = advance(
            architecture, parameters, state._replace(done=finished), sampling, ends, np.int32(most - number),
            steps=steps, vocabulary=tokenizer.size,
        )  # fmt: skip
        before, number = number, int(state.number)
        tokens = np.asarray(written)[:, : number - before]
    yield [writer.close() for writer in writers]


def _sampling(config: GenerationConfig, seeds: Sequence[int]) -> Sampling | None:
    for seed in seeds:
        check_seed(seed)
    if config.temperature == 0:
        return None
    return Sampling(np.asarray(seeds, np.uint32), np.float32(config.temperature), np.float32(config.top_p))


def check_seed(seed: int) -> None:
    """Raises a ValueError where the seed is not in [0, 2 ** 32)."""
    if not 0 <= seed < MAX_SEED:
        raise ValueError(f"seed {seed} is not in [0, 2 ** 32)")
