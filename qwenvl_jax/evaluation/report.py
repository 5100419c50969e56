"""`report.html` and `report.json`: what a run learned, in numbers and pictures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenvl_jax.evaluation.figures import report_figures
from qwenvl_jax.evaluation.page import report_html


def write_report(
    folder: Path,
    metrics: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
) -> Path:
    """Writes `report.html` (one file without script or network) and `report.json` (the same figures).

    Args:
      folder: of the run.
      metrics: the lines of `metrics.jsonl`.
      evaluations: of each stage in order, as `qwenvl_jax.evaluation.benchmarks.stage_evaluation` makes them:
        `stage`, `scores`, `weights` (how many examples a score is the mean of) and `gallery`.
      run: facts of the run by name, shown in this order; `name` is the title.

    Returns:
      The path of `report.html`.
    """
    figures = report_figures(metrics, evaluations, run)
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    path = folder / "report.html"
    path.write_text(report_html(figures, metrics, evaluations), encoding="utf-8")
    return path
