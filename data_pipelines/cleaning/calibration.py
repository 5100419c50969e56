"""The CLIP cut that makes a corpus's keep rate come out.

Scores of the pairs that all other rules keep are counted in steps; counts of parts of a corpus add up to those of the
whole, so they can be made anywhere and merged.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from data_pipelines.cleaning.rules import SCORE_STEPS

Key = TypeVar("Key")


class Cut(NamedTuple):
    """A CLIP cut (None: none is needed or possible) and the pairs that it keeps."""

    score: float | None
    kept: int


def calibrate(steps: Mapping[int, int], total: int, keep_rate: float) -> Cut:
    """The highest cut that keeps at least `keep_rate` of all pairs.

    Args:
      steps: score step -> pairs that all other rules keep.
      total: pairs of the corpus, before any rule.
      keep_rate: in [0, 1].

    Returns:
      Where the other rules leave fewer pairs than wanted, no cut, and the pairs that are left.
    """
    wanted = keep_rate * total
    kept = 0
    for step in sorted(steps, reverse=True):
        kept += steps[step]
        if kept >= wanted:
            return Cut(step / SCORE_STEPS, kept)
    return Cut(None, kept)


def merge(parts: Iterable[Mapping[Key, int]]) -> Counter[Key]:
    """The counts of all parts together."""
    total: Counter[Key] = Counter()
    for part in parts:
        total.update(part)
    return total
