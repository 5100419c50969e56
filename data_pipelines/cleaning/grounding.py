"""GRIT's expressions: which of them a caption keeps, so that none lies inside another (paper, appendix A.3).

An expression is [start, end, x1, y1, x2, y2, score]: characters of the caption and a box in shares of the picture.
The paper keeps "the most box labels with no recursive ones" by a greedy algorithm that it does not print; here the
choice is the exact maximum, found by dynamic programming over the ends of the phrases.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines.boxes import Box, checked_box
from data_pipelines.records import Question, Region
from qwenvl_jax.processing.markup import format_box, format_ref
from qwenvl_jax.processing.prompts import GROUNDED_CAPTION_PROMPT


class Phrase(NamedTuple):
    """Characters start .. end - 1 of a caption, and the boxes of what they mean (shares of the picture)."""

    start: int
    end: int
    boxes: tuple[Box, ...]


def read_expressions(expressions: Sequence[Sequence[float]], length: int) -> tuple[list[Phrase], list[str]]:
    """The phrases of a caption of `length` characters, and a reason for each expression that cannot be used."""
    found: dict[tuple[int, int], list[Box]] = {}
    reasons = []
    for expression in expressions:
        try:
            start, end = int(expression[0]), int(expression[1])
            if not 0 <= start < end <= length:
                raise ValueError("an expression names characters that the caption does not have")
            box = checked_box(expression[2:6], 1, 1)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            reasons.append(str(error))
        else:
            boxes = found.setdefault((start, end), [])
            if box not in boxes:
                boxes.append(box)
    return [Phrase(start, end, tuple(boxes)) for (start, end), boxes in sorted(found.items())], reasons


def without_nested(phrases: Sequence[Phrase]) -> list[Phrase]:
    """The disjoint phrases that together have the most boxes, in the order of the caption.

    Among equal choices the one that ends first is taken.
    """
    ordered = sorted(phrases, key=lambda phrase: (phrase.end, phrase.start))
    ends = [phrase.end for phrase in ordered]
    best: list[tuple[int, int | None, int]] = [(0, None, 0)]  # boxes, the phrase taken, the state before it
    for number, phrase in enumerate(ordered):
        before = bisect_right(ends, phrase.start, hi=number)
        taken = best[before][0] + len(phrase.boxes)
        best.append((taken, number, before) if taken > best[number][0] else (best[number][0], None, number))
    chosen, state = [], len(ordered)
    while state:
        _, phrase_number, before = best[state]
        if phrase_number is not None:
            chosen.append(ordered[phrase_number])
        state = before
    return chosen[::-1]


def grounded_caption(caption: str, phrases: Sequence[Phrase]) -> Question:
    """The caption with `<ref>` and `<box>` markup behind each phrase.

    Raises:
      ValueError: the caption holds markup itself.
    """
    pieces, position = [], 0
    for phrase in phrases:
        boxes = "".join(format_box(box, 1, 1) for box in phrase.boxes)
        pieces += [caption[position : phrase.start], format_ref(caption[phrase.start : phrase.end]), boxes]
        position = phrase.end
    return Question(GROUNDED_CAPTION_PROMPT, "".join([*pieces, caption[position:]]), "en")


def regions(caption: str, phrases: Sequence[Phrase], width: int, height: int) -> tuple[Region, ...]:
    """The phrases with their boxes in pixels of a picture of `width` by `height`."""
    return tuple(
        Region(
            caption[phrase.start : phrase.end],
            tuple((x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in phrase.boxes),
        )
        for phrase in phrases
    )
