"""One tar of a corpus through the rules: what each step of a cleaning does, wherever it runs.

`survey` looks at texts and numbers alone and gathers what the corpus as a whole must decide: the scores for its CLIP
cut, and which of several texts of a picture is the longest. `select` then asks all rules, decodes what is left, and
writes the outlines of the kept pairs.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.cleaning.funnel import DAMAGED, NOT_FETCHED, SHORTER, UNREADABLE
from data_pipelines.cleaning.near_duplicates import signature
from data_pipelines.cleaning.rules import Pair, judge, score_step
from data_pipelines.cleaning.thresholds import CLIP, Thresholds
from data_pipelines.sources.captions import caption_question
from data_pipelines.sources.index import Entry
from data_pipelines.sources.source import Problem, sentence
from data_pipelines.sources.webdataset import (
    COLUMNS,
    TarSample,
    caption_of,
    member_json,
    metadata_beside,
    outline,
    picture_of,
    read_member,
    tar_samples,
)
from qwenvl_jax.processing.images import decode_image, image_size

SCORES = (
    "similarity",
    "clip_similarity_vitb32",
    "clip_similarity_vitl14",
    "clip_b32_similarity_score",
    "clip_l14_similarity_score",
)
"""Columns of CLIP scores as LAION, COYO and DataComp name them; the first that is there counts."""
METADATA = (*COLUMNS, "status", "original_width", "original_height", "sha256", "url", *SCORES)
SUCCESS = "success"


class Candidate(NamedTuple):
    """A sample of a tar, what is known of it, and what the rules look at."""

    sample: TarSample
    known: Mapping[str, Any]
    pair: Pair


def candidates(file: Path, counts: Counter[str]) -> Iterator[Candidate | Problem]:
    """The samples of a tar, and those that are damaged; counts what was not fetched.

    A tar that is none, or whose Parquet cannot be read, is one problem.
    """
    number = 0
    try:
        metadata = metadata_beside(file, METADATA)
        if metadata is not None:
            counts[NOT_FETCHED] += sum(row.get("status", SUCCESS) != SUCCESS for row in metadata.values())
        for sample in tar_samples(file):
            if isinstance(sample, Problem):
                yield sample
                continue
            number = sample.number
            try:
                known = (metadata or {}).get(sample.key) or member_json(file, sample)
                yield Candidate(sample, known, _pair(file, sample, known))
            except ValueError as error:
                yield Problem(str(file), number, str(error))
    except (OSError, ValueError) as error:
        yield Problem(str(file), number, sentence(error))


def _pair(file: Path, sample: TarSample, known: Mapping[str, Any]) -> Pair:
    place = picture_of(sample)
    size = _whole(known.get("original_width")), _whole(known.get("original_height"))
    if not all(size):
        size = _whole(known.get("width")), _whole(known.get("height"))
    if not all(size):
        size = image_size(read_member(file, place))
    score = next((known[name] for name in SCORES if isinstance(known.get(name), int | float)), None)
    return Pair(caption_of(file, sample, known), *size, score)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


class Survey(NamedTuple):
    """What a tar contributes to its corpus's decisions.

    Attributes:
      pairs: fetched pairs.
      steps: score step -> pairs that all rules but the CLIP cut keep.
      pictures: [n] uint64 identities of the pictures of those pairs, where texts of a picture are compared.
      lengths: [n] int32 characters of their texts.
      numbers: [n] int32 their numbers in the tar.
    """

    pairs: int
    steps: dict[int, int]
    pictures: np.ndarray
    lengths: np.ndarray
    numbers: np.ndarray


def survey(file: Path, thresholds: Thresholds) -> Survey:
    """Reads texts and metadata of a tar; no picture is read where the metadata tells its size."""
    others = replace(thresholds, rules=tuple(rule for rule in thresholds.rules if rule != CLIP))
    steps: Counter[int] = Counter()
    rows: list[tuple[int, int, int]] = []
    pairs = 0
    for candidate in candidates(file, Counter()):
        pairs += 1
        if isinstance(candidate, Problem):
            continue
        kept, _ = judge(candidate.pair, others)
        if kept is None:
            continue
        if candidate.pair.score is not None and np.isfinite(candidate.pair.score):
            steps[score_step(candidate.pair.score)] += 1
        if thresholds.longest_text:
            rows.append((_identity(candidate), len(kept.text), candidate.sample.number))
    pictures = np.asarray([row[0] for row in rows], np.uint64)
    lengths, numbers = np.asarray([row[1:] for row in rows], np.int32).reshape(-1, 2).T
    return Survey(pairs, dict(steps), pictures, lengths, numbers)


def _identity(candidate: Candidate) -> int:
    """64 bits that two texts of one picture share: of its bytes' digest, else of its address, else of the sample."""
    known = candidate.known
    name = known.get("sha256") or known.get("url") or f"sample {candidate.sample.key}"
    return int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:8])


def shorter_texts(surveys: list[Survey]) -> dict[int, list[int]]:
    """Tar -> numbers of the pairs whose picture has a longer text elsewhere; of equals the first stays."""
    tars = np.concatenate([np.full(len(s.numbers), tar, np.int64) for tar, s in enumerate(surveys)])
    pictures = np.concatenate([s.pictures for s in surveys])
    lengths, numbers = np.concatenate([s.lengths for s in surveys]), np.concatenate([s.numbers for s in surveys])
    order = np.lexsort((numbers, tars, -lengths, pictures))
    repeated = np.zeros(len(order), bool)
    repeated[1:] = pictures[order][1:] == pictures[order][:-1]
    losers: dict[int, list[int]] = {}
    for position in order[repeated].tolist():
        losers.setdefault(int(tars[position]), []).append(int(numbers[position]))
    return losers


def select(
    file: Path,
    thresholds: Thresholds,
    shorter: Collection[int],
    counts: Counter[str],
    signatures: list[np.ndarray],
) -> Iterator[Entry | Problem]:
    """The kept pairs of a tar, with cleaned captions, and what was damaged. Every pair left out is counted; where
    near-duplicates are, the signature of every kept one is added."""
    for candidate in candidates(file, counts):
        if isinstance(candidate, Problem):
            counts[DAMAGED] += 1
            yield candidate
            continue
        sample, known, pair = candidate
        kept, reason = judge(pair, thresholds)
        if kept is None:
            counts[reason] += 1
        elif sample.number in shorter:
            counts[SHORTER] += 1
        else:
            try:
                pixels = decode_image(read_member(file, picture_of(sample)))
            except (OSError, ValueError) as error:
                counts[UNREADABLE] += 1
                yield Problem(str(file), sample.number, sentence(error))
                continue
            height, width, _ = pixels.shape
            try:
                # The picture itself tells its size: metadata may be of another one.
                entry, reasons = outline(file, sample, {**known, "width": width, "height": height})
                captions = (caption_question(kept.text),)
            except ValueError as error:
                counts[DAMAGED] += 1
                yield Problem(str(file), sample.number, str(error))
                continue
            yield from (Problem(str(file), sample.number, reason) for reason in reasons)
            if thresholds.near_duplicate_bits is not None:
                signatures.append(signature(pixels))
            yield entry._replace(outline=replace(entry.outline, captions=captions))
