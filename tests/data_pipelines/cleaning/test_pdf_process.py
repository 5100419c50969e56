"""PDFs are read apart: what crashes, loops, swells or hangs there costs its page, and the others are read."""

import signal
import sys

import pytest
from small_pdf import text_at, write_pdf

from data_pipelines.cleaning import pdf_process
from data_pipelines.cleaning.pages import BEYOND, CRASHED, NO_PDF, SLOW, PageThresholds
from data_pipelines.cleaning.pdf_process import PageAnswer, read_pdf, require_pdfium

SHORT = PageThresholds(min_characters=1)
READER = """
import os, sys, time
from data_pipelines.cleaning import pdf_reader
first = pdf_reader.{function}
def spoiled(*given):
    if {where}:
        {what}
    return first(*given)
pdf_reader.{function} = spoiled
pdf_reader.SECONDS = 2
pdf_reader.MEMORY = 1 << 30
pdf_reader.main()
"""
"""The reader with one spoiled function."""


def spoil(monkeypatch, what, where="given[1] == 1", function="read_page"):
    """Has the reader do `what` where `where` holds of a function's arguments."""
    program = READER.format(what=what, where=where, function=function)
    made = pdf_process.arguments
    monkeypatch.setattr(pdf_process, "arguments", lambda *given: [sys.executable, "-c", program, *made(*given)[3:]])


@pytest.fixture
def path(tmp_path):
    """Four pages."""
    return write_pdf(tmp_path / "a.pdf", [text_at(50, 300, f"page {n}") for n in range(4)])


def answers(path, thresholds=SHORT, **options):
    return [
        (answer.page, answer.reason or answer.content["lines"][0][0], answer.pages)
        for answer in read_pdf(path, thresholds, **options)
    ]


def test_every_page_is_answered_in_order(path):
    """With nothing wrong, from one process."""
    assert answers(path) == [(n, f"page {n}", 1) for n in range(4)]


@pytest.mark.parametrize(
    "what, reason",
    [
        ("os.abort()", CRASHED),
        (f"os.kill(os.getpid(), {int(signal.SIGSEGV)})", CRASHED),
        ("bytearray(4 << 30)", CRASHED),
        ("while True: pass", SLOW),
    ],
)
def test_what_a_page_does_costs_that_page(path, monkeypatch, what, reason):
    """A crash of the library, more memory than there may be, and a loop, which ends after its processor time."""
    spoil(monkeypatch, what)
    assert answers(path) == [(0, "page 0", 1), (1, reason, 1), (2, "page 2", 1), (3, "page 3", 1)]


def test_a_reader_that_waits_is_ended(path, monkeypatch):
    """A lost mount costs no processor time, so there the clock decides."""
    spoil(monkeypatch, "time.sleep(600)", "given[1] == 3")
    assert answers(path, silent_seconds=10)[3:] == [(3, SLOW, 1)]


def test_a_file_that_goes_on_crashing_is_given_up(path, monkeypatch):
    """After three readers; the other pages are counted for the reason of the last."""
    monkeypatch.setattr(pdf_process, "MOST_DEATHS", 2)
    spoil(monkeypatch, "os.abort()", "given[1] > 0")
    assert answers(path) == [(0, "page 0", 1), (1, CRASHED, 1), (2, CRASHED, 2)]


def test_a_file_that_crashes_when_it_is_opened(path, monkeypatch):
    """It is one entry, as nobody knows its pages; so is a file that is no PDF."""
    spoil(monkeypatch, "os.abort()", "True", "open_pdf")
    assert answers(path) == [(0, CRASHED, 1)]
    monkeypatch.undo()
    path.write_bytes(b"nothing")
    assert answers(path) == [(0, NO_PDF, 1)]


def test_pages_behind_the_most_are_counted(path):
    """Not read."""
    few = PageThresholds(min_characters=1, max_pages=3)
    assert answers(path, few)[2:] == [(2, "page 2", 1), (3, BEYOND, 1)]


def test_a_reader_that_cannot_start_is_a_sentence(path, monkeypatch):
    """And no reason for which a page is left out: nothing is wrong with the file."""
    monkeypatch.setattr(pdf_process, "arguments", lambda *_: [sys.executable, "-c", "import no_such_module"])
    with pytest.raises(ValueError, match=r"reader of PDFs does not start: ModuleNotFoundError.*no_such_module"):
        answers(path)


def test_missing_pypdfium2_is_a_sentence(monkeypatch):
    """It says how to get it."""
    monkeypatch.setattr(pdf_process, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'qwenvl-jax\[pdf\]'"):
        require_pdfium()


def test_answers_are_plain(path):
    """What a page holds is made of plain values, as a record's fields are."""
    [first, *_] = read_pdf(path, SHORT)
    assert isinstance(first, PageAnswer)
    assert {type(value) for _, quad in first.content["lines"] for point in quad for value in point} == {float}
