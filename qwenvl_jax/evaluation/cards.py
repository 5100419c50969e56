"""The gallery of `report.html`: one card for each held-out picture (or set of pictures) with what was said
about it.

Items are those of `qwenvl_jax.evaluation.benchmarks.gallery`. Everything from an item is escaped.
"""

import base64
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from PIL import Image

from qwenvl_jax.evaluation.scores import box_iou, refcoco_box
from qwenvl_jax.inference.drawing import COLOURS, Mark, find_marks
from qwenvl_jax.processing.markup import PlainText, Reference, parse_generated

Item = Mapping[str, Any]

LOCATED = frozenset({"refer", "grounded_caption", "ocr", "chat_refer"})
"""Benchmarks whose answers hold boxes or quads."""


class Section(NamedTuple):
    """A part of the gallery: its heading, and the benchmarks whose answers share a card."""

    title: str
    lead: str
    benchmarks: tuple[str, ...]


SECTIONS = (
    Section(
        "Describing, answering, finding",
        "Each scene is captioned, asked about, and searched for one object.",
        ("caption", "caption_zh", "vqa", "refer"),
    ),
    Section(
        "Describing with boxes",
        "The caption names every object and says where it is, in one go.",
        ("grounded_caption",),
    ),
    Section("Reading", "Every written line with its four corners, then a question on it.", ("ocr", "ocr_vqa")),
    Section("Small print", "Read at the picture's own size.", ("small_print",)),
    Section("Small print at a fixed low resolution", "The same questions, with what is left.", ("small_print_low",)),
    Section("Watching", "Some frames of each video; the model sees two for every second.", ("video",)),
    Section("Acting", "A task's screens in order, and what the model did.", ("agent",)),
    Section(
        "Several pictures",
        "Questions of a conversation that need more than one picture.",
        ("chat", "chat_refer"),
    ),
)


def cards(items: Sequence[Item], section: Section) -> list[list[Item]]:
    """The items of a section, grouped by their record, in the order of the section's benchmarks."""
    grouped: dict[str, list[Item]] = {}
    for benchmark in section.benchmarks:
        for item in items:
            if item["benchmark"] == benchmark:
                grouped.setdefault(item["key"], []).append(item)
    return list(grouped.values())


def gallery_html(items: Sequence[Item]) -> str:
    """All sections that have items."""
    parts = []
    for section in SECTIONS:
        found = cards(items, section)
        if found:
            shown = "".join(map(card_html, found))
            heading = f'<h3 class="section">{section.title}</h3><p class="lead">{section.lead}</p>'
            parts.append(f'{heading}<div class="grid">{shown}</div>')
    return "".join(parts)


def card_html(items: Sequence[Item]) -> str:
    """Pictures with predicted (solid) and true (dashed) marks, then a row for each question."""
    located = next((item for item in items if item["benchmark"] in LOCATED), None)
    pictures = items[0]["pictures"]
    drawn = marked_picture(located) if located else None
    shots = []
    for number, picture in enumerate(pictures):
        overlay = _overlay(located, picture) if located is not None and number == drawn else ""
        caption = f"<figcaption>Picture {number + 1}</figcaption>" if len(pictures) > 1 else ""
        shots.append(
            f'<figure><div class="shot"><img alt="" loading="lazy" src="{data_url(picture)}">{overlay}</div>'
            f"{caption}</figure>"
        )
    rows = "".join(map(row_html, items))
    return f'<article class="card"><div class="shots">{"".join(shots)}</div>{rows}</article>'


def marked_picture(item: Item) -> int:
    """Which of an item's pictures its boxes mean: the last "Picture N" of the question, else the last
    picture.
    """
    named = [int(number) for number in re.findall(r"Picture (\d+)", item["question"])]
    last = len(item["pictures"])
    return (named[-1] if named and 1 <= named[-1] <= last else last) - 1


def data_url(picture: str) -> str:
    """The `data:` address of a base64 picture; the type is read from its header."""
    kind = Image.open(io.BytesIO(base64.b64decode(picture))).get_format_mimetype()
    return f"data:{escape(kind or 'image/jpeg')};base64,{picture}"


def _overlay(item: Item, picture: str) -> str:
    width, height = Image.open(io.BytesIO(base64.b64decode(picture))).size
    true = [polygon(mark, width, height, "true") for mark in find_marks(item["true"])]
    said = [polygon(mark, width, height, "said") for mark in find_marks(item["predicted"])]
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(true)}{"".join(said)}</svg>'


def polygon(mark: Mark, width: int, height: int, kind: str) -> str:
    """A mark on a picture of that size; `kind` is `said` (in the mark's colour) or `true` (dashed white)."""
    points = " ".join(f"{x * width:.1f},{y * height:.1f}" for x, y in mark.points)
    stroke = f' stroke="{mark.colour}"' if kind == "said" else ""
    return f'<polygon class="halo {kind}" points="{points}"/><polygon class="{kind}" points="{points}"{stroke}/>'


def row_html(item: Item) -> str:
    """Question, answer with a tick or a cross, and the true answer where it differs."""
    right = item["score"] == 1
    benchmark = item["benchmark"]
    ask, answer, truth = escape(item["question"]), escape(item["predicted"].strip()), escape(item["true"])
    if benchmark in ("refer", "chat_refer"):
        iou = box_iou(refcoco_box(item["predicted"]), refcoco_box(item["true"]))
        ask = f'<span class="swatch" style="color:{COLOURS[0]}"></span>{ask}'
        answer, truth = f"IoU {iou:.2f}" if find_marks(item["predicted"]) else "no box", ""
    elif benchmark == "ocr":
        answer, truth = _read_words(item), escape(" ".join(_words(item["true"])))
    elif benchmark == "grounded_caption":
        answer, truth = _phrases(item["predicted"]), escape(plain(item["true"]))
        if truth == escape(plain(item["predicted"])):
            truth = "the boxes are elsewhere"
    ask = f'<p class="ask">{ask}</p>' if ask else ""
    truth = f'<p class="truth">{truth}</p>' if truth and not right else ""
    said = f'<p><span class="answer">{answer or "(nothing)"}</span></p>'
    return f'<div class="row {"right" if right else "wrong"}">{ask}{said}{truth}</div>'


def plain(text: str) -> str:
    """A marked-up answer as people read it: phrases stay, boxes go."""
    kept = (element.text for element in parse_generated(text) if isinstance(element, PlainText | Reference))
    return " ".join("".join(kept).split())


def _phrases(text: str) -> str:
    """The answer with each phrase underlined in the colour of its box."""
    colours = {mark.label: mark.colour for mark in find_marks(text) if mark.label}
    parts = []
    for element in parse_generated(text):
        if isinstance(element, Reference):
            colour = colours.get(element.text.strip(), "transparent")
            parts.append(f'<span class="phrase" style="border-color:{colour}">{escape(element.text.strip())}</span>')
        elif isinstance(element, PlainText):
            parts.append(escape(element.text))
    return "".join(parts).strip()


def _read_words(item: Item) -> str:
    """The words that were read; those that do not stand in the picture are struck out."""
    left = Counter(_words(item["true"]))
    parts = []
    for word in _words(item["predicted"]):
        known = left[word] > 0
        left[word] -= known
        parts.append(escape(word) if known else f'<span class="missed">{escape(word)}</span>')
    return " ".join(parts)


def _words(text: str) -> list[str]:
    found = (element.text for element in parse_generated(text) if isinstance(element, Reference))
    return [word for line in found for word in line.split()]
