"""Parquet with pictures: the forms that are common, row groups, and files that are damaged."""

import pickle

import pyarrow
import pyarrow.parquet as parquet
import pytest
from small_data import make_picture

from data_pipelines.records import Question, Turn
from data_pipelines.sources import parquet as module
from data_pipelines.sources.opening import open_source
from data_pipelines.sources.source import RecordError


def write(folder, rows, name="a.parquet", **options):
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name, **options)
    return folder / name


def picture(number):
    return {"bytes": make_picture(number).data, "path": f"{number}.png"}


def test_rows_become_records_across_row_groups(tmp_path):
    """Pictures and captions of Hugging Face's form, in order, through row groups and files; also after pickling."""
    rows = [{"image": picture(n), "caption": f"picture {n}"} for n in range(7)]
    write(tmp_path, rows[:5], "a.parquet", row_group_size=2)
    write(tmp_path, rows[5:], "b.parquet")
    source = open_source(tmp_path.parent, tmp_path.name)
    again = pickle.loads(pickle.dumps(source))
    for n in (6, 0, 3, 4, 1, 5, 2):
        assert source[n].images == (make_picture(n),)
        assert source[n].captions[0].answer == f"picture {n}"
        assert again[n] == source[n]
        assert source.outline(n).images[0].data == b""


def test_few_row_groups_stay_in_memory(tmp_path):
    """A row group may hold a gigabyte, so their number is bounded."""
    rows = [{"jpg": make_picture(n).data, "txt": "a dog"} for n in range(module.KEPT_GROUPS + 3)]
    source = open_source("", str(write(tmp_path, rows, row_group_size=1)))
    for n in range(len(source)):
        source[n]
    assert len(source._format._groups) == module.KEPT_GROUPS


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"question": "What?", "answer": "a dog"}, {"questions": (Question("What?", "a dog"),)}),
        (
            {"caption": ["short", "the longest one", "middle"]},
            {"captions": (Question("Generate the caption in English:", "the longest one", "en"),)},
        ),
        (
            {"texts": [{"user": "What?", "assistant": "A dog.", "source": "x"}]},
            {"conversation": (Turn("user", "Picture 1: <img>0</img>\nWhat?"), Turn("assistant", "A dog."))},
        ),
        (
            {"conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]},
            {"conversation": (Turn("user", "Picture 1: <img>0</img>\nWhat?"), Turn("assistant", "A dog."))},
        ),
        (
            {"messages": [{"role": "user", "content": "What <image>"}, {"role": "assistant", "content": "It."}]},
            {"conversation": (Turn("user", "Picture 1: <img>0</img>\nWhat"), Turn("assistant", "It."))},
        ),
    ],
)
def test_texts_of_every_form(tmp_path, fields, expected):
    """Question and answer, several captions (the longest stays), and conversations of two kinds."""
    source = open_source("", str(write(tmp_path, [{"image": picture(0), **fields}])))
    for name, value in expected.items():
        assert getattr(source[0], name) == value


def test_bad_rows_are_named(tmp_path):
    """No bytes, no picture, no caption: each row is a problem with its number, the others are read."""
    rows = [
        {"image": picture(0), "caption": "a dog"},
        {"image": {"bytes": None, "path": "on/disk.png"}, "caption": "a dog"},
        {"image": {"bytes": b"no picture", "path": ""}, "caption": "a dog"},
        {"image": picture(3), "caption": " "},
        {"image": picture(4), "caption": None},
        {"image": picture(5), "caption": "a cat"},
    ]
    source = open_source("", str(write(tmp_path, rows)))
    assert len(source) == 2
    assert [(problem.index, problem.reason.split(";")[0][-40:]) for problem in source.problems] == [
        (1, "the row has no picture bytes"),
        (2, "that start with b'no pictu' are no readable picture"[-40:]),
        (3, "the caption is empty"),
        (4, "the row has no text"),
    ]


@pytest.mark.parametrize(
    "rows, reason",
    [
        ([{"caption": "a dog", "url": "http://x"}], "no column of picture bytes .* but caption, url"),
        ([{"image": "path.png", "caption": "a dog"}], "no column of picture bytes"),
        ([{"image": b"x", "width": 3}], "no caption, question with answer, or conversations, but image, width"),
        ([{"image": b"x", "question": "why"}], "no caption, question with answer"),
    ],
)
def test_missing_columns_are_one_sentence(tmp_path, rows, reason):
    """The sentence lists the columns that are there."""
    with pytest.raises(ValueError, match=reason):
        open_source("", str(write(tmp_path, rows)))


def test_damaged_file_costs_itself_alone(tmp_path):
    """A file that is cut is a problem; the other file of the folder is read, and a file that vanishes is an error."""
    path = write(tmp_path, [{"image": picture(0), "caption": "a dog"}])
    (tmp_path / "b.parquet").write_bytes(path.read_bytes()[:-10])
    source = open_source(tmp_path.parent, tmp_path.name)
    assert len(source) == 1
    assert [problem.file for problem in source.problems] == [str(tmp_path / "b.parquet")]
    path.unlink()
    with pytest.raises(RecordError, match=r"a.parquet: record 0"):
        source[0]
