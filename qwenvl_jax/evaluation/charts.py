"""Line charts and histograms as inline SVG: no script, no font, and colours that follow the page's light or dark style."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 24
POINTS = 100
"""Points of a line; more samples are averaged in bins, which smooths as well."""
LOG_RATIO = 8
"""A chart whose values span more than this ratio gets a logarithmic axis."""


@dataclass(frozen=True)
class Line:
    """A line of a chart: `style` is a CSS class, `total` or `c0` .. `c9`."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: str


def thin(xs: Sequence[float], ys: Sequence[float], points: int = POINTS) -> list[tuple[float, float]]:
    """At most `points` points, each the mean of an equal share of the samples; not-finite samples are left
    out.
    """
    kept = [(x, y) for x, y in zip(xs, ys) if math.isfinite(x) and math.isfinite(y)]
    edges = [len(kept) * i // points for i in range(points + 1)] if len(kept) > points else range(len(kept) + 1)
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
        for part in (kept[begin:end] for begin, end in itertools.pairwise(edges))
    ]


def linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) in [low, high], at most `most` of them."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) <= most - 1)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten in [low, high]; the powers alone where that is more than two
    decades.
    """
    factors = (1, 2, 5) if high / low <= 200 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]


def line_chart(lines: Sequence[Line], title: str) -> str:
    """An `<svg>` element; empty where no line has a finite point. Later lines lie above earlier ones.

    Args:
      lines: of positive values where the axis is to be logarithmic, which the values decide.
      title: what screen readers say.
    """
    drawn = [(line, thin(line.xs, line.ys)) for line in lines]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        return ""
    ys = [y for _, points in drawn for _, y in points]
    last = max(x for line, _ in drawn for x in line.xs) or 1
    logarithmic = min(ys) > 0 and max(ys) / min(ys) > LOG_RATIO
    low, high = (min(ys), max(ys)) if logarithmic else (min(0.0, *ys), max(ys))
    if high <= low:
        high = low + 1
    ticks = log_ticks(low, high) if logarithmic else linear_ticks(low, high)

    def place_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / last

    def place_y(y: float) -> float:
        share = math.log(y / low) / math.log(high / low) if logarithmic else (y - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y in ticks:
        at = place_y(y)
        parts.append(f'<line class="tick" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{y:g}</text>')
    for x in linear_ticks(0, last):
        anchor = "end" if place_x(x) > WIDTH - 30 else "middle"
        parts.append(f'<text x="{place_x(x):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{x:,.0f}</text>')
    for line, points in drawn:
        path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="{line.style}" points="{path}"/>')
    return "".join((*parts, "</svg>"))


def bar_chart(counts: Sequence[float], edges: Sequence[float], title: str) -> str:
    """A histogram as an `<svg>` element; empty without counts.

    Args:
      counts: of n bins.
      edges: n + 1 ascending borders.
      title: what screen readers say.
    """
    if not any(counts):
        return ""
    highest, first, last = max(counts), edges[0], edges[-1]

    def place_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - first) / (last - first)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y in linear_ticks(0, highest):
        at = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / highest
        parts.append(f'<line class="tick" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{y:g}</text>')
    for x in linear_ticks(first, last):
        anchor = "end" if place_x(x) > WIDTH - 30 else "middle"
        parts.append(f'<text x="{place_x(x):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{x:,g}</text>')
    for count, (begin, end) in zip(counts, itertools.pairwise(edges)):
        height = (HEIGHT - TOP - BOTTOM) * count / highest
        x, width = place_x(begin), max(0.5, place_x(end) - place_x(begin) - 1)
        parts.append(
            f'<rect class="bin" x="{x:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
        )
    return "".join((*parts, "</svg>"))
