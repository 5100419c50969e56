"""Rows: every array as `qwenvl_jax.batch` promises, and unreadable samples replaced by no larger ones."""

import jax
import numpy as np
import pytest
from small_data import make_run

from data_pipelines.components import open_components
from data_pipelines.packing import Item
from data_pipelines.rows import RowMaker
from data_pipelines.sources.array_record import ArrayRecordSource
from data_pipelines.sources.source import RecordError
from data_pipelines.tasks import TASKS
from qwenvl_jax.batch import row_of
from qwenvl_jax.processing.encoders import ImageSlotEncoder
from qwenvl_jax.processing.images import decode_image
from qwenvl_jax.processing.resize import resize_bicubic
from qwenvl_jax.processing.sample import encode_sample
from qwenvl_jax.processing.tokenizer import load_tokenizer

BYTES = load_tokenizer("bytes")
QUERIES = 4


@pytest.fixture
def maker(data_root):
    return make_maker(data_root)


def make_maker(data_root, **stage_fields):
    run = make_run(str(data_root), **stage_fields)
    [stage] = run.stages
    encoder = ImageSlotEncoder(BYTES, QUERIES, stage.resolution)
    components = open_components(stage, run.data, TASKS, encoder)
    return RowMaker(components, TASKS, encoder, stage.sequence_length, stage.images_per_row)


def encoded(maker, item):
    samples = maker.components[item.component]
    record = samples.source[int(samples.records[item.sample])]
    return encode_sample(TASKS[samples.component.task](record), BYTES, QUERIES)


def test_row_holds_its_samples(maker):
    """Every array holds each sample's part where it belongs, then padding."""
    items = [Item(0, 1), Item(2, 0), Item(1, 2)]
    batch, [info] = maker.make_rows([items])
    row = row_of(batch, 0)
    start = slot = 0
    for segment, item in enumerate(items, start=1):
        sample = encoded(maker, item)
        count = len(sample.tokens)
        place = slice(start, start + count)
        assert (row.tokens[place] == sample.tokens).all()
        assert (row.targets[place][:-1] == sample.tokens[1:]).all()
        assert (row.loss_weights[place] == [*sample.supervised[1:], False]).all()
        assert (row.segment_ids[place] == segment).all()
        assert (row.positions[place] == np.arange(count)).all()
        assert (row.task_ids[place] == item.component).all()
        seen = sample.vision_index >= 0
        assert (row.vision_index[place][~seen] == -1).all()
        assert (row.vision_index[place][seen] == sample.vision_index[seen] + slot * QUERIES).all()
        for data in sample.images:
            assert (row.images[slot] == resize_bicubic(decode_image(data), 8, 8)).all()
            slot += 1
        start += count
    assert (row.tokens[start:] == BYTES.eod_id).all()
    assert not row.loss_weights[start:].any()
    assert not row.segment_ids[start:].any()
    assert (row.vision_index[start:] == -1).all()
    assert not row.images[slot:].any()
    assert (info.samples, info.tokens, info.vision, info.replaced, info.dropped) == (3, start, slot, 0, 0)


def test_no_target_leaves_its_sample(maker):
    """Wherever something is learned, the target is the next token of the same segment."""
    batch, _ = maker.make_rows([[Item(0, n), Item(1, n)] for n in range(4)])
    row, column = np.nonzero(batch.loss_weights)
    assert (batch.targets[row, column] == batch.tokens[row, column + 1]).all()
    assert (batch.segment_ids[row, column] == batch.segment_ids[row, column + 1]).all()
    assert len(row)


def test_identity_names_component_and_record(maker):
    """The same samples have the same identity, others another."""
    _, infos = maker.make_rows([[Item(0, 1)], [Item(0, 1)], [Item(0, 2)], [Item(1, 1)]])
    first, same, *others = (info.identity for info in infos)
    assert first == same
    assert len({first, *others}) == 3


def test_long_sample_is_cut_in_its_text(data_root):
    """A sample longer than the row fills it exactly; images before the cut are whole."""
    maker = make_maker(data_root, sequence_length=50)
    assert maker.components[0].shortened > 0
    sample = int(np.argmax(maker.components[0].tokens))
    batch, [info] = maker.make_rows([[Item(0, sample)]])
    assert info.tokens == 50
    assert sorted(batch.vision_index[0][batch.vision_index[0] >= 0]) == list(range(QUERIES))


def break_records(monkeypatch, broken):
    read = ArrayRecordSource.__getitem__

    def read_or_fail(source, index):
        if broken(index):
            raise RecordError("file", index, "damaged since")
        return read(source, index)

    monkeypatch.setattr(ArrayRecordSource, "__getitem__", read_or_fail)


def test_unreadable_sample_is_replaced(maker, monkeypatch):
    """By another of its component that is no longer; it is counted, and the same each time."""
    item = Item(0, int(np.argmax(maker.components[0].tokens)))
    planned = len(encoded(maker, item).tokens)
    _, [before] = maker.make_rows([[item]])
    lost = int(maker.components[0].records[item.sample])
    break_records(monkeypatch, lambda index: index == lost)
    batch, [info] = maker.make_rows([[item]])
    assert (info.samples, info.replaced, info.dropped) == (1, 1, 0)
    assert info.tokens <= planned
    assert info.identity != before.identity
    again, _ = maker.make_rows([[item]])
    assert (again.tokens == batch.tokens).all()


def test_place_without_replacement_stays_empty(maker, monkeypatch):
    """Where nothing can be read the row goes on without the sample, and counts it."""
    break_records(monkeypatch, lambda index: True)
    batch, [info] = maker.make_rows([[Item(0, 0), Item(1, 0)]])
    assert (info.samples, info.tokens, info.replaced, info.dropped) == (0, 0, 0, 2)
    assert (batch.tokens == BYTES.eod_id).all()


def test_record_that_changed_is_replaced(maker, monkeypatch):
    """A record that is shorter than it was measured never breaks the row."""
    monkeypatch.setitem(TASKS, "caption", TASKS["vqa"])
    _, [info] = maker.make_rows([[Item(0, 5), Item(0, 9)]])
    assert info.samples + info.dropped == 2


def test_memory_that_was_used_before_is_cleared(maker):
    """Rows in memory that holds anything are those in zeros, a row without pictures among them."""
    rows = [[Item(0, 1), Item(1, 2)], [], [Item(0, 3)]]
    there, _ = maker.make_rows(rows)
    again, _ = maker.make_rows(rows, lambda shape, dtype: np.full(shape, 7, dtype))
    jax.tree.map(np.testing.assert_array_equal, there, again)
