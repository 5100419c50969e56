"""The elements that all our pages are made of: the page itself, leads, tables, facts and headline figures."""

from collections.abc import Iterable, Mapping
from html import escape
from itertools import chain, repeat

from qwenvl_jax.evaluation.style import STYLE


def html_page(title: str, body: str) -> str:
    """A whole page without script or network; `body` is HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def lead(text: str) -> str:
    """The sentence below a heading; `text` is HTML."""
    return f'<p class="lead">{text}</p>'


def facts(values: Mapping[str, object]) -> str:
    """Names and values in a line."""
    items = "".join(
        f"<div><dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd></div>" for key, value in values.items()
    )
    return f'<dl class="facts">{items}</dl>'


def table(heads: Iterable[str], rows: Iterable[str], corner: str = "", numbers: int = 0) -> str:
    """Rows are HTML; the first column has `corner` as its head. So many of the others as `numbers` are set to the right."""
    kinds = chain(repeat(' class="number"', numbers), repeat(""))
    cells = "".join(f"<th{kind}>{escape(head)}</th>" for head, kind in zip(heads, kinds))
    return (
        f'<div class="scroll"><table><thead><tr><th>{corner}</th>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def figures(boxes: Iterable[tuple[str, str, str]]) -> str:
    """Headline figures: value, name and meaning, all HTML."""
    shown = "".join(
        f"<div><strong>{value}</strong><b>{name}</b><span>{meaning}</span></div>" for value, name, meaning in boxes
    )
    return f'<section class="figures">{shown}</section>' if shown else ""
