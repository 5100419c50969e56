"""Which samples a stage uses: every record is either used or counted with a reason."""

from dataclasses import replace

import numpy as np
import pytest
from small_data import make_run

from data_pipelines.components import open_components, select, task_groups
from data_pipelines.lengths import Lengths
from data_pipelines.sources.source import Problem
from data_pipelines.tasks import TASKS
from qwenvl_jax.config import Component
from qwenvl_jax.processing.encoders import ImageSlotEncoder
from qwenvl_jax.processing.tokenizer import load_tokenizer

FOUR = ImageSlotEncoder(load_tokenizer("bytes"), queries=4, resolution=8)


def make_lengths(*columns, problems=()):
    tokens, needed, vision = (np.array(column, np.int32) for column in zip(*columns))
    return Lengths(tokens, needed, vision, np.zeros_like(tokens), problems, "lengths-caption-0")


def select_from(lengths, **stage_fields):
    class Source:
        problems = ()
        remote = None
        cache_folder = "nowhere"

        def __len__(self):
            return len(lengths.tokens)

    stage = make_run("", **stage_fields).stages[0]
    return select(Component("caption", "source", 1), Source(), lengths, stage)


def test_every_record_is_used_or_counted():
    """Fitting, shortened, too long, too many images, unlearned, not applicable and unreadable add up."""
    lengths = make_lengths(
        (50, 20, 1), (200, 20, 1), (200, 180, 1), (50, 20, 4), (50, 51, 1), (0, 0, 0), (0, 0, 0),
        problems=(Problem("file", 6, "damaged"),),
    )  # fmt: skip
    samples = select_from(lengths)
    assert samples.records.tolist() == [0, 1]
    assert samples.tokens.tolist() == [50, 160]
    assert samples.shortened == 1
    assert sum(samples.left_out.values()) == 5
    assert list(samples.left_out.values()) == [1] * 5
    assert samples.problems == lengths.problems


def test_component_without_samples_is_refused():
    """The sentence gives the reasons with their numbers."""
    with pytest.raises(
        ValueError, match=r"no usable sample for task caption \(2 records: 1 the task .*, 1 more images"
    ):
        select_from(make_lengths((0, 0, 0), (50, 20, 4)))


def test_mixture_is_checked(data_root):
    """Unknown tasks, missing sources and an empty mixture are sentences."""
    run = make_run(str(data_root))
    [stage] = run.stages
    for mixture, reason in (
        ((Component("captions", "pictures", 1),), "no task 'captions'; tasks are caption, "),
        ((Component("caption", "nowhere", 1),), "no source .*nowhere"),
        ((Component("ocr", "pictures", 1),), "no usable sample for task ocr"),
        ((), "has no mixture"),
    ):
        with pytest.raises(ValueError, match=reason):
            open_components(replace(stage, mixture=mixture), run.data, TASKS, FOUR)


def test_groups_follow_the_task(data_root):
    """Components of one task may share a row; across tasks only where the stage allows it."""
    run = make_run(str(data_root))
    twice = (*run.stages[0].mixture, Component("caption", "pictures", 1))
    components = open_components(replace(run.stages[0], mixture=twice), run.data, TASKS, FOUR)
    assert task_groups(components, within_task=True) == [0, 1, 2, 0]
    assert task_groups(components, within_task=False) == [0, 0, 0, 0]
