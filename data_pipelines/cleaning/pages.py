"""Rules for pages of text with boxes: PDF and rendered HTML (paper, appendix A.4).

A page has been read (its text lines with boxes) and rendered; these rules decide whether it becomes a record. The
paper gives no numbers; these are ours. HTML pages keep Latin Extended letters, PDF pages do not. PDF pages are read by
`data_pipelines.cleaning.pdf_reader`; HTML pages are rendered elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import regex

from data_pipelines.boxes import checked_box


class Page(NamedTuple):
    """A rendered page: size in pixels, and lines of text, each with its box (x1, y1, x2, y2)."""

    width: int
    height: int
    lines: Sequence[tuple[str, Sequence[float]]]


@dataclass(frozen=True)
class PageThresholds:
    """The numbers of the page rules."""

    min_side: int = 400
    min_characters: int = 50
    max_characters: int = 5000
    latin_extended: bool = False
    """Whether letters of Latin Extended-A and -B may stand in the text: the paper's fifth rule, for PDF alone."""
    dots_per_inch: int = 144
    """Of the picture: letters of 8 points are 16 pixels high, and a page of A4 has two million pixels."""
    max_pixels: int = 4_000_000
    """Of the picture; a page that would have more (above A3) is shown smaller."""
    max_inches: float = 50.0
    """Longer side of a page; A0 has 46.8."""
    max_pages: int = 2_000
    """Of one file; those behind them are left out."""


PDF = PageThresholds()
HTML = PageThresholds(latin_extended=True)

PAGE_TOO_LARGE = "page too large"
NO_TEXT = "no text layer"
FOREIGN_FONT = "letters of a font that the file lacks"
TOO_MANY, NAMELESS = "too many characters", "characters that the font does not name"
BEYOND = "page behind the most of a file"
LOCKED, NO_PDF, NO_PAGE = "file needs a password", "file is no readable PDF", "page cannot be read"
CRASHED, SLOW = "the reader crashed, or wanted too much memory", "reading took too long"

LATIN_EXTENDED = regex.compile(r"[Ā-ɏ]")
PRIVATE_USE = regex.compile(r"\p{Co}")
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""What stands for a character that a PDF draws without saying which it is."""


def _characters(page: Page) -> int:
    return sum(len(text) - text.count(" ") for text, _ in page.lines)


def _boxes_hold(page: Page) -> bool:
    try:
        for _, box in page.lines:
            checked_box(box, page.width, page.height)
    except ValueError:
        return False
    return True


PAGE_RULES: tuple[tuple[str, Callable[[Page, PageThresholds], bool]], ...] = (
    ("page too small", lambda page, t: min(page.width, page.height) >= t.min_side),
    ("too few characters", lambda page, t: _characters(page) >= t.min_characters),
    (TOO_MANY, lambda page, t: _characters(page) <= t.max_characters),
    (
        "letters of Latin Extended",
        lambda page, t: t.latin_extended or not any(LATIN_EXTENDED.search(text) for text, _ in page.lines),
    ),
    ("private characters", lambda page, _: not any(PRIVATE_USE.search(text) for text, _ in page.lines)),
    (NAMELESS, lambda page, _: not any(UNKNOWN in text for text, _ in page.lines)),
    ("a line's box is damaged", lambda page, _: _boxes_hold(page)),
)
"""Reason -> whether a page passes, in the paper's order (its rules 3 to 6; 1 and 2 are reading and rendering), then ours."""


UNREADABLE_PAGE = (LOCKED, NO_PDF, CRASHED, SLOW, NO_PAGE)
"""Why a file, which then counts as one page, or a page is not read at all."""
PAGE_REASONS = (
    *UNREADABLE_PAGE, BEYOND, PAGE_TOO_LARGE, NO_TEXT, FOREIGN_FONT, *(reason for reason, _ in PAGE_RULES),
)  # fmt: skip
"""Every reason for which a page of a PDF becomes no record."""


def judge_page(page: Page, thresholds: PageThresholds) -> str:
    """Empty for a page that is kept, else the first rule that rejects it."""
    return next((reason for reason, passes in PAGE_RULES if not passes(page, thresholds)), "")
