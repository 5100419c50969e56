"""Conversations of Qwen-VL as ChatML: for training with the original's loss mask, and the blocks of prompts.

In training data a turn's text may hold `<img>N</img>`, the sample's image number N (from 0), and `<video>N</video>`. Prompts
are made of samples, in which a picture is no text: what a user writes cannot name one. Sources: `preprocess` of the
original's `finetune.py` (training) and `make_context` of its `qwen_generation_utils.py` (prompts).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qwenvl_jax.processing.sample import Image, Part, Sample, Text, Video
from qwenvl_jax.processing.tokenizer import IM_END, IM_START, IMAGE_END, IMAGE_START

USER, ASSISTANT = "user", "assistant"
SYSTEM_PROMPT = "You are a helpful assistant."

_VISUAL = re.compile(rf"{re.escape(IMAGE_START)}(.*?){re.escape(IMAGE_END)}|<video>(\d+)</video>", re.DOTALL)

Parts = tuple[Part, ...]


@dataclass(frozen=True)
class ChatTurn:
    """One turn of training data: `role` is `user` or `assistant`; see the module docstring for images in `text`."""

    role: str
    text: str


class Round(NamedTuple):
    """One round of a chat: what was asked (its own pictures and videos, numbered from 0) and what was answered."""

    query: Sample
    answer: str


def content_parts(text: str, supervised: bool = False, typed: bool = False) -> Parts:
    """A turn's text, cut at its images and videos."""
    parts: list[Part] = []
    # Pieces of text, and behind each what an <img> held, and what a <video> held; one of the two is None.
    for number, piece in enumerate(_VISUAL.split(text)):
        if piece is None:
            continue
        if number % 3 == 1:
            if not (piece.isascii() and piece.isdecimal()):
                raise ValueError(f"{IMAGE_START}{piece}{IMAGE_END} names no image of the sample; give its number")
            parts.append(Image(int(piece)))
        elif number % 3 == 2:
            parts.append(Video(int(piece)))
        elif IMAGE_START in piece:
            raise ValueError(f"{IMAGE_START} is not closed in {piece[:60]!r}; write {IMAGE_START}0{IMAGE_END}")
        elif piece:
            parts.append(Text(piece, supervised, typed))
    return tuple(parts)


def _check_roles(turns: Sequence[ChatTurn]) -> None:
    for number, turn in enumerate(turns):
        if turn.role not in (USER, ASSISTANT):
            raise ValueError(f"turn {number} has role {turn.role!r}; use {USER!r} or {ASSISTANT!r}")


def chat_parts(turns: Sequence[ChatTurn], system: str = SYSTEM_PROMPT) -> Parts:
    """A conversation to train on, with the loss mask of `finetune.py`.

    Learned are the assistant's answers and, in every block (the system's and the user's too), `<|im_start|>`,
    `<|im_end|>` and the line end behind it; not learned are role names, their line ends and all else. A first
    turn that is not the user's is left out. Special-token strings in the texts count as special tokens.

    Raises:
      ValueError: a role is neither user nor assistant, no assistant's turn is left, or an image is no number.
    """
    _check_roles(turns)
    if turns and turns[0].role != USER:
        turns = turns[1:]
    if not any(turn.role == ASSISTANT for turn in turns):
        raise ValueError(f"conversation has no {ASSISTANT!r} turn behind a {USER!r} turn, so nothing to learn; add one")
    parts: list[Part] = []
    for role, text in (("system", system), *((turn.role, turn.text) for turn in turns)):
        parts += [Text(IM_START, supervised=True), Text(f"{role}\n")]
        parts += content_parts(text, supervised=role == ASSISTANT)
        parts.append(Text(f"{IM_END}\n", supervised=True))
    return tuple(parts)


def query_of(text: str, images: Sequence[bytes]) -> Sample:
    """A turn of data as a query: its text, with the images that its `<img>N</img>` name, in their order.

    Raises:
      ValueError: an image is no number of `images`, or there is a video.
    """
    parts: list[Part] = []
    named: list[bytes] = []
    for part in content_parts(text, typed=True):
        if isinstance(part, Image):
            if part.index >= len(images):
                raise ValueError(f"{IMAGE_START}{part.index}{IMAGE_END}: the sample has {len(images)} images")
            named.append(images[part.index])
            part = Image(len(named) - 1)
        elif isinstance(part, Video):
            raise ValueError(f"<video>{part.index}</video>: a query of data has images alone")
        parts.append(part)
    return Sample(tuple(parts), tuple(named))


def _block(role: str, content: Parts) -> Parts:
    return (Text(f"{IM_START}{role}\n"), *content, Text(IM_END))


def opening(system: str) -> Parts:
    """What a conversation begins with."""
    return _block("system", (Text(system, typed=True),) if system else ())


def round_parts(past: Round) -> Parts:
    """A past round, the line end before it included."""
    answer = (Text(past.answer, typed=True),) if past.answer else ()
    return (Text("\n"), *_block(USER, past.query.parts), Text("\n"), *_block(ASSISTANT, answer))


def question_parts(query: Sample) -> Parts:
    """The newest question and the beginning of its answer."""
    return (Text("\n"), *_block(USER, query.parts), Text(f"\n{IM_START}{ASSISTANT}\n"))
