"""Conversations as ChatML: for training with the original's loss mask, and as prompts for an answer.

A turn's text may hold `<img>N</img>`, the sample's image number N (from 0). Sources: `preprocess` of the
original's `finetune.py` (training) and `make_context` of its `qwen_generation_utils.py` (prompts).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qwenvl_jax.processing.sample import Image, Sample, Text, encode_sample
from qwenvl_jax.processing.tokenizer import IM_END, IM_START, IMAGE_END, IMAGE_START, Tokenizer

USER, ASSISTANT = "user", "assistant"
SYSTEM_PROMPT = "You are a helpful assistant."
MAX_WINDOW_SIZE = 6144
"""Tokens of system prompt and past turns that `trim_history` keeps: the original's `max_window_size`."""

_IMAGE = re.compile(re.escape(IMAGE_START) + r"(.*?)" + re.escape(IMAGE_END), re.DOTALL)

Parts = tuple[Text | Image, ...]


@dataclass(frozen=True)
class ChatTurn:
    """One turn: `role` is `user` or `assistant`; see the module docstring for images in `text`."""

    role: str
    text: str


def _content(text: str, supervised: bool = False, typed: bool = False) -> Parts:
    """A turn's text, cut at its images."""
    parts: list[Text | Image] = []
    # Every second piece is what an <img> held.
    for number, piece in enumerate(_IMAGE.split(text)):
        if number % 2:
            if not (piece.isascii() and piece.isdecimal()):
                raise ValueError(f"{IMAGE_START}{piece}{IMAGE_END} names no image of the sample; give its number")
            parts.append(Image(int(piece)))
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
    parts: list[Text | Image] = []
    for role, text in (("system", system), *((turn.role, turn.text) for turn in turns)):
        parts += [Text(IM_START, supervised=True), Text(f"{role}\n")]
        parts += _content(text, supervised=role == ASSISTANT)
        parts.append(Text(f"{IM_END}\n", supervised=True))
    return tuple(parts)


def _block(role: str, text: str) -> Parts:
    return (Text(f"{IM_START}{role}\n"), *_content(text, typed=True), Text(IM_END))


def _rounds(history: Sequence[ChatTurn]) -> list[tuple[ChatTurn, ChatTurn]]:
    _check_roles(history)
    rounds = list(zip(history[::2], history[1::2]))
    if len(history) % 2 or any((ask.role, answer.role) != (USER, ASSISTANT) for ask, answer in rounds):
        roles = [turn.role for turn in history]
        raise ValueError(f"the past turns have roles {roles}; give pairs of {USER!r} and {ASSISTANT!r}")
    return rounds


def chat_prompt(history: Sequence[ChatTurn], query: str, system: str = SYSTEM_PROMPT) -> Parts:
    """The prompt that an answer to `query` follows, after pairs of past turns; nothing in it is supervised.

    ChatML markers in the turns are plain text, the markup is not. Shorten long histories with `trim_history`.

    Raises:
      ValueError: the history is not pairs of user and assistant, or an image is not a number.
    """
    past = [turn for pair in _rounds(history) for turn in pair]
    parts = _block("system", system)
    for turn in (*past, ChatTurn(USER, query)):
        parts += (Text("\n"), *_block(turn.role, turn.text))
    return (*parts, Text(f"\n{IM_START}{ASSISTANT}\n"))


def trim_history(
    history: Sequence[ChatTurn],
    tokenizer: Tokenizer,
    queries: int,
    system: str = SYSTEM_PROMPT,
    max_window_size: int = MAX_WINDOW_SIZE,
) -> tuple[ChatTurn, ...]:
    """The newest pairs of turns that, with the system's block, have fewer than `max_window_size` tokens.

    Older pairs are left out whole; the query is not counted, as in `make_context`. An image has `queries` + 2
    tokens.

    Raises:
      ValueError: as `chat_prompt`.
    """

    def length(parts: Parts) -> int:
        return encode_sample(Sample(parts), tokenizer, queries).tokens.size

    total = length(_block("system", system))
    kept: tuple[ChatTurn, ...] = ()
    for ask, answer in reversed(_rounds(history)):
        total += length((Text("\n"), *_block(USER, ask.text), Text("\n"), *_block(ASSISTANT, answer.text)))
        if total >= max_window_size:
            break
        kept = (ask, answer, *kept)
    return kept
