"""What is said about scenes is true, unambiguous, and says nothing twice."""

import re

import numpy as np
import pytest

from data_pipelines.synthetic.scenes import COLOURS, SHAPES, Scene, sample_scene
from data_pipelines.synthetic.wording import (
    ASKED_HARD,
    COLUMNS,
    KINDS,
    PLACE,
    ROWS,
    TEMPLATES,
    caption,
    caption_with_places,
    caption_zh,
    grounded_caption,
    name,
    place,
    questions,
    refer,
    regions,
    translate,
)
from qwenvl_jax.processing.markup import format_box, parse

SCENES = [sample_scene(np.random.default_rng([2, i]), held_out=False) for i in range(400)]
ASKED = [questions(scene, np.random.default_rng([3, i])) for i, scene in enumerate(SCENES)]


def the_object(scene: Scene, phrase: str):
    """The one object that a phrase such as "red cross", "cross" or "red object" means."""
    words = phrase.split()
    meant = [item for item in scene.objects if all(word in (*item.look, "object") for word in words)]
    assert len(meant) == 1, f"{phrase} means {len(meant)} objects"
    return meant[0]


def number_of(scene: Scene, phrase: str) -> int:
    """How many objects "rings", "red objects" or "objects" means."""
    singular = {f"{shape}s": shape for shape in SHAPES} | {"crosses": "cross", "objects": "object"}
    words = [singular.get(word, word) for word in phrase.split()]
    return sum(all(word in (*item.look, "object") for word in words) for item in scene.objects)


def direction_holds(scene: Scene, direction: str, first: str, second: str) -> bool:
    a, b = the_object(scene, first), the_object(scene, second)
    return {"left": a.x < b.x, "right": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[direction]


def answer(scene: Scene, question: str) -> str:
    """The answer, found from the words of the question alone."""
    # Longest first: "Is the {0} {1}?" would read "Is the ring left of the cross?" too.
    for template, (english, _) in sorted(TEMPLATES.items(), key=lambda entry: -len(entry[1][0])):
        pattern = re.escape(english).replace(r"\{0\}", "(.+?)").replace(r"\{1\}", "(.+?)")
        if (found := re.fullmatch(pattern, question)) is None:
            continue
        phrases = found.groups()
        if template in ("colour", "shape"):
            return getattr(the_object(scene, phrases[0]).look, template)
        if template == "count":
            return str(number_of(scene, phrases[0]))
        if template == "exists":
            return "yes" if number_of(scene, phrases[0]) else "no"
        if template == "is colour":
            return "yes" if the_object(scene, phrases[0]).look.colour == phrases[1] else "no"
        if template == "place":
            item = the_object(scene, phrases[0])
            return f"{ROWS[int(3 * item.y / scene.height)]} {COLUMNS[int(3 * item.x / scene.width)]}"
        if template.startswith("outermost"):
            return name(scene.objects[0 if template.endswith("left") else -1])
        if template == "where":
            a, b = (the_object(scene, phrase) for phrase in phrases)
            dx, dy = (a.x - b.x) / scene.width, (a.y - b.y) / scene.height
            return ("left" if dx < 0 else "right") if abs(dx) > abs(dy) else ("above" if dy < 0 else "below")
        return "yes" if direction_holds(scene, template, *phrases) else "no"
    raise AssertionError(f"no template reads as {question!r}")


def test_answers_follow_from_the_scene():
    """Each English question has one reading, names one object where it says "the", and its answer is true."""
    english = [(s, item) for s, asked in zip(SCENES, ASKED) for item in asked if item.question.isascii()]
    assert len(english) > 800
    for scene, item in english:
        assert answer(scene, item.question) == item.answer, item


def test_chinese_says_the_same():
    """A small share of questions is Chinese, of every kind, and answered in Chinese or with a number."""
    every = [item for asked in ASKED for item in asked]
    chinese = [item for item in every if not item.question.isascii()]
    assert 0.04 < len(chinese) / len(every) < 0.12
    assert all(not item.answer.isascii() or item.answer.isdigit() for item in chinese)
    assert {item.kind for item in chinese} == {item.kind for item in every} == set(KINDS)
    assert translate("red circle") == "红色的圆"


def test_places_are_asked_last():
    """Where they are asked, questions on places stand behind all others, name one object, and are answered in English or
    Chinese with the ninth of the picture where it lies."""
    places = []
    for i, scene in enumerate(SCENES):
        asked = questions(scene, np.random.default_rng([4, i]), ASKED_HARD)
        count = min(ASKED_HARD[PLACE], len(scene.objects))
        assert [item.kind == PLACE for item in asked] == [False] * (len(asked) - count) + [True] * count
        places += [(scene, item) for item in asked[-count:]]
    english = [(scene, item) for scene, item in places if item.question.isascii()]
    assert 0 < len(places) - len(english) < 0.12 * len(places)
    for scene, item in english:
        assert answer(scene, item.question) == item.answer, item
    ninths = [translate(f"{row} {column}") for row in ROWS for column in COLUMNS]
    assert len(set(ninths)) == 9
    assert all(item.answer in ninths for _, item in places if not item.question.isascii())


def test_no_answer_is_told_before():
    """No colour or shape is asked of an object that an earlier question of the scene named in full."""
    for scene, asked in zip(SCENES, ASKED):
        told = ""
        for item in asked:
            if item.kind in ("colour", "shape") and item.question.isascii():
                phrase = re.fullmatch(r"What \w+ is the (.+)\?", item.question)[1]
                assert name(the_object(scene, phrase)) not in told
            told += f" {item.question} {item.answer}."


def test_answers_are_balanced():
    """Who answers each kind of question with its most frequent answer is right less than half the time."""
    counts: dict[str, dict[str, int]] = {}
    for asked in ASKED:
        for item in asked:
            # The wording without the words that pictures decide.
            form = re.sub("|".join((*COLOURS, *(f"{shape}(es|s)?" for shape in SHAPES))), "_", item.question)
            of_form = counts.setdefault(form, {})
            of_form[item.answer] = of_form.get(item.answer, 0) + 1
    frequent = {form: found for form, found in counts.items() if sum(found.values()) > 40}
    assert len(frequent) >= 8
    blind = sum(max(found.values()) for found in frequent.values())
    assert blind / sum(sum(found.values()) for found in frequent.values()) < 0.45
    yes_no = [item.answer for asked in ASKED for item in asked if item.answer in ("yes", "no")]
    assert 0.42 < yes_no.count("yes") / len(yes_no) < 0.58


def test_captions_go_from_left_to_right():
    """Captions name colour and shape from left to right, in English and Chinese."""
    scene = next(scene for scene in SCENES if len(scene.objects) == 3)
    a, b, c = (name(item) for item in scene.objects)
    assert caption(scene).answer == f"a {a}, a {b} and a {c}"
    assert caption_zh(scene).answer == "、".join(map(translate, (a, b, c)))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_grounded_caption_is_the_caption(number):
    """Without its markup a grounded caption is the caption; its boxes are the objects'."""
    scene = sample_scene(np.random.default_rng(number), held_out=True, count=number)
    grounded = grounded_caption(scene).answer
    assert re.sub("<box>.*?</box>|</?ref>", "", grounded) == caption(scene).answer
    boxes = [format_box(scene.annotated_box(item), scene.width, scene.height) for item in scene.objects]
    assert [str(element) for element in parse(grounded) if str(element).startswith("<box>")] == boxes


def test_regions_and_references_mean_one_object():
    """A region's phrase, and every phrase for an object, mean that object alone."""
    for i, scene in enumerate(SCENES[:60]):
        boxes = {f"the {name(item)}": (scene.annotated_box(item),) for item in scene.objects}
        assert {region.phrase: region.boxes for region in regions(scene, np.random.default_rng(i))} == boxes
        for item in scene.objects:
            assert the_object(scene, name(item)) is item
            assert the_object(scene, refer(scene, item, np.random.default_rng(i))[0]) is item


def test_the_order_of_regions_tells_nothing():
    """Each object of a scene stands first equally often: a phrase's place among others does not say where its box is."""
    scene = sample_scene(np.random.default_rng(3), held_out=True, count=3)
    first = [regions(scene, np.random.default_rng(i))[0].phrase for i in range(600)]
    shares = [first.count(f"the {name(item)}") / 600 for item in scene.objects]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.08)  # four standard errors


def test_places_are_thirds_of_the_sides():
    """Row first, then column, from the middles of the objects; captions with places name the same objects in the same order
    as captions, and every place is said."""
    assert [place(share, 0.5) for share in (0.0, 0.33, 0.34, 0.67, 1.0)] == [
        f"middle {column}" for column in ("left", "left", "center", "right", "right")
    ]
    assert [place(0.5, share).split()[0] for share in (0.0, 0.34, 0.99)] == ["upper", "middle", "lower"]
    said = set()
    for scene in SCENES:
        told = caption_with_places(scene).answer
        places = [place(item.x / scene.width, item.y / scene.height) for item in scene.objects]
        assert re.findall(r" at the (\w+ \w+)", told) == places
        assert re.sub(r" at the \w+ \w+", "", told) == caption(scene).answer
        said.update(places)
    assert len(said) == 9
