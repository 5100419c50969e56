"""Conversations in others' forms: the same records as the official form would give."""

import json
import re

import pytest
from small_data import make_picture
from small_video import make_video

from data_pipelines.records import Turn
from data_pipelines.sources.conversation_forms import as_qwen, numbered_turns, paired_messages
from data_pipelines.sources.conversations import ConversationSource


def turns(*values, roles=("human", "gpt")):
    return [{"from": roles[n % 2], "value": value} for n, value in enumerate(values)]


def load(folder, *entries):
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(make_picture(ord(name[0])).data)
    (folder / "v.mp4").write_bytes(make_video(6))
    (folder / "foreign.json").write_text(json.dumps(entries))
    return ConversationSource(folder / "foreign.json")


def texts(record):
    return [turn.text for turn in record.conversation]


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
    "visuals, asked, written",
    [
        ({"video": "v.mp4"}, "<video>\nWhat?", "Video 1: <video>0</video>\nWhat?"),
        ({"video": "v.mp4"}, "<image>\nWhat?", "Video 1: <video>0</video>\nWhat?"),
        (
            {"images": ["a.png", "b.png"], "videos": ["v.mp4"]},
            "<image><video> or <image>?",
            "Picture 1: <img>0</img>Video 1: <video>0</video> or Picture 2: <img>1</img>?",
        ),
        ({}, "what is <video> for?", "what is <video> for?"),
    ],
)
@pytest.mark.parametrize("name", ["conversations", "messages"])
def test_videos_and_pictures_take_their_places(tmp_path, name, visuals, asked, written):
    """`<video>` stands for the next video, `<image>` too where there are videos alone; without videos it is text. Under both
    names of the list of turns."""
    keys = ("from", "value") if name == "conversations" else ("role", "content")
    roles = ("human", "gpt") if name == "conversations" else ("user", "assistant")
    said = [dict(zip(keys, turn)) for turn in zip(roles, (asked, "That."))]
    record = load(tmp_path, {**visuals, name: said})[0]
    assert texts(record) == [written, "That."]
    assert len(record.images) == len(visuals.get("images", []))
    assert [(video.frames, video.width, video.height) for video in record.videos] == [(6, 64, 48)] * written.count(
        "</video>"
    )


def test_content_lists_are_joined(tmp_path):
    """Pieces stand where they were; one without a path is the next that the entry lists; the system's turn comes first."""
    content = [
        {"type": "image", "image": "file://a.png"},
        {"type": "text", "text": "and "},
        {"type": "video", "video": "v.mp4"},
        {"type": "image"},
        {"type": "text", "text": ": same?"},
    ]
    said = [
        {"role": "system", "content": [{"type": "text", "text": "Be short."}]},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "No."},
    ]
    source = load(tmp_path, {"messages": said, "images": ["b.png"]})
    assert texts(source[0]) == [
        "Be short.",
        "Picture 1: <img>0</img>and Video 1: <video>0</video>Picture 2: <img>1</img>: same?",
        "No.",
    ]
    assert source[0].conversation[0].role == "system"
    assert source[0].images == (make_picture(ord("a")), make_picture(ord("b")))


@pytest.mark.parametrize(
    "asked, pictures, written",
    [
        ("What?", 0, "What?"),
        ("What?", 1, "Picture 1: <img>0</img>\nWhat?"),
        ("Same?", 2, "Picture 1: <img>0</img>\nPicture 2: <img>1</img>\nSame?"),
        ("As in <image> or <image>?", 2, "As in Picture 1: <img>0</img> or Picture 2: <img>1</img>?"),
    ],
)
def test_pairs_become_turns(asked, pictures, written):
    """FineVision's and The Cauldron's pairs; the row's pictures stand before the first question where none is placed."""
    pairs = [{"user": asked, "assistant": "A dog.", "source": "x"}, {"user": "Why?", "assistant": "So."}]
    messages = paired_messages(pairs, pictures)
    found = numbered_turns(as_qwen({"messages": messages, "images": list(map(str, range(pictures)))}), pictures)
    assert found == [("user", written), ("assistant", "A dog."), ("user", "Why?"), ("assistant", "So.")]


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
        ({"conversations": None, "messages": turns("Hello", "Hi", roles=([], "x"))}, "unknown role []"),
        ({"video": "gone.mp4", "conversations": turns("<video>?", "A.")}, "video .*gone.mp4 does not exist"),
        ({"video": "v.mp4", "conversations": turns("Hello", "Hi")}, "0 <video>, and there are 1 videos"),
        ({"messages": [{"role": "user", "content": [{"type": ["image"]}]}]}, "neither text nor image nor video"),
        ({"messages": turns("Hello", "Hi", roles=("user", "system"))}, "a turn of the system stands behind others"),
    ],
)
def test_unusable_entries_are_reported(tmp_path, entry, reason):
    """With their index and reason; the good one is read."""
    source = load(tmp_path, entry, {"conversations": turns("Hello", "Hi")})
    assert len(source) == 1
    [problem] = source.problems
    assert problem.index == 0
    assert re.search(reason.replace("[]", r"\[\]"), problem.reason)


def test_a_path_with_a_placeholder_stays_one(tmp_path):
    """Text that looks like a placeholder inside a path is replaced by nothing."""
    entry = as_qwen({"image": "x<image>.png", "conversations": turns("<image>?", "A.")})
    assert entry["conversations"][0]["value"] == "Picture 1: <img>x<image>.png</img>\n?"
