"""Conversations of Qwen2-VL as ChatML: for training, and as prompts for an answer.

Source: the chat template of the released Instruct checkpoints. Base checkpoints have none: their samples are bare parts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from qwenvl_jax.processing.chatml import ASSISTANT, SYSTEM_PROMPT, USER, Round
from qwenvl_jax.processing.sample import Image, Part, Sample, Text, Video
from qwenvl_jax.processing.tokenizer import IM_END, IM_START

SYSTEM = "system"

Content = tuple[str | Image | Video, ...]

_ANSWER = Text(f"{IM_START}{ASSISTANT}\n")


@dataclass(frozen=True)
class Message:
    """One turn: `role` is `system`, `user` or `assistant`.

    Text is what people and models say: ChatML's tags in it are plain text, markup of references and boxes is not.
    """

    role: str
    content: Content


def chat_parts(messages: Sequence[Message], number_visuals: bool = False) -> tuple[Part, ...]:
    """A conversation to train on: learned are the assistant's contents, each with its `<|im_end|>` and line end.

    Args:
      number_visuals: writes `Picture 1: ` or `Video 1: ` before images and videos.

    Raises:
      ValueError: a role is unknown, or nothing is learned.
    """
    if not any(message.role == ASSISTANT and message.content for message in messages):
        raise ValueError(f"conversation has no {ASSISTANT!r} turn, so nothing to learn; add one")
    parts: list[Part] = []
    for role, content in _turns(messages, number_visuals):
        parts.append(Text(IM_START))
        if role == ASSISTANT:
            parts += [Text(f"{role}\n"), *spoken(content, supervised=True), Text(f"{IM_END}\n", supervised=True)]
        else:
            parts += [*spoken((f"{role}\n", *content)), Text(f"{IM_END}\n")]
    return tuple(parts)


def chat_prompt(messages: Sequence[Message], number_visuals: bool = False) -> tuple[Part, ...]:
    """The prompt that the assistant's next turn follows; nothing in it is supervised. Arguments as `chat_parts`.

    Raises:
      ValueError: a role is unknown.
    """
    parts: list[Part] = []
    for role, content in _turns(messages, number_visuals):
        parts += _block(role, content)
    return (*parts, _ANSWER)


def opening(system: str) -> tuple[Part, ...]:
    """What a conversation begins with."""
    return _block(SYSTEM, (system,))


def round_parts(past: Round) -> tuple[Part, ...]:
    """A past round."""
    return (*_block(USER, _said(past.query)), *_block(ASSISTANT, (past.answer,)))


def question_parts(query: Sample) -> tuple[Part, ...]:
    """The newest question and the beginning of its answer."""
    return (*_block(USER, _said(query)), _ANSWER)


def _block(role: str, content: Content) -> tuple[Part, ...]:
    return (Text(IM_START), *spoken((f"{role}\n", *content)), Text(f"{IM_END}\n"))


def _said(query: Sample) -> Content:
    return tuple(part.text if isinstance(part, Text) else part for part in query.parts)


def spoken(content: Iterable[str | Image | Video], supervised: bool = False) -> list[Part]:
    """Content as parts; strings that touch become one text, whose tokens may merge over their border."""
    parts: list[Part] = []
    for kind, run in groupby(content, type):
        if kind is str:
            parts.append(Text("".join(map(str, run)), supervised, typed=True))
        else:
            parts += [piece for piece in run if not isinstance(piece, str)]
    return [part for part in parts if not isinstance(part, Text) or part.text]


def _turns(messages: Sequence[Message], number_visuals: bool) -> Iterator[tuple[str, Content]]:
    """Roles and contents, from the system's on, with the numbers of images and videos where they are wanted."""
    for number, message in enumerate(messages):
        if message.role not in (SYSTEM, USER, ASSISTANT):
            raise ValueError(f"turn {number} has role {message.role!r}; use {SYSTEM!r}, {USER!r} or {ASSISTANT!r}")
    if not messages or messages[0].role != SYSTEM:
        messages = (Message(SYSTEM, (SYSTEM_PROMPT,)), *messages)
    counts = {Image: 0, Video: 0}
    for message in messages:
        content: list[str | Image | Video] = []
        for piece in message.content:
            if number_visuals and not isinstance(piece, str):
                counts[type(piece)] += 1
                kind = "Picture" if isinstance(piece, Image) else "Video"
                content.append(f"{kind} {counts[type(piece)]}: ")
            content.append(piece)
        yield message.role, tuple(content)
