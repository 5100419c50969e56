"""A folder of PDFs becomes a source of pages that trains: the exact funnel, every engine alike, nothing lost by a stop."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from small_data import make_run
from small_pdf import CHINESE, text_at, write_locked_pdf, write_pdf
from test_job import BEAM_PYTHON, ROOT, files

from data_pipelines.cleaning import pdfs
from data_pipelines.cleaning.engines import processes
from data_pipelines.cleaning.funnel import funnel_table
from data_pipelines.cleaning.pages import LOCKED, NO_PDF, NO_TEXT
from data_pipelines.cleaning.pdfs import clean_pdfs
from data_pipelines.components import open_components
from data_pipelines.sources.array_record import ArrayRecordSource
from data_pipelines.tasks import TASKS, tasks_of
from qwenvl_jax.config import Component
from qwenvl_jax.processing.encoders import ImageSlotEncoder
from qwenvl_jax.processing.markup import lines_with_quads
from qwenvl_jax.processing.sample import Text
from qwenvl_jax.processing.tokenizer import load_tokenizer

FULL = text_at(20, 350, "first line with more than twenty letters", 10) + text_at(20, 300, "a second one under it", 10)
CHINESE_PAGE = "".join(f"BT /F2 12 Tf 20 {360 - 20 * n} Td (abcd) Tj ET " for n in range(14))
EXPECTED = {LOCKED: 1, NO_PDF: 1, NO_TEXT: 1, "too few characters": 1}


@pytest.fixture
def source(tmp_path):
    """Two readable PDFs, one of them below a folder, one that is locked, one that is none, and another file."""
    folder = tmp_path / "raw"
    write_pdf(folder / "a.pdf", [FULL, "", FULL, text_at(20, 300, "short")])
    write_pdf(folder / "more" / "B.PDF", [CHINESE_PAGE])
    write_locked_pdf(folder / "locked.pdf")
    (folder / "none.pdf").write_bytes(b"%PDF-1.7 and no more")
    (folder / "notes.txt").write_text("not a PDF")
    return folder


def test_golden_funnel(source, tmp_path):
    """Every page is counted once, a file that cannot be opened as one; what could not be read is listed with its number."""
    funnel = clean_pdfs(source, tmp_path / "pages")
    assert funnel.rejected == EXPECTED
    assert (funnel.kept, funnel.fetched) == (3, 7)
    records = [*ArrayRecordSource(tmp_path / "pages")]
    assert [record.key for record in records] == ["a.pdf#page=1", "a.pdf#page=3", "more/B.PDF#page=1"]
    assert [len(record.lines) for record in records] == [2, 2, 14]
    assert records[0].lines[1].text == "a second one under it"
    assert records[2].lines[0].text == CHINESE
    lines = [json.loads(line) for line in (tmp_path / "pages" / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["source"], line["index"], line["reason"]) for line in lines] == [
        ("locked.pdf", 0, LOCKED), ("none.pdf", 0, NO_PDF),
    ]  # fmt: skip
    table = funnel_table(funnel)
    assert "| pages | | 7 | |" in table
    assert json.loads((tmp_path / "pages" / "funnel.json").read_text())["unit"] == "pages"


def test_engines_agree_to_the_byte(source, tmp_path):
    """Plain loop and two processes, and once more: the same shards, manifest, funnel and quarantine."""
    clean_pdfs(source, tmp_path / "here", per_shard=2)
    clean_pdfs(source, tmp_path / "two", processes(2), per_shard=2)
    assert files(tmp_path / "here") == files(tmp_path / "two")
    assert len(files(tmp_path / "here")) == 2 + 6


@pytest.mark.skipif(not BEAM_PYTHON.exists(), reason="made from data_pipelines/cleaning/requirements.txt on demand")
def test_beam_reads_the_same_pages(source, tmp_path):
    """The same files as the plain loop's, from Apache Beam in the environment that it needs for itself."""
    clean_pdfs(source, tmp_path / "here")
    command = [BEAM_PYTHON, "-m", "launch.main", "data", "clean", source, tmp_path / "beam", "--corpus", "pdf"]
    subprocess.run([*map(str, command), "--engine", "beam"], check=True, cwd=ROOT, timeout=300)
    assert files(tmp_path / "here") == files(tmp_path / "beam")


def test_stopped_anywhere_it_goes_on(source, tmp_path):
    """A stop in any step leaves no source; the same command ends with the same files and reads no file twice."""
    clean_pdfs(source, tmp_path / "whole", per_shard=2)
    done = []

    class Stop(Exception):
        pass

    def one_more(what, function, numbers):
        function(numbers[0])
        done.append((what, numbers[0]))
        if len(numbers) > 1:
            raise Stop

    for _ in range(10):
        try:
            clean_pdfs(source, tmp_path / "stopped", one_more, per_shard=2)
            break
        except Stop:
            assert not (tmp_path / "stopped").exists()
    assert len(done) == len(set(done)) == 4 + 2
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_pages_train(source, tmp_path):
    """The task `ocr` asks for all lines with quads, and a stage takes every page, with nothing left out."""
    clean_pdfs(source, tmp_path / "pages")
    [first, *_] = ArrayRecordSource(tmp_path / "pages")
    sample = TASKS["ocr"](first)
    target = "".join(part.text for part in sample.parts if isinstance(part, Text) and part.supervised)
    found = lines_with_quads(target)
    assert [text for text, _ in found] == ["first line with more than twenty letters", "a second one under it"]
    # 20 points from the left of 300; the tops of letters of 10 points on a line at 350 of 400.
    x, y = found[0][1][0]
    assert x == pytest.approx(67, abs=3)
    assert y == pytest.approx(107, abs=5)
    run = make_run(str(tmp_path), mixture=(Component("ocr", "pages", 1),), sequence_length=2000)
    encoder = ImageSlotEncoder(load_tokenizer("bytes"), queries=4, resolution=8)
    [samples] = open_components(run.stages[0], run.data, tasks_of(run.model), encoder)
    assert len(samples.records) == 3
    assert samples.left_out == {}


def test_mistakes_are_sentences(source, tmp_path, monkeypatch):
    """No PDFs, none that passes, another unfinished cleaning, and no reader."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no \.pdf"):
        clean_pdfs(tmp_path / "empty", tmp_path / "pages")
    write_pdf(tmp_path / "short" / "a.pdf", [text_at(20, 300, "short")])
    with pytest.raises(ValueError, match=r"nothing passes the rules of corpus pdf(.|\n)*too few characters"):
        clean_pdfs(tmp_path / "short", tmp_path / "pages")
    monkeypatch.setattr(pdfs, "PDF", replace(pdfs.PDF, dots_per_inch=72))
    with pytest.raises(ValueError, match="unfinished cleaning with other settings"):
        clean_pdfs(tmp_path / "short", tmp_path / "pages")
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(ValueError, match="reading PDFs needs pypdfium2"):
        clean_pdfs(source, tmp_path / "pages")
