"""Scores of single answers: pure functions of the predicted and the true text or box.

Sources are the scripts below `eval_mm/` of the original repository; where a script has a quirk that moves
published numbers, the function keeps it and says so. The official VQA score is in
`qwenvl_jax.evaluation.vqa_score`.
"""

import re
from collections import Counter
from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2: left, top, right, bottom. Any unit, as long as both boxes share it."""

NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)
"""What an answer without a readable box counts as (`evaluate_grounding.py`): no true box overlaps it."""

REFCOCO_SCALE = 999
"""`evaluate_grounding.py` divides coordinates by 999, although boxes are drawn by 1000."""

FIRST_BOX = re.compile(r"\((.*?)\),\((.*?)\)")


def exact_match(predicted: str, true: str) -> bool:
    """Equal after both are stripped of outer white space (`evaluate_caption` of the embedded world)."""
    return predicted.strip() == true.strip()


def vqa_match(predicted: str, true: str) -> bool:
    """Equal after strip and lower-case: `evaluate_exact_match_accuracy` of `evaluate_vqa.py`, for one true
    answer.
    """
    return predicted.strip().lower() == true.strip().lower()


def box_iou(first: Box, second: Box) -> float:
    """Area of the intersection over area of the union, in [0, 1]; 0 where both boxes are empty.

    A box whose corners are swapped has no area. Scaling an axis of both boxes changes nothing.
    """
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    union = _area(first) + _area(second) - intersection
    # Areas near the smallest float underflow; the clamp keeps rounding inside the promised range.
    return min(intersection / union, 1.0) if union > 0 else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def precision_at_iou(predicted: Sequence[Box], true: Sequence[Box], threshold: float = 0.5) -> float:
    """Share of the pairs with an IoU of at least `threshold`: "Precision @ 1" of `evaluate_grounding.py`.

    Raises:
      ValueError: if the sequences differ in length or are empty.
    """
    if len(predicted) != len(true) or not true:
        raise ValueError(f"{len(predicted)} predicted boxes for {len(true)} true ones: give one each, at least one")
    return sum(box_iou(a, b) >= threshold for a, b in zip(predicted, true)) / len(true)


def refcoco_box(answer: str) -> Box:
    """The first `(x1,y1),(x2,y2)` of an answer as shares of width and height, `NO_BOX` where there is none.

    `evaluate_grounding.py`: the first match alone decides (a later well-formed box is not looked for), the
    tags around it are not needed, and coordinates are divided by 999.
    """
    found = FIRST_BOX.search(answer)
    if found is None:
        return NO_BOX
    try:
        x1, y1 = (float(number) for number in found[1].split(","))
        x2, y2 = (float(number) for number in found[2].split(","))
    except ValueError:
        return NO_BOX
    return (x1 / REFCOCO_SCALE, y1 / REFCOCO_SCALE, x2 / REFCOCO_SCALE, y2 / REFCOCO_SCALE)


def words_read(predicted: Sequence[str], true: Sequence[str]) -> float:
    """Share of the true words that were read exactly, each as often as it stands there (multisets, order is
    free).

    A word predicted too often gains nothing, and words that are not there cost nothing.

    Raises:
      ValueError: if there is no true word.
    """
    if not true:
        raise ValueError("no true words: a picture without text cannot be scored for reading")
    return (Counter(predicted) & Counter(true)).total() / len(true)


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance: insertions, deletions and replacements of characters, each costing 1."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        previous, row = row, [i]
        for j, b in enumerate(second, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (a != b)))
    return row[-1]


def anls(predicted: str, true: Sequence[str], threshold: float = 0.5) -> float:
    """Average Normalised Levenshtein Similarity of one answer: the best over the true answers, 0 below
    `threshold`.

    `infographicsvqa_eval.py` (DocVQA): texts are compared in lower case with white space collapsed, but the
    distance is divided by the longer of the texts *as given*; so outer white space raises the score a little.
    Kept.

    Raises:
      ValueError: if there is no true answer.
    """
    if not true:
        raise ValueError("no true answers: ANLS needs at least one")
    best = 0.0
    for answer in true:
        distance = edit_distance(_collapse(predicted), _collapse(answer))
        length = max(len(predicted), len(answer))
        best = max(best, 1.0 - distance / length if length else 1.0)
    return best if best >= threshold else 0.0


def _collapse(text: str) -> str:
    return " ".join(text.lower().split())


def relaxed_match(predicted: str, true: Sequence[str], tolerance: float = 0.05) -> bool:
    """ChartQA's relaxed correctness: numbers within 5 %, other text equal in lower case; any true answer may
    match.

    `evaluate_vqa.py` passes its arguments swapped, so the error is divided by the *model's* number instead of
    the true one, and a model that answers 0 is compared as text. Kept: published scores have it. A trailing
    `%` divides by 100.
    """
    return any(_relaxed(predicted.strip(), answer, tolerance) for answer in true)


def _relaxed(predicted: str, true: str, tolerance: float) -> bool:
    ours, theirs = _number(predicted), _number(true)
    if theirs is not None and ours:
        return abs(theirs - ours) / abs(ours) <= tolerance
    return predicted.lower() == true.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
