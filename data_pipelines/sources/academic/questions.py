"""Question sets: VQAv2, OK-VQA, GQA, TextVQA, DocVQA, ChartQA, AI2D, OCR-VQA, as their owners lay them out."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipelines.cleaning.answers import most_confident, most_frequent
from data_pipelines.records import Question
from data_pipelines.sources.academic.files import load_json, sibling
from data_pipelines.sources.annotations import Annotated, Annotations
from data_pipelines.sources.paths import first_folder
from data_pipelines.tasks import OCR_KIND

Asked = tuple[str, Question]
"""A picture's path and a question on it."""


def by_picture(asked: Iterable[Asked]) -> Iterator[Annotated]:
    """All questions on a picture together, in the order of the first one."""
    grouped: dict[str, list[Question]] = {}
    for picture, question in asked:
        grouped.setdefault(picture, []).append(question)
    for picture, questions in grouped.items():
        yield Annotated(picture, picture, questions=tuple(questions))


def _usable(rows: Iterable[tuple[str, str, str, str]]) -> tuple[list[Asked], tuple[str, ...]]:
    """Picture, question, answer and kind -> questions; rows with an empty text become a reason."""
    asked, reasons = [], []
    for picture, question, answer, kind in rows:
        if question.strip() and answer.strip():
            asked.append((picture, Question(question.strip(), answer.strip(), kind)))
        else:
            reasons.append("a question or its answer is empty")
    return asked, tuple(reasons)


def _annotations(pictures: Path, rows: Iterable[tuple[str, str, str, str]]) -> Annotations:
    asked, reasons = _usable(rows)
    return Annotations(pictures, by_picture(asked), reasons)


def vqa(file: Path) -> Annotations:
    """VQAv2 `v2_OpenEnded_mscoco_train2014_questions.json` and OK-VQA's file without `v2_`.

    Answers lie in `v2_mscoco_train2014_annotations.json` beside it, pictures in `train2014/`.
    """
    answers_name = file.name.replace("OpenEnded_", "").replace("_questions", "_annotations")
    answers = {item["question_id"]: item for item in load_json(sibling(file, answers_name))["annotations"]}
    folder = "train2014" if "train2014" in file.name else "val2014"
    problems: list[str] = []

    def asked() -> Iterator[Asked]:
        for item in load_json(file)["questions"]:
            known = answers.get(item["question_id"])
            if known is None:
                problems.append("a question has no annotation")
                continue
            try:
                answer = most_confident(known["answers"])
            except ValueError as error:
                problems.append(str(error))
                continue
            picture = f"COCO_{folder}_{int(item['image_id']):012d}.jpg"
            yield picture, Question(item["question"].strip(), answer, known.get("answer_type", ""))

    found = list(asked())
    pictures = first_folder(file.parent, (folder, f"../{folder}", f"../images/{folder}", f"../coco/{folder}"))
    return Annotations(pictures, by_picture(found), tuple(problems))


def gqa(file: Path) -> Annotations:
    """GQA `train_balanced_questions.json`: id -> imageId, question, answer; pictures in `images/`."""
    rows = (
        (f"{item['imageId']}.jpg", item["question"], item["answer"], item.get("types", {}).get("structural", ""))
        for item in load_json(file).values()
    )
    return _annotations(first_folder(file.parent, ("images", "../images", "../../images")), rows)


def text_vqa(file: Path) -> Annotations:
    """TextVQA `TextVQA_0.5.1_train.json`: ten answers each; pictures in `train_images/` (validation's too)."""

    def rows() -> Iterator[tuple[str, str, str, str]]:
        for item in load_json(file)["data"]:
            answers = [answer for answer in item["answers"] if isinstance(answer, str)]
            answer = most_frequent(answers) if any(map(str.strip, answers)) else ""
            yield f"{item['image_id']}.jpg", item["question"], answer, OCR_KIND

    folder = first_folder(file.parent, ("train_images", "../train_images", "train_val_images/train_images"))
    return _annotations(folder, rows())


def doc_vqa(file: Path) -> Annotations:
    """DocVQA `train_v1.0_withQT.json` (or `train_v1.0.json`): pictures in `documents/`; the first answer counts."""
    rows = (
        (Path(item["image"]).name, item["question"], (item.get("answers") or [""])[0], OCR_KIND)
        for item in load_json(file)["data"]
    )
    return _annotations(first_folder(file.parent, ("documents", "../documents", "train/documents")), rows)


def chart_qa(file: Path) -> Annotations:
    """ChartQA `train/train_human.json` and `train_augmented.json`: imgname, query, label; pictures in `png/`."""
    rows = ((item["imgname"], item["query"], str(item["label"]), "chart") for item in load_json(file))
    return _annotations(first_folder(file.parent, ("png", "../png")), rows)


def ai2d(folder: Path) -> Annotations:
    """AI2D's folder: `questions/NAME.png.json` with answer texts and the number of the right one, `images/`."""

    def rows() -> Iterator[tuple[str, str, str, str]]:
        for file in sorted((folder / "questions").glob("*.json")):
            content = load_json(file)
            for question, item in content["questions"].items():
                yield content["imageName"], question, str(item["answerTexts"][item["correctAnswer"]]), "diagram"

    return _annotations(first_folder(folder, ("images",)), rows())


TRAIN_SPLIT = 1
"""Of OCR-VQA's `split`: 1 train, 2 validation, 3 test."""


def ocr_vqa(file: Path) -> Annotations:
    """OCR-VQA `dataset.json`: id -> imageURL, questions, answers, split; pictures in `images/ID.EXTENSION`."""

    def rows() -> Iterator[tuple[str, str, str, str]]:
        for key, item in load_json(file).items():
            if item["split"] == TRAIN_SPLIT:
                picture = key + Path(item["imageURL"]).suffix
                yield from ((picture, q, str(a), OCR_KIND) for q, a in zip(item["questions"], item["answers"]))

    return _annotations(first_folder(file.parent, ("images", "../images")), rows())
