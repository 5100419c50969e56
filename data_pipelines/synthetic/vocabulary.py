"""The vocabularies of `tiny` and `tiny-qwen2`: byte pairs merged over what is said about scenes, in the format of
`qwen.tiktoken`.

A text of the world has 93 of these ids in the mean, 249 of single bytes, and each attribute of an object is one id, as
common words are for Qwen-7B. With single bytes `tiny` learned nothing in stage 1, whose language model is frozen, and
answered blindly to its end.
Words of documents are no part of the corpus: they stay letters, so that reading them is reading.
"""

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise

import numpy as np
import regex

from data_pipelines.synthetic.documents import WORDS, document_questions
from data_pipelines.synthetic.native_texts import told_clip, told_episode, told_native_picture
from data_pipelines.synthetic.texts import described_scene, located_scene, told_conversation, told_picture
from qwenvl_jax.processing.prompts import OCR_PROMPT, vqa_prompt
from qwenvl_jax.processing.tokenizer import NATIVE, PATTERN, SPECIAL_TOKENS, WORLD

TEXTS = 4000
LEAST_COUNT = 40
"""A pair that occurs less often is not merged: at 40 every attribute of an object is one id."""

_WORDS = re.compile(rf"\b({'|'.join(WORDS)})\b")
_SPECIAL = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))


def scene_texts() -> Iterator[str]:
    """What is said about scenes, and the questions on documents without their answers."""
    rng = np.random.default_rng(0)
    makers = (described_scene, located_scene, told_picture, told_conversation)
    for i in range(TEXTS):
        yield makers[i % len(makers)](rng)
    for _ in range(TEXTS // 10):
        yield f"{OCR_PROMPT} {OCR_PROMPT}\nRead the text."
        for item in document_questions(("word", "1", "other"), rng):
            yield vqa_prompt(item.question)


def native_texts() -> Iterator[str]:
    """As `scene_texts`, with what is said about videos and screens, and without conversations. Words that are typed stay
    letters too."""
    rng = np.random.default_rng(0)
    makers = (described_scene, located_scene, told_native_picture, told_clip, told_episode)
    for i in range(TEXTS):
        yield _WORDS.sub("1", makers[i % len(makers)](rng))
    for _ in range(TEXTS // 10):
        yield f"{OCR_PROMPT} {OCR_PROMPT}"
        for item in document_questions(("word", "1", "other"), rng):
            yield vqa_prompt(item.question)


CORPORA: Mapping[str, Callable[[], Iterator[str]]] = {WORLD: scene_texts, NATIVE: native_texts}
"""An embedded vocabulary: the texts that it is learned from."""


def learn_merges(texts: Iterable[str], least_count: int) -> dict[bytes, int]:
    """Byte pair encoding: token -> rank; the 256 bytes first, then the most frequent pair, again and again.

    Args:
      texts: special tokens in them are left out, and nothing is merged across them.
      least_count: stop before a pair that occurs less often. Of pairs as frequent, the one with greater bytes is first.
    """
    counts = Counter(piece for text in texts for part in _SPECIAL.split(text) for piece in regex.findall(PATTERN, part))
    pieces = {piece: [bytes([byte]) for byte in piece.encode()] for piece in counts}
    ranks = {bytes([byte]): byte for byte in range(256)}
    while True:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for piece, tokens in pieces.items():
            for pair in pairwise(tokens):
                pairs[pair] += counts[piece]
        best, count = max(pairs.items(), key=lambda item: (item[1], item[0]), default=((b"", b""), 0))
        if count < max(1, least_count):
            return ranks
        ranks[best[0] + best[1]] = len(ranks)
        for piece, tokens in pieces.items():
            if len(tokens) > 1:
                pieces[piece] = _merged(tokens, best)


def _merged(tokens: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    merged: list[bytes] = []
    i = 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            merged.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


def to_tiktoken(ranks: dict[bytes, int]) -> str:
    """Lines of `base64 rank`, as `qwen.tiktoken` has them."""
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
