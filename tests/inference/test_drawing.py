"""Drawing: the original's semantics of boxes, references and colours, and labels that no font can write."""

import itertools

import numpy as np
import pytest
from PIL import Image

from qwenvl_jax.inference import drawing
from qwenvl_jax.inference.drawing import COLOURS, SMALLEST_SIDE, draw_boxes, find_marks

RED = "<ref> a red star</ref><box>(100,200),(500,600)</box>"


def changed(text: str, size=(500, 1000), **options) -> np.ndarray:
    """[H, W] bool: where drawing changed a white picture."""
    picture = Image.new("RGB", size, "white")
    return (np.asarray(draw_boxes(picture, text, **options).picture) < 255).any(-1)


def test_reference_belongs_to_the_next_box_only():
    """A second box keeps the phrase's colour without its label; text between breaks the tie; a ref begins a
    colour.
    """
    marks = find_marks(RED + "<box>(0,0),(9,9)</box> and <ref>ring</ref> is <box>(1,1),(2,2)</box>")
    assert [mark.label for mark in marks] == ["a red star", "", ""]
    assert [mark.colour for mark in marks] == [COLOURS[0], COLOURS[0], COLOURS[1]]
    assert marks[0].points == ((0.1, 0.2), (0.5, 0.2), (0.5, 0.6), (0.1, 0.6))


def test_quads_are_found_with_a_space_between():
    """The paper's OCR format has a space between phrase and quad."""
    (mark,) = find_marks("<ref>EXIT</ref> <quad>(10,20),(30,20),(30,40),(10,45)</quad>")
    assert (mark.label, mark.points[3]) == ("EXIT", (0.01, 0.045))


@pytest.mark.parametrize(
    "text", ["", "a red star", "<box>(1,2)", "<box>(5,5),(1,1)</box>", "<ref>x</ref><quad>no</quad>"]
)
def test_malformed_markup_draws_nothing(text):
    """What a model garbles is passed over."""
    assert find_marks(text) == ()
    assert not changed(text).any()


def test_box_stands_where_the_original_draws_it():
    """Coordinates are thousandths of each side: int(x / 1000 * w), int(y / 1000 * h)."""
    ys, xs = np.nonzero(changed(RED, labels=False))
    edge = 4
    assert abs(xs.min() - 50) <= edge
    assert abs(xs.max() - 250) <= edge
    assert abs(ys.min() - 200) <= edge
    assert abs(ys.max() - 600) <= edge


def test_dashed_lines_cover_less():
    """True boxes can be told from predicted ones."""
    assert 0.3 < changed(RED, labels=False, dashed=True).sum() / changed(RED, labels=False).sum() < 0.8


def test_labels_stay_inside():
    """A label at the lower right corner is moved inwards and stays whole."""
    corner = "<ref>a red star</ref><box>(990,990),(999,999)</box>"
    middle = "<ref>a red star</ref><box>(400,400),(409,409)</box>"
    counts = [(changed(text) & ~changed(text, labels=False)).sum() for text in (corner, middle)]
    assert counts[0] == pytest.approx(counts[1], rel=0.1)


def test_small_pictures_are_enlarged_and_the_given_one_is_kept():
    """Labels of legible size would hide a small picture; drawing twice enlarges once."""
    small = Image.new("RGB", (100, 60), "white")
    once = draw_boxes(small, RED).picture
    assert once.size == (SMALLEST_SIDE // 96 * 100, SMALLEST_SIDE // 96 * 60)
    assert draw_boxes(once, RED).picture.size == once.size
    assert small.getextrema() == ((255, 255),) * 3


def test_labels_without_a_font_are_numbered(monkeypatch):
    """Where no font has the glyphs, a number stands in the picture and its meaning in the legend."""
    monkeypatch.setattr(drawing, "findSystemFonts", lambda: [])
    drawing.font_for.cache_clear()
    texts = [
        f"<ref>{phrase}</ref><box>(1{i}0,100),(500,500)</box>" for i, phrase in enumerate(("红色的圆", "ring", "星"))
    ]
    drawn = draw_boxes(Image.new("RGB", (500, 500)), "".join(itertools.chain(texts)))
    drawing.font_for.cache_clear()
    assert drawn.legend == ("1: 红色的圆", "2: 星")
