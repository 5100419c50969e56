"""The text of a PDF's page as lines with corners, from the characters that PDFium finds.

PDFium tells each character, where the pen stood, the upright box of what is inked, and the corners of each text object
(what one operator of the page draws). Lines are made of them here: characters that follow each other on one baseline.
"""

import ctypes
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.cleaning.pages import UNKNOWN
from data_pipelines.records import Point, TextLine

WIDEST_GAP = 1.5
"""Font sizes between two characters above which they are of two lines (columns, cells of a table)."""
BASELINE_STEP = 0.6
"""Font sizes by which baselines of one line may differ: indices stand a third to a half off theirs."""
TURN = math.cos(math.radians(1.0))
UPRIGHT = 1e-3
"""Sine or cosine below which text counts as running along a side of the picture."""
FINER = 64
"""PDFium gives whole pixels: places are asked for in a picture so many times as large."""
BREAKS = "\r\n"
HYPHENS = "\x02\ufffe\u00ad"
"""How PDFium gives a hyphen at the end of a line."""
HIDDEN_MODES = (3, 7)
"""Text render modes that paint nothing: the text that scanners put under their picture, and text that only clips."""
LATIN = "\u024f"
"""Behind it a substitute for a missing font is not to be trusted with its characters."""

Box = tuple[float, float, float, float]
Place = Callable[[float, float], Point]


class Glyph(NamedTuple):
    """A character on the picture. All places in pixels, y downwards.

    Attributes:
      text: the character; a line break or a space has no place of its own.
      origin: where the pen stood.
      along: unit vector in which the text runs.
      box: upright box of what is inked.
      size: of the font.
      thing: number of its text object.
    """

    text: str
    origin: Point
    along: Point
    box: Box
    size: float
    thing: int


class PageText(NamedTuple):
    """The painted characters of a page, the corners of its text objects, and whether a font of them is missing."""

    glyphs: list[Glyph]
    corners: dict[int, tuple[Point, ...]]
    foreign: bool


def page_to_picture(page: Any, width: int, height: int) -> Place:
    """From the page's coordinates to pixels of its picture, with rotation and crop of the page."""
    import pypdfium2.raw as pdfium

    def fine(x: float, y: float) -> Point:
        column, row = ctypes.c_int(), ctypes.c_int()
        pdfium.FPDF_PageToDevice(page, 0, 0, width * FINER, height * FINER, 0, x, y, column, row)
        return column.value / FINER, row.value / FINER

    # The map is affine, so three points are enough; far ones, against the rounding.
    far = 1000.0
    (x0, y0), (xx, yx), (xy, yy) = fine(0, 0), fine(far, 0), fine(0, far)
    a, b, c, d = (xx - x0) / far, (yx - y0) / far, (xy - x0) / far, (yy - y0) / far
    return lambda x, y: (a * x + c * y + x0, b * x + d * y + y0)


class _Thing(NamedTuple):
    """A text object: its number on the page, whether it is painted, whether its font is in the file."""

    number: int
    painted: bool
    embedded: bool


def read_text(text: Any, place: Place) -> PageText:
    """What PDFium's text page says.

    Args:
      text: a `pypdfium2.PdfTextPage`.
      place: from the page's coordinates to pixels.
    """
    import pypdfium2.raw as pdfium

    found: list[Glyph] = []
    things: dict[int, _Thing] = {}  # by address
    corners: dict[int, tuple[Point, ...]] = {}
    foreign = False
    for index in range(text.count_chars()):
        character = _character(text, index)
        if not character:
            continue
        handle = pdfium.FPDFText_GetTextObject(text, index)
        address = ctypes.cast(handle, ctypes.c_void_p).value if handle else None
        if address is None or character in BREAKS or pdfium.FPDFText_IsGenerated(text, index) == 1:
            found.append(Glyph("\n" if character in BREAKS else " ", (0, 0), (1, 0), (0, 0, 0, 0), 0, -1))
            continue
        if address not in things:
            painted = pdfium.FPDFTextObj_GetTextRenderMode(handle) not in HIDDEN_MODES
            embedded = pdfium.FPDFFont_GetIsEmbedded(pdfium.FPDFTextObj_GetFont(handle)) == 1
            things[address] = _Thing(len(things), painted, embedded)
            quad = pdfium.FS_QUADPOINTSF()
            pdfium.FPDFPageObj_GetRotatedBounds(handle, quad)
            corners[things[address].number] = tuple(
                place(getattr(quad, f"x{n}"), getattr(quad, f"y{n}")) for n in (1, 2, 3, 4)
            )
        thing = things[address]
        if thing.painted:
            foreign |= not thing.embedded and character > LATIN
            found.append(_glyph(text, index, character, thing.number, place))
    return PageText(_pairs_joined(found), corners, foreign)


def _glyph(text: Any, index: int, character: str, thing: int, place: Place) -> Glyph:
    """A painted character with its place."""
    import pypdfium2.raw as pdfium

    x, y, matrix = ctypes.c_double(), ctypes.c_double(), pdfium.FS_MATRIX()
    pdfium.FPDFText_GetCharOrigin(text, index, x, y)
    pdfium.FPDFText_GetMatrix(text, index, matrix)
    left, bottom, right, top = text.get_charbox(index)
    if not (right > left and top > bottom):
        # Nothing is inked, so far as PDFium knows: a space whatever it is called, or a letter of a damaged font.
        character = " " if character == UNKNOWN else character
        left, bottom, right, top = text.get_charbox(index, loose=True)
    still, ahead, above = place(0, 0), place(matrix.a, matrix.b), place(matrix.c, matrix.d)
    length = math.dist(ahead, still) or 1.0
    return Glyph(
        text=character,
        origin=place(x.value, y.value),
        along=((ahead[0] - still[0]) / length, (ahead[1] - still[1]) / length),
        box=upright((place(left, bottom), place(right, top))),
        size=pdfium.FPDFText_GetFontSize(text, index) * math.dist(above, still),
        thing=thing,
    )


def _character(text: Any, index: int) -> str:
    """The character; empty for one that shows nothing."""
    import pypdfium2.raw as pdfium

    code = pdfium.FPDFText_GetUnicode(text, index)
    character = chr(code) if code <= 0x10FFFF else UNKNOWN
    if character in BREAKS:
        return character
    if character in HYPHENS:
        return "-"
    if code == 0 or pdfium.FPDFText_HasUnicodeMapError(text, index) == 1:
        return UNKNOWN
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) in ("Cc", "Cf") else character


def _pairs_joined(glyphs: Iterable[Glyph]) -> list[Glyph]:
    """Characters beyond the basic plane, which may come as two surrogates, as one; a lone surrogate is unknown."""
    joined: list[Glyph] = []
    for glyph in glyphs:
        if "\udc00" <= glyph.text <= "\udfff" and joined and "\ud800" <= joined[-1].text <= "\udbff":
            pair = (joined[-1].text + glyph.text).encode("utf-16", "surrogatepass").decode("utf-16")
            joined[-1] = joined[-1]._replace(text=pair)
        else:
            joined.append(glyph)
    return [glyph._replace(text=UNKNOWN) if "\ud800" <= glyph.text <= "\udfff" else glyph for glyph in joined]


def upright(points: Sequence[Point]) -> Box:
    """The upright box around points."""
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs), max(ys)


def lines_of(page: PageText, width: int, height: int) -> list[TextLine]:
    """The lines of a page in PDFium's order, without characters that lie outside the picture."""
    return [
        TextLine(text, _quad(inked, page.corners))
        for line in _split(glyph for glyph in page.glyphs if glyph.thing < 0 or _inside(glyph.box, width, height))
        if (text := _text_of(line)) and (inked := [glyph for glyph in line if not glyph.text.isspace()])
    ]


def _inside(box: Box, width: int, height: int) -> bool:
    return 0 <= (box[0] + box[2]) / 2 < width and 0 <= (box[1] + box[3]) / 2 < height


def _split(glyphs: Iterable[Glyph]) -> Iterator[list[Glyph]]:
    """Cuts where PDFium breaks a line, the direction turns, or the next character is not beside the last."""
    line: list[Glyph] = []
    last: Glyph | None = None
    for glyph in glyphs:
        if glyph.text == "\n" or (last is not None and not glyph.text.isspace() and not _beside(last, glyph)):
            yield line
            line, last = [], None
        if glyph.text != "\n":
            line.append(glyph)
            last = last if glyph.text.isspace() else glyph
    yield line


def _beside(first: Glyph, second: Glyph) -> bool:
    """Whether two characters may stand beside each other in a line, in either order."""
    size = max(first.size, second.size)
    if first.along[0] * second.along[0] + first.along[1] * second.along[1] < TURN:
        return False
    _, one = _in_frame(first.origin, first.along)
    _, other = _in_frame(second.origin, first.along)
    if abs(one - other) > BASELINE_STEP * size:
        return False
    begin, end = _run(first, first.along)
    begins, ends = _run(second, first.along)
    return max(begins - end, begin - ends) <= WIDEST_GAP * size


def _in_frame(point: Point, along: Point) -> Point:
    """(along, down) of a point in the frame of a direction, and the other way round with its second part negated."""
    return point[0] * along[0] + point[1] * along[1], point[1] * along[0] - point[0] * along[1]


def _run(glyph: Glyph, along: Point) -> Point:
    """Where a character begins and ends along its line.

    The ink of turned text is known by its upright box alone, whose middle is that of the ink: it is taken to end as far
    behind its middle as the pen stood before it.
    """
    left, top, right, bottom = glyph.box
    if min(map(abs, along)) < UPRIGHT:
        one, other = _in_frame((left, top), along)[0], _in_frame((right, bottom), along)[0]
        return min(one, other), max(one, other)
    begin = _in_frame(glyph.origin, along)[0]
    middle = _in_frame(((left + right) / 2, (top + bottom) / 2), along)[0]
    return begin, 2 * middle - begin


def _quad(line: Sequence[Glyph], corners: Mapping[int, tuple[Point, ...]]) -> tuple[Point, Point, Point, Point]:
    """The corners of the ink, clockwise from the text's own top left.

    Turned text is as high as its text objects, and reaches no farther than they do.
    """
    along = line[0].along
    begin = min(_run(glyph, along)[0] for glyph in line)
    end = max(_run(glyph, along)[1] for glyph in line)
    if min(map(abs, along)) < UPRIGHT:
        framed = [_in_frame(point, along) for glyph in line for point in (glyph.box[:2], glyph.box[2:])]
    else:
        framed = [_in_frame(point, along) for thing in {glyph.thing for glyph in line} for point in corners[thing]]
        begin, end = max(begin, min(framed)[0]), min(end, max(framed)[0])
    top, bottom = min(down for _, down in framed), max(down for _, down in framed)
    back = (along[0], -along[1])
    first, second, third, fourth = (
        _in_frame(point, back) for point in ((begin, top), (end, top), (end, bottom), (begin, bottom))
    )
    return first, second, third, fourth


def _text_of(line: Iterable[Glyph]) -> str:
    """The line's text with single spaces; ligatures as the letters that they join."""
    written = (unicodedata.normalize("NFKC", g.text) if "\ufb00" <= g.text <= "\ufb06" else g.text for g in line)
    return " ".join("".join(written).split())
