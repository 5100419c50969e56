"""The contact sheet: a picture of the first answers of each kind."""

import pytest

from qwenvl_jax.evaluation import contact_sheet as sheets
from qwenvl_jax.evaluation.contact_sheet import COLUMNS, GUTTER, MARGIN, TILE, contact_sheet, sentence_of
from qwenvl_jax.inference.drawing import DEJAVU


def test_sheet_has_a_row_for_each_kind_that_there_is(gallery):
    """The width is fixed, rows that have nothing to show are left out."""
    whole = contact_sheet(gallery)
    assert whole.width == 2 * MARGIN + COLUMNS * TILE + (COLUMNS - 1) * GUTTER
    only = contact_sheet([entry for entry in gallery if entry["benchmark"] == "ocr"])
    assert only.size < whole.size


def test_nothing_to_show_is_an_error():
    """One sentence instead of an empty picture."""
    with pytest.raises(ValueError, match="no answers to show"):
        contact_sheet([])


def test_text_that_no_font_can_write_is_left_out(item, monkeypatch):
    """No row of empty boxes: the picture stands without that sentence."""
    chinese = [item("ocr", "", "<ref>EXIT</ref>", 1), item("ocr_vqa", "红", "红", 1, question="什么?")]
    monkeypatch.setattr(sheets, "font_for", lambda text: DEJAVU if text.isascii() or text == "✓" else None)
    assert contact_sheet(chinese).tobytes() == contact_sheet(chinese[:1]).tobytes()


def test_sentences_have_no_markup(item):
    """Markup becomes words; boxes become their overlap."""
    assert sentence_of(item("ocr", "", "<ref>EXIT</ref> <quad>(1,1),(2,2),(3,3),(4,4)</quad>", 1)).answer == "EXIT"
    box = "<box>(100,100),(500,500)</box>"
    assert sentence_of(item("refer", box, box, 1, question="the ring")) == ("the ring", "IoU 1.00", True)
    assert sentence_of(item("vqa", "red", " red", 0)).answer == "red"
