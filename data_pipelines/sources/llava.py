"""Conversations in LLaVA's form, turned into Qwen-VL's.

LLaVA: `{"id": ..., "image": path or [paths], "conversations": [{"from": "human", "value": "<image>\\nWhat?"},
{"from": "gpt", "value": ...}]}`. Each `<image>` stands for the next picture. As in LLaVA's own preprocessing
(`preprocess_multimodal` of its `train.py`), the only placeholder of a turn moves to the turn's beginning. Turns with
`role` and `content`, as chat services write them, differ in their names only and are read too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qwenvl_jax.processing.markup import ImageSpan, parse

PLACEHOLDER = "<image>"
ROLE_NAMES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant"}


def is_llava(entry: Mapping[str, Any]) -> bool:
    """Whether an entry has LLaVA's names or its way to name pictures."""
    messages = entry.get("conversations")
    if not isinstance(messages, list):
        return False
    roles = [_role(message) for message in messages if isinstance(message, dict)]
    return "image" in entry or bool({"human", "gpt"} & set(map(str, roles)))


def _role(message: Mapping[str, Any]) -> Any:
    return message.get("from", message.get("role"))


def as_qwen(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with Qwen-VL's roles, and `Picture N: <img>path</img>` in place of the N-th `<image>`.

    Raises:
      ValueError: an unknown role, a turn without text, or another number of placeholders than of pictures.
    """
    pictures = entry.get("image") or []
    pictures = [pictures] if isinstance(pictures, str) else pictures
    if not isinstance(pictures, list) or not all(isinstance(picture, str) for picture in pictures):
        raise ValueError('"image" is neither a path nor a list of paths')
    turns: list[dict[str, str]] = []
    seen = 0
    for message in entry["conversations"]:
        text = message.get("value", message.get("content")) if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise ValueError('a turn lacks "from" or a text under "value"')
        role = _role(message)
        if role not in ROLE_NAMES:
            raise ValueError(f"unknown role {role!r}; roles are human and gpt, or user and assistant")
        if text.count(PLACEHOLDER) == 1:
            text = f"{PLACEHOLDER}\n{text.replace(PLACEHOLDER, '').strip()}"
        while PLACEHOLDER in text:
            if seen < len(pictures):
                text = text.replace(PLACEHOLDER, f"Picture {seen + 1}: <img>{pictures[seen]}</img>", 1)
            else:
                text = text.replace(PLACEHOLDER, "", 1)
            seen += 1
        turns.append({"from": ROLE_NAMES[role], "value": text})
    if seen != len(pictures):
        raise ValueError(f"the turns have {seen} {PLACEHOLDER}, and there are {len(pictures)} pictures")
    return {"id": entry.get("id", ""), "conversations": turns}


def numbered_turns(entry: Mapping[str, Any], pictures: int) -> Sequence[tuple[str, str]]:
    """Role and text of each turn, where `<img>N</img>` already names the record's N-th picture.

    Raises:
      ValueError: malformed markup, a picture that is not there, or nothing to learn.
    """
    turns = []
    for message in entry["conversations"]:
        for element in parse(message["value"]):
            if isinstance(element, ImageSpan) and not (element.path.isdecimal() and int(element.path) < pictures):
                raise ValueError(f"{element} names no picture of the row")
        turns.append((message["from"], message["value"]))
    if turns and turns[0][0] != "user":
        turns = turns[1:]
    if all(role != "assistant" for role, _ in turns):
        raise ValueError("no assistant turn after a user turn: there is nothing to learn")
    return turns
