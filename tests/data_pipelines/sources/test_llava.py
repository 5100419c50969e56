"""LLaVA's conversations: the same records as the official form would give."""

import json

import pytest
from small_data import make_picture

from data_pipelines.records import Turn
from data_pipelines.sources.conversations import ConversationSource
from data_pipelines.sources.llava import PLACEHOLDER, as_qwen


def turns(*values, roles=("human", "gpt")):
    return [{"from": roles[n % 2], "value": value} for n, value in enumerate(values)]


def load(folder, *entries):
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(make_picture(ord(name[0])).data)
    (folder / "llava.json").write_text(json.dumps(entries))
    return ConversationSource(folder / "llava.json")


def test_placeholder_becomes_the_picture(tmp_path):
    """At the turn's start, moved there from its end, and several pictures in their places."""
    source = load(
        tmp_path,
        {"id": 7, "image": "a.png", "conversations": turns("<image>\nWhat?", "A dog.", "Why?", "So.")},
        {"image": "a.png", "conversations": turns("What is this?\n<image>", "A dog.")},
        {"image": ["a.png", "b.png"], "conversations": turns("<image> and <image>: same?", "No.")},
        {"conversations": turns("Hello", "Hi")},
    )
    assert source.problems == ()
    first, second, third, fourth = (source[n] for n in range(4))
    assert first.key == "7"
    assert first.conversation[0] == Turn("user", "Picture 1: <img>0</img>\nWhat?")
    assert [turn.role for turn in first.conversation] == ["user", "assistant"] * 2
    assert second.conversation[0].text == "Picture 1: <img>0</img>\nWhat is this?"
    assert third.conversation[0].text == "Picture 1: <img>0</img> and Picture 2: <img>1</img>: same?"
    assert third.images == (make_picture(ord("a")), make_picture(ord("b")))
    assert fourth.images == ()


@pytest.mark.parametrize(
    "entry, reason",
    [
        ({"image": "a.png", "conversations": turns("What?", "A dog.")}, "0 <image>, and there are 1 pictures"),
        ({"conversations": turns("<image>What?", "A dog.")}, "1 <image>, and there are 0 pictures"),
        ({"image": "gone.png", "conversations": turns("<image>?", "A.")}, "gone.png does not exist"),
        ({"image": "../a.png", "conversations": turns("<image>?", "A.")}, "lies outside"),
        ({"image": "/etc/hostname", "conversations": turns("<image>?", "A.")}, "lies outside"),
        ({"image": 3, "conversations": turns("<image>?", "A.")}, "neither a path nor a list of paths"),
        ({"image": "a.png", "conversations": [{"from": "human"}]}, "a text under"),
        ({"image": "a.png", "conversations": turns("<image>?", "A.", roles=("human", "bot"))}, "unknown role 'bot'"),
        ({"image": "a.png", "conversations": turns("<image>?")}, "no assistant turn"),
    ],
)
def test_unusable_entries_are_reported(tmp_path, entry, reason):
    """With their index and reason; the good one is read."""
    source = load(tmp_path, entry, {"conversations": turns("Hello", "Hi")})
    assert len(source) == 1
    [problem] = source.problems
    assert problem.index == 0
    assert reason in problem.reason


def test_a_path_with_a_placeholder_ends(tmp_path):
    """Text that looks like a placeholder inside a path cannot make the replacement go on for ever."""
    with pytest.raises(ValueError, match="there are 1 pictures"):
        as_qwen({"image": f"x{PLACEHOLDER}.png", "conversations": turns("<image>?", "A.")})
