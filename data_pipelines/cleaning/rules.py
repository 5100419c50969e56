"""The paper's rules for image-text pairs (appendix A.1) as pure functions of what is known without the picture.

A rule takes a pair and the corpus's thresholds and gives the pair back, with its text cleaned where that is the
rule's work, or None where it rejects. The name under which it stands in `RULES` is the reason.
"""

import html
import math
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import regex

from data_pipelines.cleaning.thresholds import (
    ASPECT,
    CLIP,
    EMOJI,
    HTML,
    IRREGULAR,
    LENGTH,
    LETTERS,
    SMALL,
    TAGS,
    Thresholds,
)
from data_pipelines.sources.captions import is_chinese

SCORE_STEPS = 10_000
"""Scores are compared in steps of 1 / SCORE_STEPS, as the calibration counts them."""

LARGEST_SCORE = 1000.0
"""Scores are cosines, in per cent at the most."""


class Pair(NamedTuple):
    """What rules look at: a text, the picture's size on the web in pixels, and the CLIP score, if the corpus has one."""

    text: str
    width: int
    height: int
    score: float | None = None


def score_step(score: float) -> int:
    """The step in which a score lies; the sum keeps k / SCORE_STEPS in step k against rounding. A damaged score, however
    large, lies in the last step: its product could be infinite."""
    return math.floor(max(-LARGEST_SCORE, min(LARGEST_SCORE, score)) * SCORE_STEPS + 1e-6)


def aspect(pair: Pair, thresholds: Thresholds) -> Pair | None:
    """Rule 1: the sides differ too much."""
    return pair if max(pair.width, pair.height) <= thresholds.max_aspect * min(pair.width, pair.height) else None


def small(pair: Pair, thresholds: Thresholds) -> Pair | None:
    """Rule 2: the picture is too small."""
    return pair if min(pair.width, pair.height) >= thresholds.min_side else None


def clip(pair: Pair, thresholds: Thresholds) -> Pair | None:
    """Rule 3: the score is below the corpus's cut; where there is a cut, a pair without score is rejected."""
    if thresholds.clip_cut is None:
        return pair
    if pair.score is None or not math.isfinite(pair.score):
        return None
    return pair if score_step(pair.score) >= score_step(thresholds.clip_cut) else None


FOREIGN = regex.compile(r"[^\P{L}a-zA-Z\p{Han}]|[^\P{N}0-9\p{Han}]|\p{M}|\p{Co}|\p{Cn}|\p{Cs}")
"""After NFKC: a letter, number or mark that is neither ASCII nor Chinese, or no assigned character at all."""
ACCENTED = regex.compile(r"[^\P{L}a-zA-Z\p{Han}\p{Latin}]|[^\P{N}0-9\p{Han}]|\p{M}|\p{Co}|\p{Cn}|\p{Cs}")
"""As `FOREIGN`, with Latin letters of every kind allowed."""
VARIATION_SELECTORS = regex.compile(r"[\uFE00-\uFE0F\U000E0100-\U000E01EF\u20E3\u200D]")
"""Marks that belong to emoji, which are the next rule's matter."""


def letters(pair: Pair, thresholds: Thresholds) -> Pair | None:
    """Rule 4: a character that is neither English nor Chinese. Punctuation and signs of all kinds may stay."""
    if pair.text.isascii():
        return pair
    text = VARIATION_SELECTORS.sub("", unicodedata.normalize("NFKC", pair.text))
    return None if (ACCENTED if thresholds.accents else FOREIGN).search(text) else pair


PICTOGRAPH = regex.compile(r"\p{Emoji_Presentation}|\p{Extended_Pictographic}\uFE0F|\u20E3|[\U0001F000-\U0001FAFF]")


def emoji(pair: Pair, thresholds: Thresholds) -> Pair | None:
    """Rule 5: an emoji. Signs that are text by default (©, ™) are none unless a selector makes them so."""
    return pair if pair.text.isascii() or not PICTOGRAPH.search(pair.text) else None


def length(pair: Pair, thresholds: Thresholds) -> Pair | None:
    """Rule 6: too few or too many characters, or too few words of a text in an alphabet."""
    text = pair.text.strip()
    if not thresholds.min_characters <= len(text) <= thresholds.max_characters:
        return None
    # Splitting costs a third of whether a text is Chinese, and most texts have the words.
    return pair if len(text.split()) >= thresholds.min_words or is_chinese(text) else None


TAG = regex.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>", regex.DOTALL)


def without_html(pair: Pair, thresholds: Thresholds) -> Pair | None:
    """Rule 7: tags go and entities become characters; rejects where too little is left.

    Tags like those of our own markup (`<img>`, `<ref>`, `<box>`) go with the others.
    """
    if "<" not in pair.text and "&" not in pair.text:
        return pair
    # Entities first, so that an escaped tag goes too; a second time for those inside a tag's text.
    text = TAG.sub(" ", html.unescape(html.unescape(TAG.sub(" ", pair.text))))
    return _left(pair, text, thresholds)


CONTROL = r"\x00-\x1f\x7f-\x9f\u00ad\u0600-\u0605\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
"""Characters that show nothing: control and format characters of the basic plane."""
PATTERNS: tuple[tuple[str, regex.Pattern, str], ...] = (
    ("special tokens", regex.compile(r"<\|[^|<>]*\|>"), " "),
    ("web addresses", regex.compile(r"(?i)\b(?:https?://|www\.)\S+"), " "),
    ("mail addresses", regex.compile(r"\b[\w.+-]+@[\w-]+\.[\w.]+\b"), " "),
    ("file names", regex.compile(r"(?i)\b[\w-]+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|psd)\b"), " "),
    ("long identifiers", regex.compile(r"\b(?=\w*\d)[0-9A-Za-z]{16,}\b"), " "),
    ("repeated signs", regex.compile(r"([^\w\s.])\1{2,}"), r"\1"),
    ("repeated dots", regex.compile(r"\.{4,}"), "..."),
    ("control characters", regex.compile(f"[{CONTROL}]"), " "),
)
"""What rule 8 takes out: name, pattern, what stands there instead. The paper says "certain irregular patterns" and
names none; these are ours."""
HINT = re.compile(rf"[<@\d{CONTROL}]|(?i:\bwww\.|://)|\.[A-Za-z]|[^\w\s.]{{3}}|\.{{4}}")
"""What every one of `PATTERNS` needs: most texts have none of it, and one look is five times faster than all patterns."""
EDGES = " \t\n|/\\,;:-–—_*#"
"""Signs that separate a caption from what was taken out around it."""


def regular(pair: Pair, thresholds: Thresholds) -> Pair | None:
    """Rule 8: takes `PATTERNS` out; rejects where too little is left."""
    text = pair.text
    if HINT.search(text):
        for _, pattern, instead in PATTERNS:
            text = pattern.sub(instead, text)
    plain = " ".join(text.split())
    if text == pair.text:
        return pair if plain == text else pair._replace(text=plain)
    return _left(pair, plain.strip(EDGES), thresholds)


def _left(pair: Pair, text: str, thresholds: Thresholds) -> Pair | None:
    text = text.strip()
    return pair._replace(text=text) if len(text) >= thresholds.min_characters else None


SPECIAL_TAG = regex.compile(r"<[A-Za-z_]+>")
"""CC12M writes `<PERSON>` for names; SBU has `<unk>` and the like in some copies."""


def tagged(pair: Pair, thresholds: Thresholds) -> Pair | None:
    """Academic captions: a special tag stands in the text."""
    return None if SPECIAL_TAG.search(pair.text) else pair


RULES: dict[str, Callable[[Pair, Thresholds], Pair | None]] = {
    TAGS: tagged,
    ASPECT: aspect,
    SMALL: small,
    CLIP: clip,
    LETTERS: letters,
    EMOJI: emoji,
    LENGTH: length,
    HTML: without_html,
    IRREGULAR: regular,
}


def judge(pair: Pair, thresholds: Thresholds) -> tuple[Pair | None, str]:
    """The pair with its text cleaned and "", or None and the first rule that rejects it."""
    kept: Pair | None = pair
    for name in thresholds.rules:
        kept = RULES[name](kept, thresholds)  # type: ignore[arg-type]
        if kept is None:
            return None, name
    return kept, ""
