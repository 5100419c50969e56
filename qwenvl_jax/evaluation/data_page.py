"""The page of `qwenvl data inspect`: what a stage would train on, as one HTML text.

It is given the plain values of `data_pipelines.inspection`, which this floor does not import. Everything that comes
from data is escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from qwenvl_jax.evaluation.cards import data_url, polygon
from qwenvl_jax.evaluation.charts import bar_chart
from qwenvl_jax.evaluation.elements import facts, figures, html_page, lead, table
from qwenvl_jax.inference.drawing import find_marks

OVERLAY_SIDE = 1000
"""Side of the square that marks are drawn on; it is stretched over the picture."""

Values = Mapping[str, Any]


def data_page(title: str, stages: Sequence[Values]) -> str:
    """The page. `stages` are those of `data_pipelines.inspection.inspect_stage`."""
    body = f"<h1>{escape(title)}</h1>{lead('What would be trained on, before anything is.')}"
    return html_page(f"{title} · data", body + "".join(_stage(stage, len(stages) > 1) for stage in stages))


def _stage(stage: Values, named: bool) -> str:
    shape = stage["shape"]
    head = f"<h2>Stage {escape(stage['stage'])}</h2>" if named else ""
    row = f"{shape['tokens']:,} tokens and {shape['vision']}"
    given = {"steps": f"{shape['steps']:,}", "rows of a batch": f"{shape['rows']:,}", "a row": row}
    return "".join(
        (
            head,
            facts(given),
            figures(_headlines(stage)),
            f"<h3 class='section'>Mixture</h3>{_mixture(stage['components'])}",
            _section("Tokens of a sample", "", _histograms(stage["tokens"])),
            *(_sizes(name, found) for name, found in stage["sizes"].items() if found["pictures"]),
            _samples(stage["samples"]),
            _problems(stage),
        )
    )


def _headlines(stage: Values) -> Iterator[tuple[str, str, str]]:
    components, used = stage["components"], stage["efficiency"]
    usable = sum(c["samples"] for c in components)
    yield f"{usable:,}", "samples", f"of {stage['records']:,} records, up to one for each task"
    yield f"{100 * used['tokens']:.1f}&#8202;%", "of the tokens", "hold something after packing"
    if "vision" in used:
        yield f"{100 * used['vision']:.1f}&#8202;%", f"of {stage['shape']['vision']}", "are in use"
    yield f"{stage['samples_per_row']:.1f}", "samples in a row", f"{stage['shape']['rows']:,} rows in a batch"
    longest = max(components, key=lambda c: c["epoch"])
    yield f"{longest['epoch']:,.0f}", "steps", f"until every sample of {escape(longest['source'])} was read once"
    bad, decoded = stage["problems"]["count"], stage["decoded"]
    yield f"{bad:,}", "unreadable", f"entries; {decoded['failed']} of {decoded['tried']} pictures tried did not decode"


def _mixture(components: Sequence[Values]) -> str:
    heads = ("share", "records", "samples", "tokens", "vision", "shortened", "passes", "left out")
    rows = []
    for c in components:
        left = "; ".join(f"{count:,} {reason}" for reason, count in c["left_out"].items()) or "–"
        numbers = (
            f"{100 * c['share']:.1f} %", f"{c['records']:,}", f"{c['samples']:,}", f"{c['tokens']:.0f}",
            f"{c['vision']:.1f}", f"{c['shortened']:,}", f"{c['passes']:.2f}",
        )  # fmt: skip
        cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
        name = f"<th>{escape(c['task'])}<small>{escape(c['source'])}</small></th>"
        rows.append(f"<tr>{name}{cells}<td>{escape(left)}</td></tr>")
    explained = (
        "Tokens and vision (pictures, or patches) are means per sample; passes is how often the stage reads each sample. "
        "Efficiency and samples per row are those of the packing plan's first windows."
    )
    return f'{lead(explained)}<div class="card">{table(heads, rows, numbers=len(heads) - 1)}</div>'


def _section(title: str, explained: str, body: str) -> str:
    return f'<h3 class="section">{escape(title)}</h3>{lead(escape(explained)) if explained else ""}{body}'


def _histograms(found: Mapping[str, Values]) -> str:
    charts = (
        f'<div class="card"><h3>{escape(name)}</h3>{bar_chart(h["counts"], h["edges"], name)}</div>'
        for name, h in found.items()
    )
    return f'<div class="grid">{"".join(charts)}</div>'


def _sizes(name: str, found: Values) -> str:
    charts = {title: h for title, h in found.items() if title != "pictures"}
    return _section(f"Pictures of {name}", f"{found['pictures']:,} pictures, evenly spread.", _histograms(charts))


def _samples(samples: Sequence[Values]) -> str:
    if not samples:
        return ""
    explained = "The first, the middle and the last usable sample of each component; what is learned is marked."
    return _section("Samples", explained, f'<div class="grid wide">{"".join(map(_sample, samples))}</div>')


def _sample(sample: Values) -> str:
    text = "".join(part.get("text", "") for part in sample["parts"])
    marks = [polygon(mark, OVERLAY_SIDE, OVERLAY_SIDE, "said") for mark in find_marks(text)]
    size = f"0 0 {OVERLAY_SIDE} {OVERLAY_SIDE}"
    drawn = f'<svg viewBox="{size}" preserveAspectRatio="none" aria-hidden="true">{"".join(marks)}</svg>'
    shots = [
        f'<figure><div class="shot"><img alt="" loading="lazy" src="{data_url(picture)}">'
        # Which of several pictures a box means is not told by its markup: drawn where there is no doubt.
        f"{drawn if len(sample['pictures']) == 1 else ''}</div></figure>"
        for picture in sample["pictures"]
    ]
    parts = "".join(map(_part, sample["parts"]))
    return (
        f'<article class="card"><h3>{escape(sample["component"])}</h3><div class="shots">{"".join(shots)}</div>'
        f'<p class="said-text">{parts}</p>'
        f'<p class="ask">record {sample["record"]:,}, {sample["tokens"]:,} tokens</p></article>'
    )


def _part(part: Values) -> str:
    if "picture" in part:
        return f'<span class="picture">picture {part["picture"] + 1}</span>'
    text = escape(part["text"])
    return f'<span class="learned">{text}</span>' if part["learned"] else text


def _problems(stage: Values) -> str:
    found = stage["problems"]
    if not found["count"]:
        return _section("Unreadable records", "None was found.", "")
    reasons = (
        f'<tr><th>{escape(reason)}</th><td class="number">{count:,}</td></tr>' for reason, count in found["reasons"]
    )
    first = (
        f'<tr><th>{escape(file)}</th><td class="number">{index:,}</td><td>{escape(reason)}</td></tr>'
        for file, index, reason in found["first"]
    )
    return _section(
        "Unreadable records",
        "The most frequent reasons, and the first records.",
        f'<div class="card">{table(("entries",), reasons, "reason", numbers=1)}'
        f"<details><summary>The first {len(found['first'])}</summary>"
        f"{table(('entry', 'reason'), first, 'source')}</details></div>",
    )
