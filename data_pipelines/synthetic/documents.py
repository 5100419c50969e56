"""Documents and signs: one or two lines, each a word or a number, with the exact corners of every line.

Held-out documents use numbers that training documents never show (`is_held_out_number`) and other renderings
of the same words.
"""

import importlib.util
import math
import string
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.records import Point, Question, StoredImage, TextLine
from data_pipelines.synthetic.backgrounds import Colour, background, noise
from data_pipelines.synthetic.rendering import draw_frame, stored_jpeg
from data_pipelines.synthetic.scenes import annotated, picture_size
from data_pipelines.tasks import OCR_KIND

_LEXICON = """
    exit stop open sale bakery hotel bar cafe pizza taxi bus train school bank post park gate push pull shop
    market museum garden river bridge street north south east west city house home tea coffee milk bread fish
    fruit apple lemon orange sugar salt water juice beer wine soup rice meat egg book paper music radio movie
    photo news phone ticket price menu lunch dinner today monday friday sunday winter summer spring autumn sun
    moon star snow rain ocean beach island forest horse tiger zebra danger quiet slow fast entry private
    office doctor police fire help info free new hot cold
"""
LONGEST_WORD = 5
WORDS = tuple(word.upper() for word in _LEXICON.split() if len(word) <= LONGEST_WORD)
"""Common words of three to five letters, in capitals as signs and labels have them."""
CHARACTERS = string.ascii_uppercase + string.digits

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono-Bold.ttf", "cmss10.ttf")
"""Files that matplotlib carries in `mpl-data/fonts/ttf`; each has its Latin letters and digits in ASCII
places.
"""

LINES = (0.6, 0.4)
"""Share of documents with 1, 2 lines."""
NUMBER_SHARE = 0.28
DIGITS = (2, 3)
"""Fewest and most of a number."""
CAP_HEIGHTS = (0.16, 0.25)
"""Height of a capital as a share of the mean side; the smallest is 11 pixels of 72."""
WIDEST_LINE = 0.94
OVERSAMPLING = 2
MARGIN = 2

PLATES: tuple[tuple[Colour, Colour], ...] = (
    ((190, 30, 35), (250, 250, 250)),
    ((25, 70, 165), (250, 250, 250)),
    ((20, 110, 60), (250, 250, 250)),
    ((35, 35, 40), (245, 240, 225)),
    ((245, 205, 40), (20, 20, 20)),
    ((250, 250, 248), (25, 25, 30)),
    ((240, 235, 220), (150, 25, 30)),
    ((235, 240, 245), (20, 60, 140)),
)
"""Plate and text colour of signs."""
INKS: tuple[Colour, ...] = ((20, 20, 25), (25, 35, 110), (120, 20, 25), (15, 70, 45), (70, 40, 20))


@dataclass(frozen=True)
class PlacedLine:
    """A line of text: its font's file and size (oversampled pixels), centre (pixels), angle (radians)."""

    text: str
    font: str
    font_size: int
    x: float
    y: float
    angle: float

    @property
    def quad(self) -> tuple[Point, Point, Point, Point]:
        """Corners in pixels, clockwise from the text's own top left."""
        width, height = _ink(self.font, self.font_size, self.text).size
        u, v = width / 2 / OVERSAMPLING, height / 2 / OVERSAMPLING
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        corners = [
            (self.x + a * cos - b * sin, self.y + a * sin + b * cos) for a, b in ((-u, -v), (u, -v), (u, v), (-u, v))
        ]
        return (corners[0], corners[1], corners[2], corners[3])

    def annotated_quad(self, size: tuple[int, int]) -> tuple[Point, Point, Point, Point]:
        """The corners in a picture of (width, height), rounded as annotations are."""
        first, second, third, fourth = ((annotated(x, size[0]), annotated(y, size[1])) for x, y in self.quad)
        return first, second, third, fourth


Page = tuple[tuple[int, int], tuple[PlacedLine, ...]]
"""A document before it is drawn: (width, height) in pixels, and its lines from top to bottom."""

LAYOUT_ATTEMPTS = 1000
"""One line of a few letters fits every picture, so that this bound is never met by the sizes of this world."""


def is_held_out_number(number: int) -> bool:
    """Whether a number is shown in held-out documents only (else in training documents only)."""
    return number % 7 == 3


@lru_cache(maxsize=512)
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise FileNotFoundError(
            f"the font {file} comes with matplotlib, which is not installed: pip install matplotlib"
        )
    return ImageFont.truetype(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / file, size)


@lru_cache(maxsize=512)
def size_for_capitals(file: str, height: int) -> int:
    """The font size at which a capital H is `height` pixels high."""
    box = _font(file, 100).getbbox("H")
    return max(1, round(100 * height / (box[3] - box[1])))


@lru_cache(maxsize=256)
def _ink(file: str, size: int, text: str) -> Image.Image:
    """The text in white on black, mode L, cut to what is drawn (a font's own boxes include side bearings)."""
    font = _font(file, size)
    box = font.getbbox(text)
    drawn = Image.new("L", (math.ceil(box[2]) + size, math.ceil(box[3]) + size))
    ImageDraw.Draw(drawn).text((size // 2, size // 2), text, fill=255, font=font)
    return drawn.crop(drawn.getbbox())


@lru_cache(maxsize=512)
def advance(character: str) -> float:
    """How far a character moves the pen in the first font, at a size of 100."""
    return float(_font(FONTS[0], 100).getlength(character))


def sample_text(rng: np.random.Generator, held_out: bool) -> str:
    """A word, or a number of two or three digits."""
    if rng.random() < NUMBER_SHARE:
        while True:
            digits = int(rng.integers(DIGITS[0], DIGITS[1] + 1))
            number = int(rng.integers(10 ** (digits - 1), 10**digits))
            if is_held_out_number(number) == held_out:
                return str(number)
    return WORDS[int(rng.integers(len(WORDS)))]


def _sample_angle(rng: np.random.Generator) -> float:
    """Radians; at most 10 degrees, most of them below 4."""
    widest = rng.choice((4.0, 10.0), p=(0.8, 0.2))
    return math.radians(rng.uniform(-widest, widest))


def sample_lines(
    rng: np.random.Generator,
    size: tuple[int, int],
    held_out: bool,
    heights: tuple[float, float] | None = None,
    shares: tuple[float, ...] = LINES,
) -> tuple[PlacedLine, ...]:
    """Lines of one font from top to bottom, whose upright boxes do not overlap in height: their order is
    plain. Capitals are as high as `CAP_HEIGHTS` says, or between `heights` in pixels; `shares` as `LINES`.
    """
    width, height = size
    mean = (width + height) / 2
    low, high = heights or (CAP_HEIGHTS[0] * mean, CAP_HEIGHTS[1] * mean)
    most = int(rng.choice(len(shares), p=shares)) + 1
    font = FONTS[int(rng.integers(len(FONTS)))]
    # Long words can be too wide and two lines too high for a picture: texts are drawn anew, and fewer in the end.
    for attempt in range(LAYOUT_ATTEMPTS):
        number = max(1, most - attempt // 50)
        angle = _sample_angle(rng)
        boxes = []
        for text in [sample_text(rng, held_out) for _ in range(number)]:
            capital = rng.uniform(low, high)
            font_size = size_for_capitals(font, round(capital * OVERSAMPLING))
            tilt = angle + math.radians(rng.uniform(-2, 2))
            line = PlacedLine(text, font, font_size, 0, 0, tilt)
            xs, ys = zip(*line.quad)
            boxes.append((line, max(xs) + MARGIN, max(ys) + MARGIN))
        free = height - sum(2 * half for _, _, half in boxes)
        if free < 0 or any(2 * half > WIDEST_LINE * width for _, half, _ in boxes):
            continue
        # The free height is shared at random between the gaps above, between and below the lines.
        gaps = rng.dirichlet(np.full(number + 1, 2.0)) * free
        placed, y = [], 0.0
        for (line, half_width, half_height), gap in zip(boxes, gaps):
            y += gap + half_height
            x = rng.uniform(half_width, width - half_width)
            placed.append(PlacedLine(line.text, font, line.font_size, x, y, line.angle))
            y += half_height
        return tuple(placed)
    raise RuntimeError(f"no text fits a document of {size} pixels after {LAYOUT_ATTEMPTS} attempts")


def draw_line(picture: Image.Image, line: PlacedLine, ink: Colour) -> None:
    """Draws one line onto the picture."""
    text = _ink(line.font, line.font_size, line.text)
    xs, ys = zip(*line.quad)
    left, top = math.floor(min(xs)) - 1, math.floor(min(ys)) - 1
    width, height = math.ceil(max(xs)) + 1 - left, math.ceil(max(ys)) + 1 - top
    # From oversampled pixels around the line's centre in the picture to those around the centre of its ink.
    x, y = (line.x - left) * OVERSAMPLING, (line.y - top) * OVERSAMPLING
    cos, sin = math.cos(line.angle), math.sin(line.angle)
    turned = text.transform(
        (width * OVERSAMPLING, height * OVERSAMPLING),
        Image.Transform.AFFINE,
        (cos, sin, text.width / 2 - cos * x - sin * y, -sin, cos, text.height / 2 + sin * x - cos * y),
        Image.Resampling.BILINEAR,
    )
    mask = turned.reduce(OVERSAMPLING)
    picture.paste(ink, (left, top, left + width, top + height), mask)


def _paper(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, Colour]:
    tint = rng.integers(218, 254, 3)
    light = Image.new("RGB", size, (int(tint[0]), int(tint[1]), int(tint[2])))
    shade = (int(tint[0]) - 34, int(tint[1]) - 34, int(tint[2]) - 34)
    cells = int(rng.integers(2, 24))
    light.paste(shade, mask=noise(rng, size, (cells, cells)))
    return light, INKS[int(rng.integers(len(INKS)))]


def _sign(rng: np.random.Generator, size: tuple[int, int], lines: tuple[PlacedLine, ...]) -> tuple[Image.Image, Colour]:
    """A plate behind the lines on a muted background."""
    picture = background(rng, size)
    plate, ink = PLATES[int(rng.integers(len(PLATES)))]
    xs, ys = zip(*(point for line in lines for point in line.quad))
    pad_x, pad_y = rng.uniform(3, 14, 2)
    box = [min(xs) - pad_x, min(ys) - pad_y, max(xs) + pad_x, max(ys) + pad_y]
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle(box, radius=rng.uniform(0, 10), fill=plate, outline=ink, width=int(rng.integers(0, 3)))
    return picture, ink


def _photograph(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, Colour]:
    """Text straight on a background, in white or black."""
    picture = background(rng, size)
    if rng.random() < 0.5:
        return Image.blend(picture, Image.new("RGB", size, (20, 20, 25)), 0.35), (250, 250, 245)
    return Image.blend(picture, Image.new("RGB", size, (255, 255, 255)), 0.35), (12, 12, 15)


def draw_page(rng: np.random.Generator, page: Page, framed: bool = False) -> tuple[StoredImage, tuple[TextLine, ...]]:
    """Draws the lines on paper, on a plate, or on a photograph-like background; gives them as annotated too."""
    size, lines = page
    kind = rng.random()
    if kind < 0.4:
        picture, ink = _paper(rng, size)
    elif kind < 0.75:
        picture, ink = _sign(rng, size, lines)
    else:
        picture, ink = _photograph(rng, size)
    for line in lines:
        draw_line(picture, line, ink)
    if framed:
        draw_frame(picture)
    return stored_jpeg(rng, picture), tuple(TextLine(line.text, line.annotated_quad(size)) for line in lines)


def sample_page(rng: np.random.Generator, held_out: bool) -> Page:
    """The page of a document or sign."""
    size = picture_size(rng)
    return size, sample_lines(rng, size, held_out)


def sample_document(rng: np.random.Generator, held_out: bool) -> tuple[StoredImage, tuple[TextLine, ...]]:
    """A rendered document or sign and its lines."""
    return draw_page(rng, sample_page(rng, held_out))


def document_questions(texts: tuple[str, ...], rng: np.random.Generator) -> tuple[Question, ...]:
    """One OCR-VQA question on each line of a document, in random order (so that no answer tells another)."""
    asked = []
    for i in rng.permutation(len(texts)):
        kind = "number" if texts[i].isdigit() else "word"
        alike = [text for text in texts if text.isdigit() == texts[i].isdigit()]
        if len(alike) == 1 and rng.random() < 0.4:
            asked.append(Question(f"What {kind} is shown?", texts[i], OCR_KIND))
        elif len(texts) == 1:
            asked.append(Question("What is written on the sign?", texts[i], OCR_KIND))
        else:
            asked.append(Question(f"What is on line {i + 1}?", texts[i], OCR_KIND))
    return tuple(asked)
