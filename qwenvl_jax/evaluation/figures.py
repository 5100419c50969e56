"""The figures of a report: names of the scores, and what the lines of `metrics.jsonl` come to."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

HEADLINES: dict[str, tuple[str, str]] = {
    "vqa_accuracy": ("Answering", "questions on a scene, exact answer"),
    "caption_exact": ("Describing", "captions, right to the last letter"),
    "refer_iou50": ("Finding", "objects to find, box with IoU ≥ 0.5"),
    "ocr_exact": ("Reading", "words to read, each exact"),
    "chat_accuracy": ("Comparing", "questions on several pictures, exact answer"),
    "small_print_exact": ("Small print", "lines of small print, each exact"),
    "video_accuracy": ("Watching", "questions on motion and order, exact answer"),
    "agent_success": ("Acting", "whole tasks of several steps, solved"),
}
"""Score -> its short name, and what it is the share of. A run is judged by these."""
EXTRAS: dict[str, tuple[str, str]] = {
    "refer_mean_iou": ("Finding: mean overlap", "objects to find, IoU of the box"),
    "grounded_caption_iou50": ("Describing with boxes", "objects to name and place, IoU ≥ 0.5"),
    "caption_zh_exact": ("Describing in Chinese", "captions, right to the last character"),
    "ocr_quad_iou50": ("Reading with corners", "lines to read and place, IoU ≥ 0.5"),
    "small_print_low_exact": ("Small print at low resolution", "the same lines, in pictures of 56 x 56 pixels"),
    "ocr_vqa_accuracy": ("Answering on text", "questions on a document, exact answer"),
    "chat_refer_iou50": ("Finding in conversation", "objects in one of several pictures, IoU ≥ 0.5"),
}
NAMES = HEADLINES | EXTRAS
"""All scores, in the order of a report."""
FLOPS = "flops/"
TASK_LOSS = "loss/"
RATES = ("samples_per_second", "tokens_per_second", "flops_per_second", "mfu")
SHARES = ("padding", "data_wait")


def training_summary(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Stage -> `steps`, `minutes` of steps, losses at the end, and typical figures of a step.

    Rates are medians over the stage's lines (the first ones may hold compilation), shares are means; null and
    missing figures are left out. `flops` is the share of each part in a step's FLOPs.
    """
    summary: dict[str, dict[str, Any]] = {}
    for stage, lines in by_stage(metrics).items():
        keys = dict.fromkeys(key for line in lines for key in line)
        figures: dict[str, Any] = {"steps": lines[-1]["step"]}
        if seconds := _figures(["step_seconds"], lines, fmean):
            figures["minutes"] = seconds["step_seconds"] * lines[-1]["step"] / 60
        losses = [key for key in keys if key == "loss" or key.startswith(TASK_LOSS)]
        figures |= _figures(losses, lines, end_mean)
        figures |= _figures(RATES, lines, median)
        figures |= _figures(SHARES, lines, fmean)
        parts = _figures([key for key in keys if key.startswith(FLOPS)], lines, fmean)
        if total := sum(parts.values()):
            figures["flops"] = {key.removeprefix(FLOPS): value / total for key, value in parts.items()}
        summary[stage] = figures
    return summary


def _figures(
    keys: Iterable[str], lines: Sequence[Mapping[str, Any]], mean: Callable[[list[float]], float]
) -> dict[str, float]:
    found = {key: [line[key] for line in lines if finite(line.get(key))] for key in keys}
    return {key: mean(values) for key, values in found.items() if values}


def finite(value: Any) -> bool:
    """Whether a figure of a line is a number (it is null where it was not finite)."""
    return isinstance(value, int | float) and math.isfinite(value)


def end_mean(values: Sequence[float]) -> float:
    """The mean of the last twentieth, of the last value at least."""
    return fmean(values[-max(1, len(values) // 20) :])


def by_stage(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The lines of each stage in order of their steps; of two lines of a step the last counts."""
    steps: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in metrics:
        steps.setdefault(line["stage"], {})[line["step"]] = line
    return {stage: [lines[step] for step in sorted(lines)] for stage, lines in steps.items()}


def report_figures(
    metrics: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], run: Mapping[str, Any]
) -> dict[str, Any]:
    """What `report.json` holds: `scores` after the last stage, `scores_by_stage`, `training` and `run`."""
    return {
        "run": dict(run),
        "scores": _ordered(evaluations[-1]["scores"]) if evaluations else {},
        "scores_by_stage": {entry["stage"]: _ordered(entry["scores"]) for entry in evaluations},
        "training": training_summary(metrics),
    }


def _ordered(scores: Mapping[str, float]) -> dict[str, float]:
    known = {key: scores[key] for key in NAMES if key in scores}
    return known | {key: scores[key] for key in sorted(scores) if key not in known}
