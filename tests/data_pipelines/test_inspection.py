"""What a stage would train on: the numbers of the loader, samples with their learned parts, and the page."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import make_record, make_run

from data_pipelines.components import own_mixture
from data_pipelines.inspection import inspect_stage, spread
from data_pipelines.loader import describe, open_loader
from data_pipelines.records import Question
from data_pipelines.sources.array_record import write_shards
from data_pipelines.tasks import TASKS
from qwenvl_jax.config import Component
from qwenvl_jax.evaluation.data_page import data_page
from qwenvl_jax.processing.encoders import ImageSlotEncoder
from qwenvl_jax.processing.tokenizer import load_tokenizer


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 300))
def test_spread_is_even_and_has_both_ends(count, wanted):
    """Different numbers, as many as asked for, from the first to the last."""
    found = spread(count, wanted)
    assert len(set(found)) == len(found) == min(count, wanted)
    assert (found[0], max(found) < count) == (0, True)
    assert found[-1] == count - 1 or len(found) == 1


@pytest.fixture(scope="module")
def found(data_root):
    run = make_run(str(data_root))
    return run, inspect_stage(run, run.stages[0])


def test_numbers_are_those_of_the_loader(found):
    """Counts and efficiency are not computed a second way; passes and steps follow from them."""
    run, shown = found
    with open_loader(run, run.stages[0]) as loader:
        described = describe(loader)
    assert shown["efficiency"] == described.efficiency._asdict()
    assert shown["records"] == 50
    for component, expected in zip(shown["components"], described.components):
        assert component["samples"] == expected.samples
        drawn = run.stages[0].steps * run.stages[0].rows * described.samples_per_row * expected.share
        assert component["passes"] == pytest.approx(drawn / expected.samples)
        assert component["epoch"] * drawn == pytest.approx(expected.samples * run.stages[0].steps)
    assert sum(shown["tokens"]["caption · pictures"]["counts"]) == 40
    assert shown["sizes"]["pictures"]["pictures"] == 40
    assert shown["sizes"]["texts"] == {"pictures": 0}


def test_learned_parts_are_those_of_the_task(found):
    """The prompt is not marked, the target is."""
    shown = next(sample for sample in found[1]["samples"] if sample["component"] == "caption · pictures")
    assert shown["parts"] == [
        {"picture": 0},
        {"text": "Generate the caption in English:", "learned": False},
        {"text": " 0 word<|endoftext|>", "learned": True},
    ]
    assert len(shown["pictures"]) == 1


class _Open(HTMLParser):
    """Checks that elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attributes):
        assert tag != "script"
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_escapes_what_data_says(tmp_path):
    """Well-formed, no script even if a caption is one; problems are listed with reason."""
    evil = "<script>alert('x')</script>"
    records = [replace(make_record(n), captions=(Question("<i>", evil),)) for n in range(3)]
    broken = replace(records[1], images=(replace(records[1].images[0], data=b"no picture"),))
    write_shards(tmp_path / "pictures", [records[0], broken, records[2]])
    run = make_run(str(tmp_path), mixture=(Component("caption", "pictures", 1),))
    shown = inspect_stage(run, run.stages[0])
    assert shown["decoded"] == {"tried": 3, "failed": 1}
    html = data_page(evil, [shown, shown])
    parser = _Open()
    parser.feed(html)
    assert parser.open == []
    assert "no readable picture" in html
    assert re.search(r'<span class="learned"> &lt;script&gt;', html)


def test_a_path_is_read_by_every_task_that_applies(data_root):
    """Weights are the numbers of samples; a path to which nothing applies is a sentence."""
    run = make_run(str(data_root))
    encoder = ImageSlotEncoder(load_tokenizer("bytes"), queries=4, resolution=8)
    mixture = own_mixture(run.data, "pictures", TASKS, encoder)
    assert [(c.task, c.weight) for c in mixture] == [("caption", 40.0), ("vqa", 26.0)]
    with pytest.raises(ValueError, match="no source"):
        own_mixture(run.data, "nowhere", TASKS, encoder)
