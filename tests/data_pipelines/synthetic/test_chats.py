"""Conversations about several pictures are true and stand as the original writes them."""

import re

import numpy as np
import pytest

from data_pipelines.synthetic.chats import (
    KINDS,
    SHORT_QUESTIONS,
    TURNS_ON_PICTURES,
    chat_record,
    picture_prefix,
    sample_pictures,
)
from data_pipelines.synthetic.wording import PLURALS, name
from data_pipelines.tasks import CHAT_KIND

PICTURES = [sample_pictures(np.random.default_rng([1, i]), held_out=False) for i in range(150)]


def right_answer(scenes, question: str) -> str:
    """The answer, found from the words of the question alone."""
    names = [[name(item) for item in scene.objects] for scene in scenes]
    words = [[phrase.split() for phrase in found] for found in names]
    if found := re.fullmatch(r"In which picture is the (.+)\?", question):
        numbers = [i + 1 for i, phrases in enumerate(names) if found[1] in phrases]
        assert len(numbers) == 1
        return f"Picture {numbers[0]}"
    if found := re.fullmatch(r"What color is the (\w+) in Picture (\d)\?", question):
        colours = [colour for colour, shape in words[int(found[2]) - 1] if shape == found[1]]
        assert len(colours) == 1
        return colours[0]
    if found := re.fullmatch(r"What shape is the (\w+) object in Picture (\d)\?", question):
        shapes = [shape for colour, shape in words[int(found[2]) - 1] if colour == found[1]]
        assert len(shapes) == 1
        return shapes[0]
    if found := re.fullmatch(r"How many (\w+) are in Picture (\d)\?", question):
        objects = words[int(found[2]) - 1]
        return str(sum(found[1] in ("objects", PLURALS[shape]) for _, shape in objects))
    if found := re.fullmatch(r"Which picture shows the larger (\w+)\?", question):
        first, second = (
            [item.extent / (s.width + s.height) for item in s.objects if item.look.shape == found[1]] for s in scenes
        )
        assert len(first) == len(second) == 1
        return f"Picture {1 if first[0] > second[0] else 2}"
    counts = [len(objects) for objects in words]
    if question == "Do both pictures have the same number of objects?":
        return "yes" if counts[0] == counts[1] else "no"
    assert question == "Which picture has more objects?"
    assert counts.count(max(counts)) == 1
    return f"Picture {counts.index(max(counts)) + 1}"


@pytest.mark.parametrize("ask", SHORT_QUESTIONS)
def test_answers_follow_from_the_pictures(ask):
    """Every question on several pictures has one reading, and its answer is true."""
    asked = 0
    for i, scenes in enumerate(PICTURES):
        pair = ask(scenes, np.random.default_rng(i))
        if pair is not None:
            asked += 1
            assert right_answer(scenes, pair[0]) == pair[1]
    assert asked >= 15


def test_records():
    """Turns alternate; pictures are named in the first; counted questions can be asked by themselves."""
    seen = set()
    for i in range(60):
        record = chat_record(np.random.default_rng([4, i]), f"c/{i}", held_out=i % 2 == 0)
        roles = [turn.role for turn in record.conversation]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert 1 <= len(roles) // 2 <= TURNS_ON_PICTURES[1]
        assert record.conversation[0].text.startswith(picture_prefix(len(record.images)))
        assert "<img>" not in "".join(turn.text for turn in record.conversation[1:])
        for item in record.questions:
            assert item.kind == CHAT_KIND
            assert len(record.images) > 1
            assert item.question.startswith(picture_prefix(len(record.images)))
            assert len(item.answer) <= len("Picture 1")
        if i % 2 == 0:
            assert record.questions
        seen.add(len(record.images))
    assert seen == {0, 1, 2}
    assert sum(KINDS.values()) == pytest.approx(1)


def test_picture_prefix():
    """Pictures are introduced as `from_list_format` of the original does."""
    assert picture_prefix(2) == "Picture 1: <img>0</img>\nPicture 2: <img>1</img>\n"
