"""Benchmarks: what counts as right, how means are taken, and what a report gets to show."""

import base64
import json

import pytest

from qwenvl_jax.evaluation.benchmarks import BENCHMARKS, evaluate, gallery, upright_box
from qwenvl_jax.processing.example import Example
from qwenvl_jax.processing.sample import Image, Sample, Text

CAPTION = "<ref>a red star</ref><box>(100,100),(299,299)</box> and <ref>a red ring</ref><box>(500,0),(700,200)</box>"
OCR = (
    "<ref>EXIT 7</ref> <quad>(0,0),(200,0),(200,100),(0,100)</quad> "
    "<ref>exit</ref> <quad>(0,500),(200,500),(200,600),(0,600)</quad>"
)


def example(benchmark: str, answer: str, key: str = "scene/0", kind: str = "", boxes=()) -> Example:
    prompt = Sample((Image(0), Text("Which? Answer:")), (b"picture of " + key.encode(),))
    return Example(key, benchmark, prompt, "Which?", answer, kind, boxes)


def score(asked: Example, text: str) -> dict:
    return dict(evaluate([asked], lambda prompts, most: [text] * len(prompts)).scores)


@pytest.mark.parametrize(
    "benchmark, text, right",
    [
        ("vqa", " Red", 1),
        ("vqa", "red ball", 0),
        ("chat", "red\n", 1),
        ("ocr_vqa", "RED", 1),
        ("caption", " red ", 1),
        ("caption", "Red", 0),
        ("caption_zh", "red", 1),
    ],
)
def test_texts_match_exactly(benchmark, text, right):
    """Answers may differ in case and outer white space, captions in outer white space only."""
    assert list(score(example(benchmark, "red"), text).values()) == [right]


def test_referring_follows_the_originals_protocol():
    """The first box counts, divided by 999, against the unrounded true box."""
    asked = example("refer", "<box>(0,0),(499,999)</box>", boxes=((0.0, 0.0, 0.5, 1.0),))
    assert score(asked, "<box>(0,0),(999,999)</box>") == {
        "refer_iou50": 1,
        "refer_mean_iou": pytest.approx(0.5),
    }
    assert score(asked, "<box>(0,0)</box>") == {"refer_iou50": 0, "refer_mean_iou": 0}


@pytest.mark.parametrize(
    "text, share",
    [
        (CAPTION, 1),
        ("<ref>a red star</ref><box>(110,100),(299,299)</box>", 0.5),
        ("<ref>a red ring</ref><box>(100,100),(299,299)</box>", 0),
        ("<ref>a red star</ref><box>(100,100),(299,299)</box>" * 2, 0.5),
        ("<ref>a red star<box>(100,100", 0),
    ],
)
def test_grounded_caption_needs_phrase_and_box(text, share):
    """A box counts for the object that its phrase names, once."""
    assert score(example("grounded_caption", CAPTION), text)["grounded_caption_iou50"] == share


def test_ocr_counts_words_and_places():
    """Words count without their quads; lines count only where word and place are right."""
    asked = example("ocr", OCR)
    assert score(asked, OCR) == {"ocr_exact": 1, "ocr_quad_iou50": 1}
    assert score(asked, "<ref>EXIT</ref><ref>exit</ref> <quad>(0,0),(9,9)") == {
        "ocr_exact": pytest.approx(2 / 3),
        "ocr_quad_iou50": 0,
    }
    moved = OCR.replace("(0,500),(200,500),(200,600),(0,600)", "(0,800),(200,800),(200,900),(0,900)")
    assert score(asked, moved) == {"ocr_exact": 1, "ocr_quad_iou50": 0.5}


def test_words_weigh_equally():
    """`ocr_exact` is a share of all words, not a mean over pictures; weights say how many."""
    short = example("ocr", "<ref>a</ref> <quad>(0,0),(9,0),(9,9),(0,9)</quad>", key="b")
    result = evaluate([example("ocr", OCR), short], lambda prompts, most: [OCR, ""])
    assert result.scores["ocr_exact"] == pytest.approx(3 / 4)
    assert result.weights["ocr_exact"] == 4


def test_scores_by_kind_and_order_of_answers():
    """Kinds get their own mean; every answer meets its own example, whatever the order of benchmarks."""
    asked = [
        example("caption", "x"),
        example("vqa", "red", kind="colour"),
        example("vqa", "2", kind="count"),
        example("vqa", "blue", kind="colour"),
    ]
    seen = []

    def generate(prompts, most):
        seen.append((len(prompts), most))
        return ["red"] * len(prompts)

    result = evaluate(asked, generate)
    assert seen == [(3, BENCHMARKS["vqa"].max_new_tokens), (1, BENCHMARKS["caption"].max_new_tokens)]
    assert result.scores == {
        "vqa_accuracy": pytest.approx(1 / 3),
        "vqa_accuracy/colour": 0.5,
        "vqa_accuracy/count": 0,
        "caption_exact": 0,
    }
    assert [(answer.example.answer, answer.score) for answer in result.answers] == [
        ("red", 1),
        ("2", 0),
        ("blue", 0),
        ("x", 0),
    ]


def test_wrong_examples_and_generators_are_reported():
    """An unknown benchmark and a missing answer are one sentence each."""
    with pytest.raises(ValueError, match="no benchmark 'poem'"):
        evaluate([example("poem", "x")], lambda prompts, most: ["x"])
    with pytest.raises(ValueError, match="benchmark vqa: 0 answers to 1 prompts"):
        evaluate([example("vqa", "x")], lambda prompts, most: [])


def test_gallery_is_json_of_the_first_pictures():
    """The first records of every benchmark are shown whole, right or wrong, and survive a JSON file."""
    asked = [example("vqa", str(i), key=f"scene/{i // 2}") for i in range(8)]
    asked += [example("caption", str(i), key=f"scene/{i}") for i in range(4)]
    items = gallery(evaluate(asked, lambda prompts, most: ["0"] * len(prompts)), pictures=2)
    assert json.loads(json.dumps(items)) == items
    assert [(item["benchmark"], item["key"], item["score"]) for item in items] == [
        ("vqa", "scene/0", 1),
        ("vqa", "scene/0", 0),
        ("vqa", "scene/1", 0),
        ("vqa", "scene/1", 0),
        ("caption", "scene/0", 1),
        ("caption", "scene/1", 0),
    ]
    assert base64.b64decode(items[2]["pictures"][0]) == b"picture of scene/1"


def test_upright_box_of_a_turned_quad():
    """The smallest upright box holds all corners."""
    assert upright_box(((1, 5), (4, 0), (9, 6), (3, 8))) == (1, 0, 9, 8)
