"""Conversations in the forms that others write, turned into Qwen-VL's.

- LLaVA: `{"image": path or [paths], "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt",
  "value": ...}]}`. Each `<image>` stands for the next picture; as in LLaVA's own preprocessing (`preprocess_multimodal` of
  its `train.py`), the only placeholder of a turn moves to the turn's beginning. `"video"` goes with `<video>`, or with
  `<image>` where an entry has videos alone, as LLaVA-Video's have.
- messages, as LLaMA-Factory and others write them: `{"messages": [{"role": ..., "content": ...}], "images": [...], "videos":
  [...]}` with the same placeholders.
- content lists, as Qwen2-VL's examples and chat services have them: `"content": [{"type": "image", "image": path}, {"type":
  "video", "video": path}, {"type": "text", "text": ...}]`.
- pairs, as FineVision and The Cauldron have them: `[{"user": ..., "assistant": ...}, ...]`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwenvl_jax.processing.markup import ImageSpan, parse

IMAGE, VIDEO = "image", "video"
WRITTEN = {IMAGE: "Picture {}: <img>{}</img>", VIDEO: "Video {}: <video>{}</video>"}
"""How the N-th picture or video of an entry stands in Qwen-VL's form."""
PLACEHOLDER = re.compile("<(image|video)>")
ROLE_NAMES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
MESSAGES = ("conversations", "messages")


def is_foreign(entry: Mapping[str, Any]) -> bool:
    """Whether an entry has another form than Qwen-VL's: names of others, or their way to name pictures and videos."""
    if not isinstance(entry.get("conversations"), list):
        return isinstance(entry.get("messages"), list)
    messages = [message for message in entry["conversations"] if isinstance(message, dict)]
    roles = {str(_role(message)) for message in messages}
    named = {IMAGE, "images", VIDEO, "videos"} & entry.keys()
    return bool(named or {"human", "gpt"} & roles) or any("role" in message for message in messages)


def _role(message: Mapping[str, Any]) -> Any:
    return message.get("from", message.get("role"))


class _Visuals:
    """The pictures or the videos that an entry lists, taken one after the other."""

    def __init__(self, entry: Mapping[str, Any], kind: str) -> None:
        """Raises ValueError where they are no paths."""
        found = entry.get(kind) or entry.get(f"{kind}s") or []
        self.paths = [found] if isinstance(found, str) else found
        if not isinstance(self.paths, list) or not all(isinstance(path, str) for path in self.paths):
            raise ValueError(f'"{kind}" is neither a path nor a list of paths')
        self.kind, self.asked, self.written = kind, 0, 0

    def next(self) -> str:
        """What stands for the next one that is listed; nothing where there is none, which `check` reports."""
        self.asked += 1
        return self.write(self.paths[self.asked - 1]) if self.asked <= len(self.paths) else ""

    def write(self, path: str) -> str:
        self.written += 1
        return WRITTEN[self.kind].format(self.written, path.removeprefix("file://"))

    def check(self) -> None:
        """Raises ValueError where the turns ask for more or fewer than are listed."""
        if self.asked != len(self.paths):
            name = {IMAGE: "pictures", VIDEO: "videos"}[self.kind]
            raise ValueError(f"the turns have {self.asked} <{self.kind}>, and there are {len(self.paths)} {name}")


def as_qwen(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with Qwen-VL's roles, and `Picture N: <img>path</img>` or `Video N: <video>path</video>` for placeholders.

    Raises:
      ValueError: an unknown role, a turn without content, or another number of placeholders than of pictures or videos.
    """
    visuals = {kind: _Visuals(entry, kind) for kind in (IMAGE, VIDEO)}
    if visuals[VIDEO].paths and not visuals[IMAGE].paths:
        by_placeholder = {IMAGE: visuals[VIDEO], VIDEO: visuals[VIDEO]}
    elif visuals[VIDEO].paths:
        by_placeholder = visuals
    else:
        by_placeholder = {IMAGE: visuals[IMAGE]}  # <video> is plain text in an entry without videos
    turns: list[dict[str, str]] = []
    for message in next(entry[name] for name in MESSAGES if isinstance(entry.get(name), list)):
        content = message.get("value", message.get("content")) if isinstance(message, dict) else None
        if not isinstance(content, str | list):
            raise ValueError('a turn lacks "from" or a text under "value"')
        role = _role(message)
        if not isinstance(role, str) or role not in ROLE_NAMES:
            raise ValueError(f"unknown role {role!r}; roles are human and gpt, or user and assistant")
        text = _filled(content, by_placeholder) if isinstance(content, str) else _joined(content, visuals)
        turns.append({"from": ROLE_NAMES[role], "value": text})
    for listed in visuals.values():
        listed.check()
    return {"id": entry.get("id", ""), "conversations": turns}


def _filled(text: str, visuals: Mapping[str, _Visuals]) -> str:
    """A turn's text with pictures and videos in the places of their placeholders; the only one moves to the beginning."""
    found = [match for match in PLACEHOLDER.finditer(text) if match[1] in visuals]
    if len(found) == 1:
        [match] = found
        return f"{visuals[match[1]].next()}\n{(text[: match.start()] + text[match.end() :]).strip()}"
    return PLACEHOLDER.sub(lambda match: visuals[match[1]].next() if match[1] in visuals else match[0], text)


def _joined(content: Sequence[Any], visuals: Mapping[str, _Visuals]) -> str:
    """A list of pieces as text."""
    pieces = []
    for piece in content:
        kind = str(piece.get("type")) if isinstance(piece, dict) else ""
        value = piece.get(kind) if kind in ("text", *WRITTEN) else None
        if isinstance(value, str):
            pieces.append(value if kind == "text" else visuals[kind].write(value))
        elif kind in WRITTEN and value is None:  # stands for the next one that the entry lists
            pieces.append(visuals[kind].next())
        else:
            raise ValueError(
                "a turn's content has a piece that is neither text nor image nor video, with its text or path"
            )
    return "".join(pieces)


def paired_messages(pairs: Sequence[Mapping[str, str]], pictures: int) -> list[dict[str, str]]:
    """Messages of pairs of what the user and the assistant say; the pictures stand before all where no text places them."""
    messages = [{"role": role, "content": pair[role]} for pair in pairs for role in ("user", "assistant")]
    if not any("<image>" in message["content"] for message in messages):
        messages[0]["content"] = "<image>\n" * pictures + messages[0]["content"]
    return messages


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
    return learnable(turns)


def learnable(turns: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """The turns from the system's or the user's first on, as the original has it.

    Raises:
      ValueError: a later turn is the system's, or there is nothing to learn.
    """
    if turns and turns[0][0] == "assistant":
        turns = turns[1:]
    if any(role == "system" for role, _ in turns[1:]):
        raise ValueError("a turn of the system stands behind others: it must be the first")
    if all(role != "assistant" for role, _ in turns):
        raise ValueError("no assistant turn after a user turn: there is nothing to learn")
    return turns
