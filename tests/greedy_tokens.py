"""Tokens that a model writes, for comparisons."""

import numpy as np

from qwenvl_jax.batch import Batch
from qwenvl_jax.inference.decode import advance, embed, prefill
from qwenvl_jax.inference.model import Model
from qwenvl_jax.inference.sampling import Sampling

NEVER = np.zeros(0, np.int32)


def tokens_of(
    model: Model,
    batch: Batch,
    vocabulary: int,
    *,
    new: int,
    sampling: Sampling | None = None,
    stops: np.ndarray = NEVER,
    steps: int = 4,
) -> np.ndarray:
    """[B, new] tokens, greedy without `sampling`, decoded in portions of `steps`."""
    embedded = embed(model.architecture, model.parameters, batch)
    state = prefill(
        model.architecture, model.parameters, embedded, batch.positions, batch.segment_ids, sampling,
        new_tokens=new, vocabulary=vocabulary,
    )  # fmt: skip
    found = [np.asarray(state.token)[:, None]]
    while (number := int(state.number)) < new and not np.asarray(state.done).all():
        state, written = advance(
            model.architecture, model.parameters, state, sampling, stops, np.int32(new - number),
            steps=steps, vocabulary=vocabulary,
        )  # fmt: skip
        found.append(np.asarray(written)[:, : int(state.number) - number])
    return np.concatenate(found, axis=1)
