"""`<img>`, `<ref>`, `<box>` and `<quad>` in text: writing and reading.

Coordinates are integers in [0, 1000), thousandths of the picture's width and height; a box is
(x1, y1, x2, y2), top left and bottom right. Source: `to_list_format` and `_fetch_all_box_with_ref` of the
original's tokenizer. Where the original breaks off on malformed text, `parse` says what is wrong and
`parse_generated` reads on.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qwenvl_jax.processing.tokenizer import (
    BOX_END,
    BOX_START,
    IMAGE_END,
    IMAGE_START,
    QUAD_END,
    QUAD_START,
    REF_END,
    REF_START,
)

SCALE = 1000
"""Coordinates lie in [0, SCALE)."""

Corners = tuple[int, int, int, int]
Point = tuple[int, int]


@dataclass(frozen=True)
class PlainText:
    """Text between the markup; never empty when it was parsed."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class ImageSpan:
    """`<img>path</img>`; in training text the path is the image's number."""

    path: str

    def __str__(self) -> str:
        return f"{IMAGE_START}{self.path}{IMAGE_END}"


@dataclass(frozen=True)
class Reference:
    """`<ref>text</ref>`: a phrase, its outer white space included."""

    text: str

    def __str__(self) -> str:
        return f"{REF_START}{self.text}{REF_END}"


@dataclass(frozen=True)
class Box:
    """`<box>(x1,y1),(x2,y2)</box>`.

    Raises:
      ValueError: a coordinate is outside [0, 1000), or the second corner lies left of or above the first.
    """

    corners: Corners

    def __post_init__(self) -> None:
        x1, y1, x2, y2 = self.corners
        _check_range(self.corners)
        if x2 < x1 or y2 < y1:
            raise ValueError(f"box {self.corners} is not top left, bottom right; swap its corners")

    def __str__(self) -> str:
        x1, y1, x2, y2 = self.corners
        return f"{BOX_START}({x1},{y1}),({x2},{y2}){BOX_END}"


@dataclass(frozen=True)
class Quad:
    """`<quad>(x,y),(x,y),(x,y),(x,y)</quad>`: clockwise from the text's own top left.

    Raises:
      ValueError: a coordinate is outside [0, 1000).
    """

    points: tuple[Point, Point, Point, Point]

    def __post_init__(self) -> None:
        _check_range([value for point in self.points for value in point])

    def __str__(self) -> str:
        return QUAD_START + ",".join(f"({x},{y})" for x, y in self.points) + QUAD_END


Element = PlainText | ImageSpan | Reference | Box | Quad

TAGS = {IMAGE_START: IMAGE_END, REF_START: REF_END, BOX_START: BOX_END, QUAD_START: QUAD_END}
_ANY_TAG = re.compile("|".join(re.escape(tag) for pair in TAGS.items() for tag in pair))
_POINT = r"\(\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*\)"
_POINTS = {
    BOX_START: re.compile(r"\s*" + r"\s*,\s*".join([_POINT] * 2) + r"\s*"),
    QUAD_START: re.compile(r"\s*" + r"\s*,\s*".join([_POINT] * 4) + r"\s*"),
}


def _check_range(coordinates: Iterable[int]) -> None:
    for value in coordinates:
        if not 0 <= value < SCALE:
            raise ValueError(f"coordinate {value} is outside [0, {SCALE}); give thousandths of the picture's side")


def to_thousandths(x: float, size: float) -> int:
    """Pixel position `x` on a side of `size` pixels as a coordinate: floor(1000 x / size) within [0, 999].

    How the original rounded its training boxes is not published. Rounding down makes coordinate c the c-th
    of 1000 equal cells of the side; drawing at c / 1000 * size (the original's way) errs by less than a cell.

    Raises:
      ValueError: `x` is not finite or `size` not positive.
    """
    if not (math.isfinite(x) and math.isfinite(size) and size > 0):
        raise ValueError(f"position {x} on a side of {size} pixels has no coordinate; give finite pixels, side > 0")
    return math.floor(min(max(x / size * SCALE, 0), SCALE - 1))


def format_box(box: Sequence[float], width: float, height: float) -> str:
    """`<box>` markup of (x1, y1, x2, y2) in pixels of a picture of `width` by `height` pixels.

    Raises:
      ValueError: the corners are swapped, or not finite, or the picture has no area.
    """
    x1, y1, x2, y2 = box
    return str(
        Box(
            (
                to_thousandths(x1, width),
                to_thousandths(y1, height),
                to_thousandths(x2, width),
                to_thousandths(y2, height),
            )
        )
    )


def format_quad(points: Sequence[tuple[float, float]], width: float, height: float) -> str:
    """`<quad>` markup of four (x, y) in pixels of a picture of `width` by `height` pixels.

    Raises:
      ValueError: there are not four points, or they are not finite, or the picture has no area.
    """
    first, second, third, fourth = ((to_thousandths(x, width), to_thousandths(y, height)) for x, y in points)
    return str(Quad((first, second, third, fourth)))


def format_ref(text: str) -> str:
    """`<ref>` markup of a phrase.

    Raises:
      ValueError: the phrase holds markup itself.
    """
    if found := _ANY_TAG.search(text):
        raise ValueError(f"phrase {text!r} holds {found[0]}; a <ref> cannot hold markup")
    return str(Reference(text))


def parse(text: str) -> tuple[Element, ...]:
    """The elements of text that a person or a file gives, in order, after NFC.

    `"".join(map(str, parse(text)))` is the text again where coordinates hold no white space or leading zeros.

    Raises:
      ValueError: a tag is not closed, not opened or stands inside another, or a box or quad is no list of
        points in [0, 1000); the sentence names it.
    """
    return _parse(text, strict=True)


def parse_generated(text: str) -> tuple[Element, ...]:
    """As `parse` for text that a model wrote: raises nothing, what is malformed is part of the plain text."""
    return _parse(text, strict=False)


def _parse(text: str, strict: bool) -> tuple[Element, ...]:
    text = unicodedata.normalize("NFC", text)
    elements: list[Element] = []
    plain_from = position = 0
    while found := _ANY_TAG.search(text, position):
        position = found.end()
        try:
            element, end = _element_at(text, found)
        except ValueError:
            if strict:
                raise
            continue
        if found.start() > plain_from:
            elements.append(PlainText(text[plain_from : found.start()]))
        elements.append(element)
        plain_from = position = end
    if plain_from < len(text):
        elements.append(PlainText(text[plain_from:]))
    return tuple(elements)


def _element_at(text: str, found: re.Match[str]) -> tuple[Element, int]:
    """The element that the tag `found` opens, and where the text goes on after it."""
    tag, start = found[0], found.end()
    where = f"at character {found.start()} of {_shortened(text)!r}"
    if tag not in TAGS:
        raise ValueError(f"{tag} {where} closes nothing; open it or take it out")
    closing = _ANY_TAG.search(text, start)
    if closing is None or closing[0] != TAGS[tag]:
        raise ValueError(f"{tag} {where} is not closed; {TAGS[tag]} must be the next tag")
    content = text[start : closing.start()]
    if tag == IMAGE_START:
        return ImageSpan(content), closing.end()
    if tag == REF_START:
        return Reference(content), closing.end()
    match = _POINTS[tag].fullmatch(content)
    if match is None:
        points = "two" if tag == BOX_START else "four"
        raise ValueError(f"{tag} {where} holds {_shortened(content)!r}, not {points} points (x,y) in [0, {SCALE})")
    values = [int(value) for value in match.groups()]
    if tag == BOX_START:
        x1, y1, x2, y2 = values
        return Box((x1, y1, x2, y2)), closing.end()
    first, second, third, fourth = zip(values[::2], values[1::2])
    return Quad((first, second, third, fourth)), closing.end()


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[:length] + "..."


def boxes_with_references(text: str) -> list[tuple[Corners, str | None]]:
    """The boxes of a generated answer, each with the stripped phrase of the `<ref>` directly before it.

    A second box behind the same phrase has None, as in `_fetch_all_box_with_ref` of the original.
    """
    found: list[tuple[Corners, str | None]] = []
    previous: Element | None = None
    for element in parse_generated(text):
        if isinstance(element, Box):
            phrase = previous.text.strip() if isinstance(previous, Reference) else None
            found.append((element.corners, phrase))
        previous = element
    return found


def lines_with_quads(text: str) -> list[tuple[str, tuple[Point, Point, Point, Point]]]:
    """The written lines of a generated OCR answer: `<ref>line</ref>` and the `<quad>` behind it.

    White space may stand between the two (the paper's sample has a space); a quad without a line is left out.
    """
    found = []
    line: str | None = None
    for element in parse_generated(text):
        if isinstance(element, Reference):
            line = element.text.strip()
        elif isinstance(element, Quad) and line is not None:
            found.append((line, element.points))
            line = None
        elif str(element).strip():
            line = None
    return found
