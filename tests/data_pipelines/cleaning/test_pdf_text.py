"""Text and picture of a PDF's page: corners lie around what is drawn, and what nobody can see is not in the text."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_pdf import CHINESE, text_at, write_locked_pdf, write_pdf, write_song_pdf

from data_pipelines.cleaning.pages import (
    FOREIGN_FONT,
    LOCKED,
    NO_PAGE,
    NO_PDF,
    NO_TEXT,
    PAGE_TOO_LARGE,
    PDF,
    TOO_MANY,
)
from data_pipelines.cleaning.pdf_reader import open_pdf, read_page

SHORT = replace(PDF, min_characters=1)
EDGE = 2.0
"""Pixels between ink and corner: a rendered edge is blurred over one, and corners of turned text come from places that
PDFium rounds."""


def read(path, thresholds=SHORT, number=0):
    return read_page(open_pdf(path), number, thresholds)


def texts(page):
    return [text for text, _ in page["lines"]]


@pytest.mark.parametrize("degrees", [0, 1.5, 30, 45, 90, 137, 180, 270, 300])
@pytest.mark.parametrize("extra", ["", "/Rotate 90", "/Rotate 180", "/CropBox [20 40 300 390]"])
def test_corners_lie_around_the_ink(tmp_path, degrees, extra):
    """Whatever way a line runs, on pages turned and cut: the ink reaches from side to side of its quad, and not beyond."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    line = f"BT /F1 20 Tf {cos:.5f} {sin:.5f} {-sin:.5f} {cos:.5f} 150 200 Tm (Hg jEd) Tj ET"
    page = read(write_pdf(tmp_path / "a.pdf", [line], extra=extra))
    assert texts(page) == ["Hg jEd"]
    corners = np.asarray(page["lines"][0][1])
    picture = np.asarray(Image.open(io.BytesIO(page["data"])).convert("L"))
    assert picture.shape == (page["height"], page["width"])
    rows, columns = np.nonzero(picture < 128)
    ink = np.stack([columns, rows], 1) + 0.5 - corners[0]
    for end in (corners[1] - corners[0], corners[3] - corners[0]):
        along = ink @ end / np.linalg.norm(end)
        assert along.min() == pytest.approx(0, abs=EDGE)
        assert along.max() == pytest.approx(np.linalg.norm(end), abs=EDGE)
    # Clockwise from the text's own top left: the second corner is where the text runs, turned with the page.
    turned = {"/Rotate 90": 90, "/Rotate 180": 180}.get(extra, 0)
    right, down = corners[1] - corners[0], corners[3] - corners[0]
    assert math.degrees(math.atan2(right[1], right[0])) % 360 == pytest.approx((turned - degrees) % 360, abs=0.5)
    assert right[0] * down[1] - right[1] * down[0] > 0


def test_lines_columns_and_scripts(tmp_path):
    """Lines under each other and columns beside each other are lines of their own; a line has single spaces."""
    column = "BT /F1 12 Tf 50 350 Td [(left  one) -5000 (right)] TJ 0 -20 Td (below) Tj ET "
    chinese = "BT /F2 15 Tf 150 50 Td (abcd) Tj ET "
    page = read(write_pdf(tmp_path / "a.pdf", [column + chinese]))
    assert texts(page) == ["left one", "right", "below", CHINESE]
    assert all(type(value) is float for _, quad in page["lines"] for point in quad for value in point)


def test_what_nobody_sees_is_not_learned(tmp_path):
    """White text, text under a picture, text that paints nothing, and text outside the page."""
    operators = (
        text_at(50, 350, "seen") + text_at(50, 300, "white", before="1 1 1 rg") + text_at(50, 250, "hidden", before="3 Tr")
        + text_at(50, 200, "covered") + "q 0.5 g 0 180 300 60 re f Q " + text_at(50, -50, "outside")
    )  # fmt: skip
    assert texts(read(write_pdf(tmp_path / "a.pdf", [operators]))) == ["seen"]


def test_pages_of_matplotlib(tmp_path):
    """What another program writes, with fonts in the file as outlines and as TrueType; the picture shows axes too."""
    import matplotlib
    from matplotlib.figure import Figure

    for kind in (3, 42):
        with matplotlib.rc_context({"pdf.fonttype": kind}):
            figure = Figure((4, 4))
            figure.text(0.1, 0.5, "Efficient loss, naïve")
            figure.text(0.5, 0.2, "turned", rotation=40)
            figure.savefig(tmp_path / f"{kind}.pdf")
        page = read(tmp_path / f"{kind}.pdf")
        assert sorted(texts(page)) == ["Efficient loss, naïve", "turned"]
        assert (page["width"], page["height"]) == (576, 576)


def test_pictures_are_bounded(tmp_path):
    """A page of 46 inches is shown with as many pixels as there may be, its corners with it."""
    path = write_pdf(tmp_path / "a.pdf", [text_at(1000, 3000, "poster", 300)], size="0 0 2384 3370")
    page = read(path)
    assert page["width"] * page["height"] == pytest.approx(PDF.max_pixels, rel=0.002)
    [(_, quad)] = page["lines"]
    assert quad[0][0] / page["width"] == pytest.approx(1000 / 2384, abs=0.02)


FULL = text_at(20, 300, "a line of text that is long enough", 10)


@pytest.mark.parametrize(
    "operators, size, reason",
    [
        (FULL * 2, "0 0 300 400", ""),
        (FULL, "0 0 300 400", "too few characters"),
        ("", "0 0 300 400", NO_TEXT),
        ("q 100 0 0 100 50 50 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x40 EI Q", "0 0 300 400", NO_TEXT),
        (text_at(50, 300, "hidden", before="3 Tr"), "0 0 300 400", NO_TEXT),
        (FULL * 2, "0 0 14400 14400", PAGE_TOO_LARGE),
        (FULL * 2, "0 0 300 1000000000", PAGE_TOO_LARGE),
        (FULL * 2, "0 280 300 320", "page too small"),
        (text_at(50, 300, "a" * 30_000) + text_at(50, 200, "b" * 30_000), "0 0 300 400", TOO_MANY),
    ],
)
def test_pages_that_are_left_out(tmp_path, operators, size, reason):
    """Each for its reason: empty ones, scans, sizes that no paper has, too little and too much text."""
    # The second line of FULL stands on the first, where PDFium would take it for shadow, so it is moved.
    path = write_pdf(tmp_path / "a.pdf", [operators.replace(FULL * 2, FULL + "1 0 0 1 0 -40 cm " + FULL)], size=size)
    assert read(path, PDF).get("reason", "") == reason


def test_a_font_that_is_not_in_the_file(tmp_path):
    """Chinese in a font that the reader's machine may have or not: what is drawn would not be what is said."""
    assert read(write_song_pdf(tmp_path / "a.pdf")) == {"reason": FOREIGN_FONT}


@pytest.mark.parametrize(
    "data, reason",
    [(b"", NO_PDF), (b"no PDF at all", NO_PDF), (b"%PDF-1.7\nnothing behind it", NO_PDF), (None, LOCKED)],
)
def test_files_that_are_left_out(tmp_path, data, reason):
    """Empty and damaged files, and those that need a password."""
    path = tmp_path / "a.pdf"
    if data is None:
        write_locked_pdf(path)
    else:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{reason}$"):
        open_pdf(path)


def test_a_damaged_page_costs_itself(tmp_path):
    """One whose object is no page any more; what else is wrong in the file (here, where its table lies) PDFium repairs."""
    path = write_pdf(tmp_path / "a.pdf", [text_at(50, 300, f"page {n}") for n in range(3)])
    data = path.read_bytes().replace(b"startxref\n", b"startxref\n9")
    path.write_bytes(data.replace(b"/Type /Page /Parent", b"/Type /Pxge /Parent", 1))
    assert read(path, number=0) == {"reason": NO_PAGE}
    assert texts(read(path, number=2)) == ["page 2"]
