"""Prompts of conversations, for each model: the system's text, past rounds that fit, the newest question.

Nothing in them is supervised. What the system, users and past answers say is `typed` text, in which only grounding markup
is special.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from qwenvl_jax.config import Qwen2VLConfig, QwenVLConfig
from qwenvl_jax.processing import chatml, qwen2_chat
from qwenvl_jax.processing.chatml import SYSTEM_PROMPT, Parts, Round
from qwenvl_jax.processing.sample import Sample, joined

MAX_WINDOW_SIZE = 6144
"""Tokens of system prompt and past turns that `trim_history` keeps: `max_window_size` of the original Qwen-VL."""


class ChatFormat(NamedTuple):
    """How a model's conversations stand in its prompts.

    Attributes:
      opening: the system's text as the beginning of a conversation.
      round: a past round.
      question: the newest question, and the beginning of its answer.
    """

    opening: Callable[[str], Parts]
    round: Callable[[Round], Parts]
    question: Callable[[Sample], Parts]


CHAT_FORMATS: Mapping[type, ChatFormat] = {
    # a model's configuration: its ChatML
    QwenVLConfig: ChatFormat(chatml.opening, chatml.round_parts, chatml.question_parts),
    Qwen2VLConfig: ChatFormat(qwen2_chat.opening, qwen2_chat.round_parts, qwen2_chat.question_parts),
}


def chat_prompt(chat: ChatFormat, history: Sequence[Round], query: Sample, system: str = SYSTEM_PROMPT) -> Sample:
    """The prompt that an answer to `query` follows, with the pictures and videos of all its rounds in order.

    Shorten long histories with `trim_history`.
    """
    prompt = Sample(chat.opening(system))
    for past in history:
        prompt = joined(prompt, _round(chat, past))
    return joined(prompt, Sample(chat.question(query), query.images, query.videos))


def trim_history(
    chat: ChatFormat,
    history: Sequence[Round],
    length: Callable[[Sample], int],
    system: str = SYSTEM_PROMPT,
    max_window_size: int = MAX_WINDOW_SIZE,
) -> tuple[Round, ...]:
    """The newest rounds that, with the system's block, have fewer than `max_window_size` tokens.

    Older rounds are left out whole; the query is not counted, as in `make_context` of the original Qwen-VL.

    Args:
      length: tokens of a sample, its images and videos included.
    """
    total = length(Sample(chat.opening(system)))
    kept: tuple[Round, ...] = ()
    for past in reversed(history):
        total += length(_round(chat, past))
        if total >= max_window_size:
            break
        kept = (past, *kept)
    return kept


def _round(chat: ChatFormat, past: Round) -> Sample:
    return Sample(chat.round(past), past.query.images, past.query.videos)
