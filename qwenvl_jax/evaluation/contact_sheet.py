"""A picture of a run's gallery, for places that show pictures only: a README, a message, a slide."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from qwenvl_jax.evaluation.cards import LOCATED, Section, cards, marked_picture, plain
from qwenvl_jax.evaluation.scores import box_iou, refcoco_box
from qwenvl_jax.inference.drawing import DEJAVU, draw_boxes, font_for

COLUMNS = 3
TILE, GUTTER, MARGIN = 440, 36, 48
PICTURE_HEIGHT, PAIR_HEIGHT, ROW_GAP = 400, 252, 44
"""Pixels of a tile with one picture, and with several side by side."""
PAPER, CARD, INK, SOFT, RIGHT, WRONG = "#faf9f6", "#efece5", "#1d1c1a", "#6d6a64", "#2c7a4b", "#b4412f"
FONT_SIZE, LEADING, TEXT_GAP = 21, 30, 14
ROWS = (
    Section("Describing", "", ("grounded_caption", "vqa")),
    Section("Reading", "", ("ocr", "ocr_vqa", "small_print")),
    Section("Comparing", "", ("chat", "chat_refer")),
)
CAPTIONED = Section("Describing", "", ("caption", "caption_zh"))
"""The one row of a model that has learned nothing else yet."""
LINES = 4
"""Most lines of text below a picture; what does not fit is left out whole."""

Line = list[tuple[str, str]]
"""Words with their colours."""


class Sentence(NamedTuple):
    """A line of text below a picture: a question, and the answer with whether it is right."""

    question: str
    answer: str
    right: bool


def contact_sheet(items: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Three rows of three: describing, reading, comparing. Predicted boxes solid, true ones dashed.

    Args:
      items: of `qwenvl_jax.evaluation.benchmarks.gallery`; the first ones of each kind are shown.

    Raises:
      ValueError: there is nothing to show.
    """
    found = [_cards(items, section) for section in ROWS]
    shown = [row for row in (found if any(found) else [_cards(items, CAPTIONED)]) if row]
    rows = [[(card, _text(card)) for card in row] for row in shown]
    if not rows:
        wanted = [name for section in (*ROWS, CAPTIONED) for name in section.benchmarks]
        raise ValueError(f"no answers to show: the gallery holds none of {wanted}")
    heights = [PICTURE_HEIGHT if len(row[0][0][0]["pictures"]) == 1 else PAIR_HEIGHT for row in rows]
    texts = [TEXT_GAP + LEADING * max(len(text) for _, text in row) for row in rows]
    width = 2 * MARGIN + COLUMNS * TILE + (COLUMNS - 1) * GUTTER
    height = 2 * MARGIN + sum(heights) + sum(texts) + (len(rows) - 1) * ROW_GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    y = MARGIN
    for row, picture_height, text_height in zip(rows, heights, texts):
        for column, (card, text) in enumerate(row):
            x = MARGIN + column * (TILE + GUTTER)
            _place(sheet, (x, y), picture_height, _drawn(card))
            _write(sheet, (x, y + picture_height + TEXT_GAP), text)
        y += picture_height + text_height + ROW_GAP
    return sheet


def _cards(items: Sequence[Mapping[str, Any]], section: Section) -> list[list[Mapping[str, Any]]]:
    return cards(items, section)[:COLUMNS]


def _drawn(card: Sequence[Mapping[str, Any]]) -> list[Image.Image]:
    """The card's pictures with their marks; labels would repeat what stands below."""
    located = next((item for item in card if item["benchmark"] in LOCATED), None)
    pictures = []
    for number, data in enumerate(card[0]["pictures"]):
        picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        if located is not None and number == marked_picture(located):
            picture = draw_boxes(picture, located["true"], dashed=True, labels=False).picture
            picture = draw_boxes(picture, located["predicted"], labels=False).picture
        pictures.append(picture)
    return pictures


def _text(card: Sequence[Mapping[str, Any]]) -> list[Line]:
    lines: list[Line] = []
    for sentence in map(sentence_of, card):
        if font_for(sentence.question + sentence.answer) is None:
            continue  # Chinese on a machine without a font for it: left out rather than empty boxes
        wrapped = _wrap(sentence, TILE)
        if len(lines) + len(wrapped) > LINES:
            break
        lines += wrapped
    return lines


def _write(sheet: Image.Image, corner: tuple[int, int], lines: Sequence[Line]) -> None:
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        x = float(corner[0])
        for word, colour in line:
            font = _font(word)
            draw.text((x, corner[1] + number * LEADING), word, font=font, fill=colour)
            x += font.getlength(word)


def _place(sheet: Image.Image, corner: tuple[int, int], height: int, pictures: Sequence[Image.Image]) -> None:
    """Pictures side by side in a tile, whole, on a quiet ground."""
    draw = ImageDraw.Draw(sheet)
    draw.rounded_rectangle((*corner, corner[0] + TILE, corner[1] + height), radius=10, fill=CARD)
    share = TILE // len(pictures)
    for number, picture in enumerate(pictures):
        scale = min((share - 8) / picture.width, (height - 8) / picture.height)
        fitted = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
        x = corner[0] + number * share + (share - fitted.width) // 2
        sheet.paste(fitted, (x, corner[1] + (height - fitted.height) // 2))


def sentence_of(item: Mapping[str, Any]) -> Sentence:
    """An item as question and answer without markup."""
    right = item["score"] == 1
    benchmark = item["benchmark"]
    if benchmark in ("refer", "chat_refer"):
        iou = box_iou(refcoco_box(item["predicted"]), refcoco_box(item["true"]))
        return Sentence(item["question"], f"IoU {iou:.2f}", right)
    if benchmark in ("grounded_caption", "caption", "caption_zh", "ocr"):
        return Sentence("", plain(item["predicted"]), right)
    return Sentence(item["question"], item["predicted"].strip(), right)


def _font(text: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_for(text) or DEJAVU, FONT_SIZE)


def _wrap(sentence: Sentence, width: int) -> list[Line]:
    """Lines of (word, colour): the question, the answer, and a tick or a cross."""
    words = [(f"{word} ", SOFT) for word in sentence.question.split()]
    words += [(f"{word} ", INK) for word in (sentence.answer or "(nothing)").split()]
    words.append(("✓", RIGHT) if sentence.right else ("✗", WRONG))
    lines: list[Line] = [[]]
    used = 0.0
    for word, colour in words:
        length = _font(word).getlength(word)
        if used + length > width and lines[-1]:
            lines.append([])
            used = 0.0
        lines[-1].append((word, colour))
        used += length
    return lines


def write_contact_sheet(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Writes `contact_sheet` as PNG."""
    contact_sheet(items).save(path, optimize=True)
