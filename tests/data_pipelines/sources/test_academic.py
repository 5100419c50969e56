"""Annotation files of academic sets, as their owners lay them out: name, place and shape of files are theirs."""

import json
import pickle

import pytest
from small_data import make_picture

from data_pipelines.sources.opening import open_source

NUMBER = 9
COCO_PICTURE = "COCO_train2014_000000000009.jpg"


def put(folder, files):
    """Writes pictures (an int is the seed), pickles (.p) and JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            path.write_bytes(make_picture(content).data)
        elif name.endswith(".p"):
            path.write_bytes(pickle.dumps(content, protocol=2))
        else:
            path.write_text(json.dumps(content))


def answers(*texts, confidence="yes"):
    return [{"answer": text, "answer_confidence": confidence, "answer_id": n} for n, text in enumerate(texts)]


def vqa(prefix):
    questions = [
        {"image_id": NUMBER, "question": "What is it?", "question_id": 1},
        {"image_id": NUMBER, "question": "How many?", "question_id": 2},
    ]
    two_maybe = [*answers("2", "2", confidence="maybe"), *answers("three")]
    annotations = [
        {"question_id": 1, "image_id": NUMBER, "answers": answers("dog", "cat", "dog"), "answer_type": "other"},
        {"question_id": 2, "image_id": NUMBER, "answers": two_maybe, "answer_type": "number"},
    ]
    return {
        f"{prefix}OpenEnded_mscoco_train2014_questions.json": {"questions": questions},
        f"{prefix}mscoco_train2014_annotations.json": {"annotations": annotations},
        f"train2014/{COCO_PICTURE}": 0,
    }


REF = {
    "ann_id": 5, "image_id": NUMBER, "split": "train",
    "sentences": [{"sent": "left dog", "raw": "Left dog"}, {"sent": "dog"}],
}  # fmt: skip
GENOME_REGION = {"region_id": 1, "phrase": "a dog ", "x": 2, "y": 3, "width": 10, "height": 5}

QUESTION_SETS = {
    "VQAv2": ("v2_OpenEnded_mscoco_train2014_questions.json", vqa("v2_"), [("What is it?", "dog"), ("How many?", "2")]),
    "OK-VQA": ("OpenEnded_mscoco_train2014_questions.json", vqa(""), [("What is it?", "dog"), ("How many?", "2")]),
    "GQA": (
        "train_balanced_questions.json",
        {
            "train_balanced_questions.json": {"q1": {"imageId": "77", "question": "Is it red?", "answer": "no"}},
            "images/77.jpg": 0,
        },
        [("Is it red?", "no")],
    ),
    "TextVQA": (
        "TextVQA_0.5.1_train.json",
        {
            "TextVQA_0.5.1_train.json": {
                "data": [{"image_id": "ab", "question": "which brand?", "answers": ["Nokia", "nokia", "no"]}]
            },
            "train_images/ab.jpg": 0,
        },
        [("which brand?", "Nokia")],
    ),
    "DocVQA": (
        "train_v1.0_withQT.json",
        {
            "train_v1.0_withQT.json": {
                "data": [{"image": "documents/x_1.png", "question": "Date?", "answers": ["May", "5"]}]
            },
            "documents/x_1.png": 0,
        },
        [("Date?", "May")],
    ),
    "ChartQA": (
        "train/train_human.json",
        {"train/train_human.json": [{"imgname": "1.png", "query": "Highest?", "label": "12"}], "train/png/1.png": 0},
        [("Highest?", "12")],
    ),
    "AI2D": (
        "ai2d",
        {
            "ai2d/questions/3.png.json": {
                "imageName": "3.png",
                "questions": {"What eats grass?": {"answerTexts": ["fox", "hare"], "correctAnswer": 1}},
            },
            "ai2d/images/3.png": 0,
        },
        [("What eats grass?", "hare")],
    ),
    "OCR-VQA": (
        "dataset.json",
        {
            "dataset.json": {
                "01": {"imageURL": "http://x/y.jpg", "questions": ["Title?"], "answers": ["A Book"], "split": 1},
                "02": {"imageURL": "http://x/z.jpg", "questions": ["Title?"], "answers": ["Test"], "split": 3},
            },
            "images/01.jpg": 0,
            "images/02.jpg": 1,
        },
        [("Title?", "A Book")],
    ),
    "Visual Genome questions": (
        "question_answers.json",
        {
            "question_answers.json": [{"id": 4, "qas": [{"question": "What?", "answer": "A dog."}]}],
            "VG_100K_2/4.jpg": 0,
            "VG_100K/5.jpg": 1,
        },
        [("What?", "A dog.")],
    ),
}

REGION_SETS = {
    "RefCOCO": (
        "refs(unc).p",
        {
            "refs(unc).p": [REF, {**REF, "split": "testA", "image_id": 10}],
            "instances.json": {
                "annotations": [{"id": 5, "bbox": [1.5, 2, 4, 8]}],
                "images": [{"id": NUMBER, "file_name": COCO_PICTURE}],
            },
            f"train2014/{COCO_PICTURE}": 0,
        },
        [("left dog", (1.5, 2, 5.5, 10)), ("dog", (1.5, 2, 5.5, 10))],
    ),
    "Visual Genome regions": (
        "region_descriptions.json",
        {
            "region_descriptions.json": [{"id": 4, "regions": [GENOME_REGION, {**GENOME_REGION, "width": 99}]}],
            "VG_100K/4.jpg": 0,
        },
        [("a dog", (2, 3, 12, 8)), ("a dog", (2, 3, 20, 8))],
    ),
}


@pytest.mark.parametrize("name", QUESTION_SETS)
def test_question_sets(tmp_path, name):
    """One record per picture with its questions and the chosen answers."""
    path, files, expected = QUESTION_SETS[name]
    put(tmp_path, files)
    source = open_source(tmp_path, path)
    assert len(source) == 1
    assert source.problems == ()
    assert [(item.question, item.answer) for item in source[0].questions] == expected
    assert source[0].images == (make_picture(0),)


@pytest.mark.parametrize("name", REGION_SETS)
def test_region_sets(tmp_path, name):
    """Phrases with boxes in pixels, cut to the picture; only the training split of RefCOCO."""
    path, files, expected = REGION_SETS[name]
    put(tmp_path, files)
    source = open_source(tmp_path, path)
    assert len(source) == 1
    assert [(region.phrase, *region.boxes) for region in source[0].regions] == expected


def test_coco_captions_keep_the_longest(tmp_path):
    """One record per picture; a picture without caption is counted."""
    captions = [{"image_id": 1, "caption": "a dog"}, {"image_id": 1, "caption": " a dog with a ball "}]
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
    files = {
        "annotations/captions_train2017.json": {"images": images, "annotations": captions},
        "train2017/1.jpg": 0,
        "train2017/2.jpg": 1,
    }
    put(tmp_path, files)
    source = open_source(tmp_path, "annotations/captions_train2017.json")
    assert [source[n].captions[0].answer for n in range(len(source))] == ["a dog with a ball"]
    assert [problem.reason for problem in source.problems] == ["a picture has no caption"]


def test_bad_boxes_and_missing_pictures_are_counted(tmp_path):
    """NaN, reversed and outside boxes cost their region, a missing or damaged picture its entry."""
    bad = [{**GENOME_REGION, "x": value} for value in (float("nan"), 400)]
    bad += [{**GENOME_REGION, "width": -4}, {**GENOME_REGION, "phrase": " "}]
    entries = [{"id": n, "regions": [GENOME_REGION, *bad]} for n in (4, 5, 6)]
    put(tmp_path, {"region_descriptions.json": entries, "VG_100K/4.jpg": 0})
    (tmp_path / "VG_100K" / "6.jpg").write_bytes(b"no picture")
    source = open_source(tmp_path, "region_descriptions.json")
    assert [len(source[n].regions) for n in range(len(source))] == [1]
    reasons = [problem.reason for problem in source.problems]
    assert reasons[:4] == [
        "a box holds a number that is not finite",
        "a box lies outside its picture",
        "a box is reversed or has no area",
        "a region's phrase is empty",
    ]
    assert "5.jpg does not exist" in reasons[4]
    assert "no readable picture" in reasons[5]


class _Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "path, files, reason",
    [
        ("dataset.json", {"dataset.json": {"x": 1}}, r"none of the folders images|another shape"),
        ("train_v1.0.json", {"train_v1.0.json": {"rows": []}, "documents/x.png": 0}, "another shape .*KeyError"),
        ("refs(unc).p", {"refs(unc).p": [REF]}, "belongs to instances.json, which is missing"),
        (
            "refs(unc).p",
            {"refs(unc).p": _Evil(), "instances.json": {"annotations": [], "images": []}},
            "wants to run .*print",
        ),
        (
            "OpenEnded_mscoco_train2014_questions.json",
            {"OpenEnded_mscoco_train2014_questions.json": {}},
            "which is miss",
        ),
    ],
)
def test_other_shapes_are_one_sentence(tmp_path, capsys, path, files, reason):
    """Wrong JSON, missing files and a pickle with code in it; the code does not run."""
    put(tmp_path, files)
    with pytest.raises(ValueError, match=reason):
        open_source(tmp_path, path)
    assert capsys.readouterr().out == ""


def test_a_list_called_dataset_is_a_conversation(tmp_path):
    """OCR-VQA's file name is a common one: only a JSON object is read as OCR-VQA."""
    put(
        tmp_path,
        {"dataset.json": [{"conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]}]},
    )
    assert open_source(tmp_path, "dataset.json")[0].conversation[1].text == "b"


def test_moved_with_its_pictures_it_is_the_same_source(tmp_path):
    """The index holds no absolute path."""
    path, files, _ = QUESTION_SETS["ChartQA"]
    put(tmp_path / "a", files)
    first = open_source(tmp_path / "a", path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = open_source(tmp_path / "b", path)
    assert second.fingerprint == first.fingerprint
    assert second[0].images == (make_picture(0),)
