"""The official fine-tuning JSON: usable entries are read, others are reported and stop nothing."""

import json
import pickle
import re
import unicodedata

import pytest
from small_data import make_picture
from small_video import make_video

from data_pipelines.records import Turn
from data_pipelines.sources.conversations import ConversationSource
from data_pipelines.sources.source import RecordError
from data_pipelines.tasks import chat, qwen2_chat
from qwenvl_jax.processing.sample import Image, Text, Video, encode_sample
from qwenvl_jax.processing.tokenizer import load_tokenizer


def entry(*values, roles=("user", "assistant")):
    turns = [{"from": roles[n % len(roles)], "value": value} for n, value in enumerate(values)]
    return {"id": "x", "conversations": turns}


GOOD = entry("Picture 1: <img>a.png</img>\nWhere is <ref>it</ref>?", "<box>(1,2),(3,4)</box>")


def write(folder, entries, name="data.json"):
    (folder / "a.png").write_bytes(make_picture().data)
    path = folder / name
    lines = "\n".join(json.dumps(item) for item in entries)
    path.write_text(json.dumps(entries) if name.endswith(".json") else lines)
    return path


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_entries_become_records(tmp_path, name):
    """Pictures are numbered in their order and read with their size, also after pickling."""
    two = entry("<img>a.png</img><img>" + str(tmp_path / "a.png") + "</img>same?", "yes", "why?", "so")
    source = ConversationSource(write(tmp_path, [GOOD, two], name))
    first, second = (pickle.loads(pickle.dumps(source))[n] for n in range(2))
    assert first.images == (make_picture(),)
    assert first.conversation == (
        Turn("user", "Picture 1: <img>0</img>\nWhere is <ref>it</ref>?"),
        Turn("assistant", "<box>(1,2),(3,4)</box>"),
    )
    assert len(second.images) == 2
    assert second.conversation[0].text == "<img>0</img><img>1</img>same?"
    assert source.problems == ()


def test_videos_and_the_system_come_along(tmp_path):
    """Videos are numbered beside the pictures and read with what their headers tell; the system's turn is kept. Qwen2-VL
    learns from the entry, Qwen-VL refuses the video."""
    (tmp_path / "v.mp4").write_bytes(make_video(6))
    item = entry("Be short.", "<video> v.mp4 </video><img>a.png</img>?", "yes", roles=("system", "user", "assistant"))
    [record] = ConversationSource(write(tmp_path, [item]))
    assert [turn.text for turn in record.conversation] == ["Be short.", "<video>0</video><img>0</img>?", "yes"]
    assert (record.videos[0].frames, record.videos[0].data) == (6, make_video(6))
    sample = qwen2_chat(record)
    assert [part for part in sample.parts if not isinstance(part, Text)] == [Video(0), Image(0)]
    assert sample.videos == (make_video(6),)
    assert "Be short." in sample.parts[1].text
    with pytest.raises(ValueError, match="Qwen-VL reads no videos"):
        encode_sample(chat(record), load_tokenizer("bytes"), 16)
    (tmp_path / "v.mp4").write_bytes(b"no video")
    with pytest.raises(RecordError, match=r"record 0: video .*v\.mp4: "):
        ConversationSource(write(tmp_path, [item]))[0]


def test_first_turn_of_the_assistant_is_dropped(tmp_path):
    """As in the original, with its pictures."""
    item = entry("<img>a.png</img>Hello", "Hi", "Hello", roles=("assistant", "user"))
    record = ConversationSource(write(tmp_path, [item]))[0]
    assert record.images == ()
    assert [turn.role for turn in record.conversation] == ["user", "assistant"]


@pytest.mark.parametrize(
    "bad, reason",
    [
        (entry("<img>missing.png</img>?", "a"), r"missing\.png does not exist"),
        (entry("<img>https://example.org/a.png</img>?", "a"), "download it first"),
        (entry("?", "<box>(1,2),(3,1000)</box>"), "two points"),
        (entry("?", "<box>(5,2),(3,4)</box>"), "not top left, bottom right"),
        (entry("?", "<box>(5,2)</box>"), "two points"),
        (entry("?", "<quad>(1,1),(2,2)</quad>"), "four points"),
        (entry("?", "<ref>open"), "<ref> .* is not closed"),
        (entry("?", "shut</ref>"), "closes nothing"),
        (entry("?", "a", roles=("robot", "user")), "unknown role 'robot'"),
        (entry("?"), "no assistant turn"),
        ({"id": "x"}, 'no list under "conversations"'),
        ("text", 'no list under "conversations"'),
        ({"conversations": [{"from": "user"}]}, 'a text under "value"'),
        ({"conversations": []}, "no assistant turn"),
    ],
)
def test_unusable_entry_is_reported(tmp_path, bad, reason):
    """File, index and reason of every unusable entry are there; the others are read."""
    path = write(tmp_path, [GOOD, bad, GOOD])
    source = ConversationSource(path)
    assert len(source) == 2
    [problem] = source.problems
    assert (problem.file, problem.index) == (str(path), 1)
    assert re.search(reason, problem.reason)


def test_broken_line_is_reported(tmp_path):
    """A line that is no JSON costs that line."""
    path = write(tmp_path, [GOOD], "data.jsonl")
    path.write_text("{\n" + path.read_text() + "\n\n")
    source = ConversationSource(path)
    assert len(source) == 1
    assert [(problem.index, problem.reason[:8]) for problem in source.problems] == [(0, "not JSON")]


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"[1", "is not JSON"),
        (b"{}", "holds a dict"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "none of its 0 entries"),
        (b"[1, 2]", "none of its 2 entries can be used; entry 0: no list"),
    ],
)
def test_unusable_file_is_one_sentence(tmp_path, content, reason):
    """A file without any usable entry is refused with the reason."""
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        ConversationSource(path)


def test_unreadable_picture_is_a_record_error(tmp_path):
    """A file that is there but no picture shows when the record is read, and names entry and picture."""
    path = write(tmp_path, ["bad", GOOD])
    (tmp_path / "a.png").write_bytes(b"no picture")
    source = ConversationSource(path)
    with pytest.raises(RecordError, match=r"data.json: record 1: picture .*a\.png: ") as caught:
        source[0]
    assert caught.value.index == 1


def test_decomposed_file_names_are_found(tmp_path):
    """Names written on a Mac are decomposed on disk while the text is normalised."""
    name = "é.png"
    (tmp_path / unicodedata.normalize("NFD", name)).write_bytes(make_picture().data)
    source = ConversationSource(write(tmp_path, [entry(f"<img>{name}</img>?", "a")]))
    assert source[0].images == (make_picture(),)


def test_fingerprint_follows_text_and_pictures(tmp_path):
    """Another text or another picture is another source."""
    path = write(tmp_path, [GOOD])
    first = ConversationSource(path).fingerprint
    assert ConversationSource(path).fingerprint == first
    (tmp_path / "a.png").write_bytes(make_picture(width=30).data)
    second = ConversationSource(path).fingerprint
    path.write_text(path.read_text().replace("Where", "There"))
    assert len({first, second, ConversationSource(path).fingerprint}) == 3
