"""Documents of text and pictures in turn: pictures stay in their places, from Parquet and from JSON."""

import json

import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import make_picture

from configs.tiny_qwen2 import MODEL
from data_pipelines.sources.interleaved import article, is_interleaved
from data_pipelines.sources.opening import open_source
from data_pipelines.tasks import TASKS, tasks_of
from qwenvl_jax.processing.chatml import content_parts
from qwenvl_jax.processing.sample import Image, Text

TEXTS = ["A cat.", None, "A dog", "and its bone.", None]
ARTICLE = "A cat.<img>0</img>A dog\n\nand its bone.<img>1</img>"
PARTS = (Text("A cat.", True), Image(0), Text("A dog\n\nand its bone.", True), Image(1), Text("<|endoftext|>", True))


def as_parquet(folder, rows):
    file = folder / "documents.parquet"
    pictures = pyarrow.list_(pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))
    schema = pyarrow.schema([("texts", pyarrow.list_(pyarrow.string())), ("images", pictures)])
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), file)
    return file


def as_json_lines(folder, rows):
    file = folder / "documents.jsonl"
    for row in rows:
        row["images"] = [image and image["path"] for image in row["images"]]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def pictures(folder, *numbers):
    """Cells of a row: a number is a picture's, which lies in the folder too."""
    for number in filter(None, numbers):
        (folder / f"{number}.png").write_bytes(make_picture(number).data)
    return [number and {"bytes": make_picture(number).data, "path": f"{number}.png"} for number in numbers]


@pytest.mark.parametrize("write", [as_parquet, as_json_lines])
def test_documents_become_samples(tmp_path, write):
    """Each picture stands where the document has it, and every word is learned, up to the end. It is no sample of pure
    text, and Qwen-VL, whose paper has no such data, has no such task."""
    source = open_source(
        "", str(write(tmp_path, [{"texts": TEXTS, "images": pictures(tmp_path, None, 1, None, None, 2)}]))
    )
    record = source[0]
    assert record.text == ARTICLE
    assert record.images == (make_picture(1), make_picture(2))
    sample = tasks_of(MODEL)["interleaved"](record)
    assert sample.parts == PARTS
    assert sample.images == (make_picture(1).data, make_picture(2).data)
    assert TASKS["text"](record) is None
    assert "interleaved" not in TASKS


@pytest.mark.parametrize("write", [as_parquet, as_json_lines])
def test_bad_documents_are_named(tmp_path, write):
    """Lists of two lengths, a place with both, tags in a text: each is left out with its reason, the others are read."""
    rows = [
        {"texts": TEXTS, "images": pictures(tmp_path, None, 1)},
        {"texts": TEXTS, "images": pictures(tmp_path, 1, 1, None, None, 2)},
        {"texts": ["see <img>9</img>", None], "images": pictures(tmp_path, None, 1)},
        {"texts": TEXTS, "images": pictures(tmp_path, None, 1, None, None, 2)},
    ]
    source = open_source("", str(write(tmp_path, rows)))
    reasons = {problem.index: problem.reason for problem in source.problems}
    assert "5 texts and 2 images" in reasons[0]
    assert "place 0 has a text and a picture" in reasons[1]
    assert "holds <img>" in reasons[2]
    assert len(source) == 1


def test_a_picture_that_was_not_fetched_is_missing(tmp_path):
    """A cell with a path and no bytes is no gap between texts: the pictures behind it would take its place."""
    cells = pictures(tmp_path, None, 1, None, None, 2)
    cells[1]["bytes"] = None
    with pytest.raises(ValueError, match="the row has no picture bytes"):
        open_source("", str(as_parquet(tmp_path, [{"texts": TEXTS, "images": cells}])))


@given(st.lists(st.one_of(st.none(), st.text("ab \n", min_size=1)), min_size=1))
def test_nothing_of_a_document_is_lost(places):
    """Cut at its pictures again, an article has all texts in their order and every picture between the right ones."""
    images = [None if text else "picture" for text in places]
    parts = content_parts(article(places, images))
    assert [part.index for part in parts if isinstance(part, Image)] == list(range(images.count("picture")))
    groups, runs = [[]], [""]
    for text in places:
        groups = [*groups, []] if text is None else [*groups[:-1], [*groups[-1], text]]
    for part in parts:
        runs = [*runs, ""] if isinstance(part, Image) else [*runs[:-1], part.text]
    assert runs == ["\n\n".join(group) for group in groups]
    assert is_interleaved(places, images) == any(places)
