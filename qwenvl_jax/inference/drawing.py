"""Boxes and quads of an answer, drawn on its picture.

Source: `draw_bbox_on_latest_picture` of the original's tokenizer: coordinates are thousandths of the sides,
each `<ref>` begins a new colour, its phrase is written on a dark plate at the box's top left corner. Unlike
the original, quads are drawn too, colours follow an order instead of chance, and no font is downloaded.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from matplotlib import get_data_path
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from qwenvl_jax.processing.markup import SCALE, Box, PlainText, Quad, Reference, parse_generated

Point = tuple[float, float]

COLOURS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd",
    "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#7f7f7f",
)  # fmt: skip
"""Tableau's palette, as in the original."""
PLATE = (0, 0, 0, 204)
SMALLEST_SIDE = 480
"""A picture whose longer side is shorter, in pixels, is enlarged first: labels of legible size would hide it.
"""
DASH = (3.0, 2.0)
"""Length of a dash and of a gap, in line widths."""


DEJAVU = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
"""Comes with matplotlib."""


@dataclass(frozen=True)
class Mark:
    """A box or quad of an answer.

    Attributes:
      points: four corners (x, y) as shares of width and height, clockwise.
      label: the phrase before it, or empty.
      colour: `#rrggbb`, the same for all marks of one phrase.
    """

    points: tuple[Point, Point, Point, Point]
    label: str
    colour: str


@dataclass(frozen=True)
class Drawing:
    """A picture with marks; `legend` holds "number: phrase" for labels that no installed font can write."""

    picture: Image.Image
    legend: tuple[str, ...]


def find_marks(text: str) -> tuple[Mark, ...]:
    """All boxes and quads of an answer, in order.

    The phrase belongs to the box or quad directly behind it (white space may stand between); a second box has
    its colour but no label, as in `_fetch_all_box_with_ref` of the original.
    """
    marks = []
    colours = itertools.cycle(COLOURS)
    colour, label = COLOURS[0], ""
    for element in parse_generated(text):
        if isinstance(element, Reference):
            colour, label = next(colours), element.text.strip()
        elif isinstance(element, Box | Quad):
            points = element.points if isinstance(element, Quad) else _corners(*element.corners)
            first, second, third, fourth = ((x / SCALE, y / SCALE) for x, y in points)
            marks.append(Mark((first, second, third, fourth), label, colour))
            label = ""
        elif not (isinstance(element, PlainText) and not element.text.strip()):
            label = ""
    return tuple(marks)


def _corners(x1: int, y1: int, x2: int, y2: int) -> tuple[tuple[int, int], ...]:
    return (x1, y1), (x2, y1), (x2, y2), (x1, y2)


def draw_boxes(picture: Image.Image, text: str, dashed: bool = False, labels: bool = True) -> Drawing:
    """Draws every box and quad of `text`; the picture given stays as it is.

    Args:
      picture: any mode; a small one is enlarged by a whole number (see `SMALLEST_SIDE`).
      text: an answer with `<ref>`, `<box>` and `<quad>` markup; malformed markup is passed over.
      dashed: draws dashed lines, to tell the true boxes from predicted ones.
      labels: writes the phrases.
    """
    factor = math.ceil(SMALLEST_SIDE / max(picture.size))
    size = (picture.width * factor, picture.height * factor)
    canvas = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    # The original's sizes: a thirtieth of the mean side, at least 15 pixels, and lines of a quarter of it.
    font_size = max(int(math.sqrt(size[0] * size[1])) // 30, 15)
    line = max(round(font_size / 4), 1)
    draw = ImageDraw.Draw(canvas, "RGBA")
    marks = find_marks(text)
    for mark in marks:
        points = [(int(x * size[0]), int(y * size[1])) for x, y in mark.points]
        _outline(draw, points, mark.colour, line, dashed)
    legend: list[str] = []
    for mark in marks if labels else ():
        if not mark.label:
            continue
        label, path = mark.label, font_for(mark.label)
        if path is None:
            label, path = str(len(legend) + 1), DEJAVU
            legend.append(f"{label}: {mark.label}")
        _plate(
            draw,
            size,
            (int(mark.points[0][0] * size[0]), int(mark.points[0][1] * size[1])),
            label,
            path,
            font_size,
        )
    return Drawing(canvas, tuple(legend))


def _outline(draw: ImageDraw.ImageDraw, points: Sequence[Point], colour: str, width: int, dashed: bool) -> None:
    for start, end in itertools.pairwise((*points, points[0])):
        length = math.dist(start, end)
        dash, gap = (DASH[0] * width, DASH[1] * width) if dashed else (length, 1.0)
        position = 0.0
        while position < length:
            ends = [_between(start, end, at / length) for at in (position, min(position + dash, length))]
            draw.line(ends, fill=colour, width=width)
            position += dash + gap
        if not dashed:
            draw.circle(start, width / 2 - 0.5, fill=colour)


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _plate(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corner: tuple[int, int],
    label: str,
    path: Path,
    font_size: int,
) -> None:
    """The label on its plate with its top left corner at `corner`, moved inwards where it would leave the
    picture.
    """
    font = ImageFont.truetype(path, font_size)
    left, top, right, bottom = font.getbbox(label)
    pad = font_size // 4
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = max(min(corner[0], size[0] - width), 0)
    y = max(min(corner[1], size[1] - height), 0)
    draw.rectangle((x, y, x + width, y + height), fill=PLATE)
    draw.text((x + pad - left, y + pad - top), label, font=font, fill="white")


def _fonts() -> Iterator[str]:
    # Asked for only after DejaVu: listing the system's fonts takes about a second the first time.
    yield str(DEJAVU)
    yield from sorted(findSystemFonts())


@lru_cache(maxsize=1024)
def font_for(text: str) -> Path | None:
    """A font file that has a glyph for every character: DejaVu Sans, else the first installed one; None if
    none has.

    DejaVu has no Chinese; without a font for it a label would be a row of empty boxes.
    """
    characters = {ord(character) for character in text if not character.isspace()}
    for path in _fonts():
        try:
            font = FT2Font(path)
        except (RuntimeError, OSError):
            continue  # damaged, or a format that FreeType does not read: as if it were not installed
        if all(font.get_char_index(character) for character in characters):
            return Path(path)
    return None
