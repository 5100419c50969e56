"""One answer from several annotators (paper, appendix A.2: VQAv2 keeps the answer of maximum confidence)."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

CONFIDENCE = {"yes": Fraction(1), "maybe": Fraction(1, 2), "no": Fraction(0)}
"""What an annotator's own confidence counts. The paper says "maximum confidence" without weights; these are ours."""


def most_confident(answers: Sequence[Mapping[str, Any]]) -> str:
    """The answer with the largest sum of confidence; of equals the more frequent, then the first given.

    Args:
      answers: each with `answer` and `answer_confidence`, as VQAv2 and OK-VQA give ten of them.

    Raises:
      ValueError: there is no answer.
    """
    sums: dict[str, list[Fraction]] = {}
    for item in answers:
        text = str(item["answer"]).strip()
        if text:
            confidence = CONFIDENCE.get(str(item.get("answer_confidence", "yes")), Fraction(0))
            sums.setdefault(text, []).append(confidence)
    if not sums:
        raise ValueError("a question has no answer")
    return max(sums, key=lambda text: (sum(sums[text]), len(sums[text])))


def most_frequent(answers: Sequence[str]) -> str:
    """The answer given most often, the first of equals. Capitals make no other answer: TextVQA's ten differ in them.

    Raises:
      ValueError: there is no answer.
    """
    counts: dict[str, list[str]] = {}
    for answer in answers:
        if answer.strip():
            counts.setdefault(answer.strip().lower(), []).append(answer.strip())
    if not counts:
        raise ValueError("a question has no answer")
    return max(counts.values(), key=len)[0]
