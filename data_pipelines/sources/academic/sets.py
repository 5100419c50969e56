"""Which reader an annotation file needs: told by its name, as the owners of the sets give it.

GRIT has no line here: its owners give web addresses, which `img2dataset` turns into tars with its expressions
(`--save_additional_columns '["ref_exps"]'`), read by `data_pipelines.sources.webdataset`.
"""

import re
from pathlib import Path
from typing import NamedTuple

from data_pipelines.sources.academic import questions, regions
from data_pipelines.sources.annotations import Reader


class AcademicSet(NamedTuple):
    """A set: its name, the pattern of its annotation files' names, what reads them, and how a file must begin whose name
    others use too."""

    name: str
    pattern: str
    reader: Reader
    begins: bytes = b""


SETS = (
    AcademicSet("VQAv2", r"v2_OpenEnded_mscoco_(train|val)2014_questions\.json", questions.vqa),
    AcademicSet("OK-VQA", r"OpenEnded_mscoco_(train|val)2014_questions\.json", questions.vqa),
    AcademicSet("GQA", r"(train|val|testdev)_(balanced|all)_questions(_\d+)?\.json", questions.gqa),
    AcademicSet("TextVQA", r"TextVQA_[\d.]+_(train|val)\.json", questions.text_vqa),
    AcademicSet("DocVQA", r"(train|val)_v1\.0(_withQT)?\.json", questions.doc_vqa),
    AcademicSet("ChartQA", r"(train|val|test)_(human|augmented)\.json", questions.chart_qa),
    AcademicSet("OCR-VQA", r"dataset\.json", questions.ocr_vqa, begins=b"{"),
    AcademicSet("RefCOCO", r"refs\((unc|google|umd)\)\.p", regions.ref_coco),
    AcademicSet("Visual Genome regions", r"region_descriptions\.json", regions.genome_regions),
    AcademicSet("Visual Genome questions", r"question_answers\.json", regions.genome_questions),
    AcademicSet("COCO captions", r"captions_(train|val)(2014|2017)\.json", regions.coco_captions),
)

AI2D = AcademicSet("AI2D", r"", questions.ai2d)
"""Its annotations are a folder: `questions/` with a file per picture, beside `images/`."""


def academic_set(path: Path) -> AcademicSet | None:
    """The set that an annotation file (AI2D: the folder) belongs to, or None."""
    if path.is_dir():
        is_ai2d = (path / "questions").is_dir() and (path / "images").is_dir()
        return AI2D if is_ai2d and any((path / "questions").glob("*.json")) else None
    return next((s for s in SETS if re.fullmatch(s.pattern, path.name) and _begins(path, s.begins)), None)


def _begins(path: Path, begins: bytes) -> bool:
    if not begins:
        return True
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith(begins)
