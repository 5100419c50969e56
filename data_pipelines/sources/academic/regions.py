"""Sets of captions and regions: COCO captions, RefCOCO/+/g, Visual Genome, as their owners lay them out."""

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.records import Question, Region
from data_pipelines.sources.academic.files import load_json, load_pickle, sibling
from data_pipelines.sources.annotations import Annotated, Annotations
from data_pipelines.sources.captions import caption_question
from data_pipelines.sources.paths import first_folder


def coco_captions(file: Path) -> Annotations:
    """`annotations/captions_train2017.json` (or 2014); of a picture's captions the longest (appendix A.1)."""
    content = load_json(file)
    longest: dict[int, str] = {}
    for item in content["annotations"]:
        text = item["caption"].strip()
        if len(text) > len(longest.get(item["image_id"], "")):
            longest[item["image_id"]] = text
    folder = file.stem.removeprefix("captions_")
    problems = tuple("a picture has no caption" for item in content["images"] if item["id"] not in longest)

    def entries() -> Iterator[Annotated]:
        for item in content["images"]:
            if item["id"] in longest:
                captions = (caption_question(longest[item["id"]]),)
                yield Annotated(str(item["id"]), item["file_name"], captions=captions)

    pictures = first_folder(file.parent, (folder, f"../{folder}", f"../images/{folder}"))
    return Annotations(pictures, entries(), problems)


def ref_coco(file: Path) -> Annotations:
    """RefCOCO/+/g `refs(unc).p` (`google`, `umd`) with `instances.json` beside it; COCO's `train2014/` pictures.

    Only the split `train` is read: the pictures of the others are what RefCOCO is evaluated on.
    """
    instances = load_json(sibling(file, "instances.json"))
    boxes = {item["id"]: item["bbox"] for item in instances["annotations"]}
    names = {item["id"]: item["file_name"] for item in instances["images"]}
    grouped: dict[int, list[Region]] = {}
    for item in load_pickle(file):
        if item["split"] == "train":
            x, y, width, height = boxes[item["ann_id"]]
            box = (x, y, x + width, y + height)
            found = grouped.setdefault(item["image_id"], [])
            found += [Region(sentence["sent"], (box,)) for sentence in item["sentences"]]
    usual = (
        "train2014",
        "../train2014",
        "../images/train2014",
        "../images/mscoco/images/train2014",
        "../coco/train2014",
    )
    return Annotations(
        first_folder(file.parent, usual),
        (Annotated(str(image), names[image], regions=tuple(found)) for image, found in grouped.items()),
    )


VISUAL_GENOME_FOLDERS = ("VG_100K", "VG_100K_2")


def _genome_pictures(file: Path) -> tuple[Path, dict[int, str]]:
    """The folder that holds VG_100K and VG_100K_2, and image id -> path below it, by what lies on disk."""
    root = next(
        (f for f in (file.parent, file.parent.parent, file.parent / "images") if (f / "VG_100K").is_dir()), None
    )
    if root is None:
        raise ValueError(f"{file.parent} has no folder VG_100K: put Visual Genome's pictures beside the annotations")
    found = {}
    for folder in VISUAL_GENOME_FOLDERS:
        if (root / folder).is_dir():
            found.update({int(p.stem): f"{folder}/{p.name}" for p in (root / folder).iterdir() if p.stem.isdecimal()})
    return root, found


def genome_regions(file: Path) -> Annotations:
    """Visual Genome `region_descriptions.json`: phrases with boxes (x, y, width, height)."""
    root, pictures = _genome_pictures(file)

    def entries() -> Iterator[Annotated]:
        for item in load_json(file):
            number = item["id"]
            found = tuple(
                Region(r["phrase"].strip(), ((r["x"], r["y"], r["x"] + r["width"], r["y"] + r["height"]),))
                for r in item["regions"]
            )
            yield Annotated(str(number), pictures.get(number, f"VG_100K/{number}.jpg"), regions=found)

    return Annotations(root, entries())


def genome_questions(file: Path) -> Annotations:
    """Visual Genome `question_answers.json`, the paper's VGQA."""
    root, pictures = _genome_pictures(file)

    def entries() -> Iterator[Annotated]:
        for item in load_json(file):
            number = item["id"]
            asked = tuple(
                Question(q["question"].strip(), q["answer"].strip())
                for q in item["qas"]
                if q["question"].strip() and q["answer"].strip()
            )
            yield Annotated(str(number), pictures.get(number, f"VG_100K/{number}.jpg"), questions=asked)

    return Annotations(root, entries())
