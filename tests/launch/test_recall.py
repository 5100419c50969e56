"""`launch.benchmarks.recall`: every answer was told, and batches mark where it is predicted."""

import numpy as np
import pytest

from configs.tiny_qwen2 import tiny_qwen2
from launch.benchmarks.recall import COMMA, FIRSTS, SECONDS, RecallOptions, fill, sample
from qwenvl_jax.batch import stage_batch


@pytest.mark.parametrize("near", [False, True])
def test_answers_were_told(near: bool) -> None:
    """The answer to a word is what stood before it in the list; it comes right behind the word, or two later."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids, answers = sample(rng, 4, near)
        told = {second: first for first, second, comma in zip(*(iter(ids[:12]),) * 3) if comma == COMMA}
        asked = np.flatnonzero(answers) - (1 if near else 3)
        assert sorted(ids[i] for i in asked) == sorted(told)
        assert [told[ids[i]] for i in asked] == [id for id, answer in zip(ids, answers) if answer]


@pytest.mark.parametrize("answers_only", [False, True])
def test_batches_mark_where_answers_are_predicted(answers_only: bool) -> None:
    """What is marked has a pair's first word as target; the loss is on these alone, or on all but the last of a sample."""
    run = tiny_qwen2()
    stage = next(stage for stage in run.stages if stage.name == "language")
    batch = stage_batch(run.model, stage, 2, 0)
    near, far = fill(batch, np.random.default_rng(0), RecallOptions(answers_only=answers_only))
    assert near.any()
    assert far.any()
    assert not (near & far).any()
    assert np.isin(batch.targets[near | far], FIRSTS).all()
    assert np.isin(batch.tokens[near], SECONDS).all()
    assert (batch.segment_ids > 0).mean() > 0.9
    if answers_only:
        np.testing.assert_array_equal(batch.loss_weights > 0, near | far)
    else:
        same = batch.segment_ids[:, :-1] == batch.segment_ids[:, 1:]
        np.testing.assert_array_equal(batch.loss_weights[:, :-1] > 0, same & (batch.segment_ids[:, :-1] > 0))
