"""Lengths: equal to the encoded samples, kept on disk while they hold, and counted where there are none."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from small_data import make_record

from data_pipelines import lengths as lengths_module
from data_pipelines.lengths import measure, sample_length
from data_pipelines.sources.array_record import ArrayRecordSource, write_shards
from data_pipelines.tasks import TASKS
from qwenvl_jax.processing.encoders import ImageSlotEncoder
from qwenvl_jax.processing.sample import Image, Sample, Text, encode_sample
from qwenvl_jax.processing.tokenizer import load_tokenizer

BYTES = load_tokenizer("bytes")
FOUR = ImageSlotEncoder(BYTES, queries=4, resolution=8)


@pytest.fixture
def source(tmp_path):
    write_shards(tmp_path / "source", map(make_record, range(9)))
    return ArrayRecordSource(tmp_path / "source")


def test_lengths_are_those_of_the_encoded_samples(source):
    """What the plan counts is what the row will hold; a record without the task's field counts 0."""
    measured = measure(source, ["caption", "vqa"], TASKS, FOUR)
    for task, lengths in measured.items():
        for index in range(9):
            sample = TASKS[task](source[index])
            expected = len(encode_sample(sample, BYTES, 4).tokens) if sample else 0
            assert lengths.tokens[index] == expected
    assert measured["vqa"].tokens.tolist()[::3] == [0, 0, 0]
    assert measured["caption"].vision.tolist() == [1] * 9
    assert measured["caption"].problems == ()


def test_lengths_are_measured_once(source, monkeypatch):
    """The second call reads the file; another number of vision tokens does not."""
    first = measure(source, ["caption"], TASKS, FOUR)["caption"]
    with monkeypatch.context() as patch:
        patch.setattr(ArrayRecordSource, "__getitem__", None)
        again = measure(source, ["caption"], TASKS, FOUR)["caption"]
    assert (again.tokens == first.tokens).all()
    assert (again.needed == first.needed).all()
    assert (measure(source, ["caption"], TASKS, replace(FOUR, queries=9))["caption"].tokens == first.tokens + 5).all()
    monkeypatch.setattr(lengths_module, "_code_version", lambda: "other code")
    monkeypatch.setattr(ArrayRecordSource, "__getitem__", None)
    with pytest.raises(TypeError):
        measure(source, ["caption"], TASKS, FOUR)


def test_unwritable_folder_is_said(source, monkeypatch, caplog):
    """Lengths then stay in memory, with a line that says so."""
    monkeypatch.setattr(source, "cache_folder", "/proc/nowhere")
    with caplog.at_level(logging.WARNING):
        lengths = measure(source, ["caption"], TASKS, FOUR)["caption"]
    assert lengths.tokens.all()
    assert "cannot be kept in /proc/nowhere" in caplog.text


def test_unreadable_records_are_problems(source, tmp_path):
    """A damaged record has no length and is reported with file, index and reason, also from the file."""
    shard = tmp_path / "source" / "shard-00000.array_record"
    data = bytearray(shard.read_bytes())
    data[data.find(make_record(5).images[0].data) + 50] ^= 255
    shard.write_bytes(data)
    for _ in range(2):
        lengths = measure(source, ["caption"], TASKS, FOUR)["caption"]
        assert np.flatnonzero(lengths.tokens == 0).tolist() == [5]
        [problem] = lengths.problems
        assert (problem.file, problem.index) == (str(shard), 5)
        assert "mismatch" in problem.reason


def test_several_processes_measure_what_one_does(source, tmp_path, monkeypatch):
    """Every length in its place, and the same problems in the same order, however many processes measure."""
    shard = tmp_path / "source" / "shard-00000.array_record"
    data = bytearray(shard.read_bytes())
    for damaged in (2, 5):
        data[data.find(make_record(damaged).images[0].data) + 50] ^= 255
    shard.write_bytes(data)
    alone = measure(source, ["caption", "vqa"], TASKS, FOUR)
    monkeypatch.setattr(lengths_module, "SAMPLES_PER_PROCESS", 9)
    monkeypatch.setattr(lengths_module, "RECORDS_PER_JOB", 2)
    monkeypatch.setattr(lengths_module.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(lengths_module, "_code_version", lambda: "measured anew")
    together = measure(source, ["caption", "vqa"], TASKS, FOUR)
    for task, lengths in alone.items():
        for column in ("tokens", "needed", "vision", "reduced"):
            np.testing.assert_array_equal(getattr(together[task], column), getattr(lengths, column))
        assert together[task].problems == lengths.problems
        assert [problem.index for problem in lengths.problems] == [2, 5]


@pytest.mark.parametrize(
    "parts, expected",
    [
        ((Image(0), Text("ab"), Text("cde", True)), (11, 9, 1)),
        ((Text("cde", True), Image(0), Text("ab")), (11, 9, 1)),
        ((Text("cde", True),), (3, 2, 0)),
        ((Text("c", True), Text("ab")), (3, 4, 0)),
        ((Image(0), Text("ab")), (8, 9, 1)),
    ],
)
def test_needed_keeps_images_and_one_learned_token(parts, expected):
    """A sample may be cut behind its last image and its first learned target, not before."""
    images = (b"",) if Image(0) in parts else ()
    assert sample_length(encode_sample(Sample(parts, images), BYTES, 4)) == (*expected, 0)
