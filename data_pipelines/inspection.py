"""What a stage would train on, as plain values: counts, histograms, samples with their learned parts, bad records.

Everything is computed from what the loader would use: the same components, the same packing plan. Pictures are only
decoded for the samples that are shown and for a sample of each source that estimates how many cannot be decoded.
"""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image as Picture

from data_pipelines.components import Samples
from data_pipelines.loader import DataDescription, describe, open_loader
from data_pipelines.patch_rows import PICTURES
from data_pipelines.reading import read_record
from data_pipelines.sources.source import Problem, RecordSource
from data_pipelines.tasks import Task, tasks_of
from qwenvl_jax.config import Run, Stage
from qwenvl_jax.processing.images import decode_image
from qwenvl_jax.processing.sample import Image, Sample, Text, Video

SIZED_RECORDS = 2000
"""Records of a source whose pictures' sizes are counted, evenly spread."""
DECODED_RECORDS = 50
"""Records of a source whose pictures are decoded, evenly spread."""
SHOWN_SAMPLES = 3
"""Samples of a component that are shown: the first, the middle and the last usable record."""
SHOWN_PROBLEMS = 20
SHOWN_SIDE = 480
"""Pixels of the longer side of a shown picture."""
SHOWN_TEXT = 1200
"""Characters of a shown text; a longer one says how much is left out."""
PATCH = 14
"""Pixels of a patch's side in both models."""
BINS = 24


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of 0 .. count - 1, evenly spread, with both ends."""
    wanted = min(count, wanted)
    return [round(i * (count - 1) / max(1, wanted - 1)) for i in range(wanted)]


def inspect_stage(run: Run, stage: Stage) -> dict[str, Any]:
    """Everything that is shown of a stage; plain values that JSON could hold.

    Raises:
      ValueError: the data cannot be used (see `open_components`).
    """
    # However much of it is bad: that is what one looks for here.
    run = replace(run, data=replace(run.data, max_bad_share=1.0, workers=0))
    with open_loader(run, stage) as loader:
        described, components = describe(loader), loader.components
    tasks = {**PICTURES, **tasks_of(run.model)}
    sources = {id(samples.source): samples.source for samples in components}
    decoded = [decodable(source) for source in sources.values()]
    return {
        "stage": stage.name,
        "shape": {
            "rows": stage.rows, "tokens": stage.sequence_length, "vision": vision_of(stage),
            "steps": stage.steps,
        },
        "efficiency": {"tokens": described.efficiency.tokens}
        | ({"vision": described.efficiency.vision} if stage.vision_per_row else {}),
        "samples_per_row": described.samples_per_row,
        "records": sum(map(len, sources.values())),
        "components": [component(stage, described, number) for number in range(len(components))],
        "tokens": {_name(s): histogram(s.tokens) for s in components},
        "sizes": {source.name: sizes(source) for source in sources.values()},
        "samples": [shown for samples in components for shown in shown_samples(samples, tasks)],
        "decoded": {"tried": sum(tried for tried, _ in decoded), "failed": sum(len(bad) for _, bad in decoded)},
        "problems": problems(components, [problem for _, bad in decoded for problem in bad]),
    }  # fmt: skip


def vision_of(stage: Stage) -> str:
    """A row's room for images and videos, in words."""
    if stage.images_per_row:
        return f"{stage.images_per_row} pictures of {stage.resolution} pixels"
    return f"{stage.patches_per_row:,} patches" if stage.patches_per_row else "no pictures"


def _name(samples: Samples) -> str:
    return f"{samples.component.task} · {samples.component.source}"


def component(stage: Stage, described: DataDescription, number: int) -> dict[str, Any]:
    """A line of the mixture in numbers; `passes` is how often the stage reads each sample, `epoch` how many steps of
    the whole mixture read each of its samples once."""
    found = described.components[number]
    per_step = stage.rows * described.samples_per_row * found.share
    return {
        **found._asdict(),
        "passes": stage.steps * per_step / found.samples,
        "epoch": found.samples / per_step,
    }


def histogram(values: np.ndarray) -> dict[str, list[float]]:
    """Counts in equal bins from 0 to the largest value."""
    counts, edges = np.histogram(values, BINS, (0, max(1, int(values.max(initial=1)))))
    return {"counts": counts.tolist(), "edges": edges.tolist()}


def sizes(source: RecordSource) -> dict[str, Any]:
    """Histograms of the pictures' shorter sides, aspect ratios and patches, of a sample of the records."""
    sides = []
    for index in spread(len(source), SIZED_RECORDS):
        try:
            sides += [(image.width, image.height) for image in source.outline(index).images]
        except ValueError:
            continue  # counted among the problems
    if not sides:
        return {"pictures": 0}
    found = np.asarray(sides, np.int64)
    patches = -(-found // PATCH)
    return {
        "pictures": len(found),
        "shorter side in pixels": histogram(found.min(1)),
        "longer over shorter side": histogram(found.max(1) / found.min(1)),
        f"patches of {PATCH} x {PATCH} pixels at native size": histogram(patches.prod(1)),
    }


def decodable(source: RecordSource) -> tuple[int, list[Problem]]:
    """How many records were tried, and which of them have a picture that cannot be read or decoded."""
    bad = []
    tried = spread(len(source), DECODED_RECORDS)
    for index in tried:
        try:
            for image in read_record(source, index).images:
                decode_image(image.data)
        except ValueError as error:
            bad.append(Problem(source.name, index, str(error)))
    return len(tried), bad


def problems(components: Sequence[Samples], undecoded: Sequence[Problem]) -> dict[str, Any]:
    """Reasons with their counts, and the first records of each kind of reason."""
    found = [*dict.fromkeys(problem for samples in components for problem in samples.problems), *undecoded]
    reasons = Counter(problem.reason for problem in found)
    return {
        "count": len(found),
        "reasons": [[reason, count] for reason, count in reasons.most_common(SHOWN_PROBLEMS)],
        "first": [[p.file, p.index, p.reason] for p in found[:SHOWN_PROBLEMS]],
    }


def shown_samples(samples: Samples, tasks: Mapping[str, Task]) -> list[dict[str, Any]]:
    """Samples of a component: pictures as base64 JPEG, and the parts of the text with what is learned."""
    shown = []
    for position in spread(len(samples.records), SHOWN_SAMPLES):
        index = int(samples.records[position])
        try:
            sample = tasks[samples.component.task](read_record(samples.source, index))
            if sample is not None:
                shown.append(
                    {
                        "component": _name(samples),
                        "record": index,
                        "tokens": int(samples.tokens[position]),
                        "pictures": [_small(data) for data in sample.images],
                        "parts": _parts(sample),
                    }
                )
        except ValueError:
            continue  # it is counted where all records are tried
    return shown


def _small(data: bytes) -> str:
    picture = Picture.fromarray(decode_image(data))
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()


def _parts(sample: Sample) -> list[dict[str, Any]]:
    """Text with whether it is learned, or the number of a picture, in order."""
    parts: list[dict[str, Any]] = []
    left = SHOWN_TEXT
    for part in sample.parts:
        if isinstance(part, Image):
            parts.append({"picture": part.index})
        elif isinstance(part, Video):
            parts.append({"text": f"[video {part.index + 1}]", "learned": False})
        elif isinstance(part, Text) and left > 0:
            text = part.text[:left]
            left -= len(part.text)
            missing = len(part.text) - len(text)
            more = f" … {missing:,} more characters" if missing else ""
            parts.append({"text": text + more, "learned": part.supervised})
    return parts
