"""The page of a report: headline scores, scores after each stage, gallery, losses and speed, as one HTML
text.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from qwenvl_jax.evaluation.cards import gallery_html
from qwenvl_jax.evaluation.charts import Line, line_chart
from qwenvl_jax.evaluation.elements import facts, html_page, lead, table
from qwenvl_jax.evaluation.elements import figures as headline_figures
from qwenvl_jax.evaluation.figures import HEADLINES, NAMES, TASK_LOSS, by_stage, end_mean, finite
from qwenvl_jax.evaluation.style import LINE_COLOURS
from qwenvl_jax.inference.drawing import COLOURS

COLUMNS: dict[str, tuple[str, Any]] = {
    "steps": ("steps", lambda value: f"{value:,}"),
    "minutes": ("minutes", lambda value: f"{value:.1f}"),
    "loss": ("loss", lambda value: f"{value:.3f}"),
    "samples_per_second": ("samples/s", lambda value: f"{value:,.1f}"),
    "tokens_per_second": ("tokens/s", lambda value: f"{value:,.0f}"),
    "padding": ("padding", lambda value: f"{100 * value:.1f} %"),
    "data_wait": ("data wait", lambda value: f"{100 * value:.1f} %"),
    "flops_per_second": ("GFLOP/s", lambda value: f"{value / 1e9:,.1f}"),
    "mfu": ("of peak", lambda value: f"{100 * value:.1f} %"),
}
"""Figure of a stage -> its heading, and how it is written."""
NONE = "–"


def report_html(
    figures: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]
) -> str:
    """The page. `figures` are those of `report.json`; see `evaluation.report` for the other two."""
    title = escape(str(figures["run"].get("name", "run")))
    weights = evaluations[-1].get("weights", {}) if evaluations else {}
    body = "".join(
        (
            f"<h1>{title}</h1>{lead('What the model learned, measured on pictures it has never seen.')}",
            facts({key: value for key, value in figures["run"].items() if key != "name"}),
            _headlines(figures["scores"], weights),
            _scores(figures["scores_by_stage"]),
            _gallery(evaluations),
            _losses(metrics),
            _speed(figures["training"]),
        )
    )
    return html_page(f"{figures['run'].get('name', 'run')} · report", body)


def _bar(percent: float) -> str:
    """A number with a bar of its length."""
    width = min(max(percent, 0), 100)
    return f'<td><div class="score">{percent:.1f}<i><b style="width:{width:.1f}%"></b></i></div></td>'


def _headlines(scores: Mapping[str, float], weights: Mapping[str, float]) -> str:
    boxes = []
    for key, (name, meaning) in HEADLINES.items():
        if key not in scores:
            continue
        number = f"{weights[key]:,.0f} " if key in weights else ""
        boxes.append((f"{100 * scores[key]:.1f}&#8202;%", name, f"{number}{meaning}"))
    return headline_figures(boxes)


def _scores(stages: Mapping[str, Mapping[str, float]]) -> str:
    if not stages:
        return ""
    keys = [key for key in NAMES if any(key in scores for scores in stages.values())]
    kinds = sorted({key for scores in stages.values() for key in scores if key not in NAMES})
    shown = table(stages, (_score_row(key, stages) for key in keys))
    if kinds:
        more = table(stages, (_score_row(key, stages) for key in kinds))
        shown += f"<details><summary>By kind of question</summary>{more}</details>"
    intro = lead("Held-out questions, fewer of them after the early stages; decoding is greedy.")
    return f'<h2>After each stage</h2>{intro}<div class="card">{shown}</div>'


def _score_row(key: str, stages: Mapping[str, Mapping[str, float]]) -> str:
    name, meaning = NAMES.get(key, (key.rpartition("_accuracy/")[2], ""))
    cells = [_bar(100 * scores[key]) if key in scores else f"<td>{NONE}</td>" for scores in stages.values()]
    small = f"<small>{meaning}</small>" if meaning else ""
    minor = "" if key in HEADLINES else ' class="minor"'
    return f"<tr{minor}><th>{escape(name)}{small}</th>{''.join(cells)}</tr>"


def _gallery(evaluations: Sequence[Mapping[str, Any]]) -> str:
    shown = next((entry for entry in reversed(evaluations) if entry["gallery"]), None)
    if shown is None:
        return ""
    stage = escape(shown["stage"])
    intro = lead(f"Held-out pictures after stage {stage}: the first of each kind, not the best.")
    key = (
        f'<ul class="key"><li><span class="swatch" style="color:{COLOURS[0]}"></span>predicted</li>'
        '<li><span class="swatch dashed"></span>true</li></ul>'
    )
    return f"<h2>What it sees</h2>{intro}{key}{gallery_html(shown['gallery'])}"


def _losses(metrics: Sequence[Mapping[str, Any]]) -> str:
    tasks = list(dict.fromkeys(key for line in metrics for key in line if key.startswith(TASK_LOSS)))
    styles = {task: f"c{i % len(LINE_COLOURS)}" for i, task in enumerate(tasks)}
    charts = []
    for stage, lines in by_stage(metrics).items():
        total = _curve("loss", "all", "total", lines)
        curves = [_curve(task, task.removeprefix(TASK_LOSS), styles[task], lines) for task in tasks]
        # A stage of one task shows one line: the task's loss is the loss.
        curves = [curve for curve in curves if curve.ys] if sum(bool(curve.ys) for curve in curves) > 1 else []
        names = "".join(_curve_name(curve) for curve in (total, *curves) if curve.ys)
        chart = line_chart([*curves, total], f"Loss of stage {stage}")
        charts.append(f'<div class="card"><h3>{escape(stage)}</h3>{chart}<ul class="key">{names}</ul></div>')
    if not charts:
        return ""
    intro = lead("Cross-entropy per learned token over the steps of each stage, with its value at the end.")
    return f'<h2>Loss</h2>{intro}<div class="grid wide">{"".join(charts)}</div>'


def _curve(key: str, name: str, style: str, lines: Sequence[Mapping[str, Any]]) -> Line:
    points = [(line["step"], line[key]) for line in lines if finite(line.get(key))]
    return Line(name, [x for x, _ in points], [y for _, y in points], style)


def _curve_name(curve: Line) -> str:
    swatch = f'<span class="swatch {curve.style}"></span>'
    return f"<li>{swatch}{escape(curve.name)}<output>{end_mean(curve.ys):.3f}</output></li>"


def _speed(training: Mapping[str, Mapping[str, Any]]) -> str:
    if not training:
        return ""
    keys = [key for key in COLUMNS if any(key in figures for figures in training.values())]
    rows = []
    for stage, figures in training.items():
        values = [COLUMNS[key][1](figures[key]) if key in figures else NONE for key in keys]
        cells = "".join(f'<td class="number">{value}</td>' for value in values)
        rows.append(f"<tr><th>{escape(stage)}</th>{cells}</tr>")
    intro = lead(
        "Typical figures of a step. Padding is the share of positions that hold nothing, data wait the share "
        "of time in which the device had no batch."
    )
    shown = table((COLUMNS[key][0] for key in keys), rows, numbers=len(keys))
    return f'<h2>Speed</h2>{intro}<div class="card">{shown}{_flops(training)}</div>'


def _flops(training: Mapping[str, Mapping[str, Any]]) -> str:
    shares = {stage: figures["flops"] for stage, figures in training.items() if "flops" in figures}
    if not shares:
        return ""
    parts = list(dict.fromkeys(part for parts in shares.values() for part in parts))
    rows = [
        f"<tr><th>{escape(stage)}</th>{''.join(_bar(100 * found.get(part, 0)) for part in parts)}</tr>"
        for stage, found in shares.items()
    ]
    return f"<details open><summary>Share of the FLOPs in percent</summary>{table(parts, rows)}</details>"
