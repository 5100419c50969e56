"""The funnel of a cleaning: how many pairs, or pages, each rule took, as table, JSON and picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape

from data_pipelines.cleaning.pages import PAGE_REASONS
from data_pipelines.cleaning.thresholds import TAGS, WEB_RULES

NOT_FETCHED = "not fetched from the web"
DAMAGED = "entry damaged or without caption"
SHORTER = "another text of the same picture is longer"
UNREADABLE = "picture cannot be decoded"
NEAR_DUPLICATE = "near-duplicate of an earlier picture"
ORDER = (NOT_FETCHED, DAMAGED, TAGS, *WEB_RULES, SHORTER, UNREADABLE, NEAR_DUPLICATE, *PAGE_REASONS)
"""Reasons in the order in which they are asked: those of pairs, then those of pages."""
PAIRS, PAGES = "pairs", "pages"

WIDTH, BAR, LINE, LEFT = 760, 380, 26, 300


@dataclass(frozen=True)
class Funnel:
    """What became of a corpus's pairs, or pages.

    Attributes:
      corpus: name of `data_pipelines.cleaning.thresholds.CORPORA`, or `pdf`.
      rejected: reason -> pairs, in the order of `ORDER`.
      kept: pairs that became records.
      clip_cut: least CLIP score, or None.
      published: share that the paper kept of this corpus, or None.
      unit: what is counted, `PAIRS` or `PAGES`.
    """

    corpus: str
    rejected: Mapping[str, int]
    kept: int
    clip_cut: float | None
    published: float | None
    unit: str = PAIRS

    @property
    def fetched(self) -> int:
        """Pairs whose picture was fetched: what shares are of, as keep rates are."""
        return self.kept + sum(count for reason, count in self.rejected.items() if reason != NOT_FETCHED)

    @property
    def keep_rate(self) -> float:
        """Share of the fetched pairs that was kept."""
        return self.kept / self.fetched if self.fetched else 0.0

    def steps(self) -> list[tuple[str, int, int]]:
        """Reason, pairs rejected and pairs left behind it, for each reason that took any."""
        left = self.kept + sum(self.rejected.values())
        found = []
        for reason, count in self.rejected.items():
            left -= count
            found.append((reason, count, left))
        return found


def make_funnel(
    corpus: str,
    counts: Mapping[str, int],
    kept: int,
    clip_cut: float | None = None,
    published: float | None = None,
    unit: str = PAIRS,
) -> Funnel:
    """The funnel with reasons in their order; reasons that took nothing are left out."""
    rejected = {reason: counts[reason] for reason in ORDER if counts.get(reason)}
    return Funnel(corpus, rejected, kept, clip_cut, published, unit)


def funnel_table(funnel: Funnel) -> str:
    """The funnel as Markdown."""
    lines = [
        f"| {funnel.corpus} | rejected | left | share |",
        "|---|--:|--:|--:|",
        f"| {funnel.unit} | | {funnel.kept + sum(funnel.rejected.values()):,} | |",
    ]
    for reason, count, left in funnel.steps():
        share = "" if reason == NOT_FETCHED else f"{left / funnel.fetched:.1%}"
        lines.append(f"| {reason} | {count:,} | {left:,} | {share} |")
    lines.append(f"| **kept** | | **{funnel.kept:,}** | **{funnel.keep_rate:.1%}** |")
    return "\n".join(lines) + "\n"


def funnel_svg(funnels: Sequence[Funnel]) -> str:
    """The funnels below each other as one SVG: a bar for what is left behind each rule."""
    parts: list[str] = []
    y = 8
    for funnel in funnels:
        total = max(1, funnel.kept + sum(funnel.rejected.values()))
        parts.append(f'<text x="8" y="{y + 18}" font-weight="600">{escape(funnel.corpus)}</text>')
        y += LINE + 4
        for reason, count, left in [(funnel.unit, 0, total), *funnel.steps()]:
            minus = f"  (−{count:,})" if count else ""
            parts.append(
                f'<text x="{LEFT - 12}" y="{y + 15}" text-anchor="end">{escape(reason)}</text>'
                f'<rect x="{LEFT}" y="{y}" width="{BAR}" height="{LINE - 6}" fill="#eeebe4"/>'
                f'<rect x="{LEFT}" y="{y}" width="{BAR * left / total:.1f}" height="{LINE - 6}" fill="#4e79a7"/>'
                f'<text x="{LEFT + 6}" y="{y + 15}" class="on">{left:,}{minus}</text>'
            )
            y += LINE
        y += LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}">'
        "<style>text { font: 13px sans-serif; fill: #1d1c1a } .on { paint-order: stroke; stroke: #fff; "
        "stroke-width: 3px }</style>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def funnel_json(funnel: Funnel) -> dict:
    """The funnel as plain values."""
    return {**asdict(funnel), "fetched": funnel.fetched, "keep_rate": funnel.keep_rate}
