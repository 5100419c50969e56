"""What is chosen by a law: CLIP cut, disjoint phrases, answers of several annotators, pages."""

from collections import Counter
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.cleaning.answers import most_confident, most_frequent
from data_pipelines.cleaning.calibration import calibrate, merge
from data_pipelines.cleaning.grounding import Phrase, grounded_caption, read_expressions, without_nested
from data_pipelines.cleaning.pages import HTML, PDF, Page, judge_page
from data_pipelines.cleaning.rules import Pair, clip, score_step
from data_pipelines.cleaning.thresholds import Thresholds

SCORES = st.lists(st.floats(-1, 1, allow_nan=False), max_size=60)


@settings(deadline=None)
@given(SCORES, st.floats(0.01, 1), st.integers(0, 20))
def test_the_cut_keeps_just_enough(scores, keep_rate, others):
    """At least the wanted share of all pairs, and a higher cut would keep less than it."""
    steps = Counter(map(score_step, scores))
    total = len(scores) + others
    cut = calibrate(steps, total, keep_rate)
    thresholds = Thresholds(clip_cut=cut.score)
    kept = sum(clip(Pair("", 1, 1, score), thresholds) is not None for score in scores)
    assert cut.kept == kept
    if cut.score is None:
        assert kept == len(scores)
        assert not scores or kept < keep_rate * total
    else:
        assert kept >= keep_rate * total
        assert kept - steps[score_step(cut.score)] < keep_rate * total


@given(SCORES, SCORES)
def test_counts_of_parts_add_up(first, second):
    """Calibrated on merged counts of parts: the same as on the whole."""
    parts = [Counter(map(score_step, scores)) for scores in (first, second)]
    assert merge(parts) == Counter(map(score_step, first + second))


BOX = (0.1, 0.1, 0.2, 0.2)
PHRASES = st.lists(
    st.builds(
        lambda a, b, n: Phrase(min(a, b), max(a, b) + 1, (BOX,) * n), *[st.integers(0, 12)] * 2, st.integers(1, 3)
    ),
    max_size=7,
)


def disjoint(phrases) -> bool:
    ordered = sorted(phrases)
    return all(a.end <= b.start for a, b in pairwise(ordered))


@settings(deadline=None)
@given(PHRASES)
def test_disjoint_phrases_have_the_most_boxes(phrases):
    """No chosen phrase lies in or over another, and no choice without overlap has more boxes (tried all)."""
    chosen = without_nested(phrases)
    assert disjoint(chosen)
    assert chosen == sorted(chosen)
    best = max(
        sum(len(p.boxes) for p in some)
        for count in range(len(phrases) + 1)
        for some in combinations(phrases, count)
        if disjoint(some)
    )
    assert sum(len(p.boxes) for p in chosen) == best


def test_expressions_of_one_phrase_are_one_phrase():
    """Two boxes of the same words stand behind each other, as in the paper's sample; a repeated box counts once."""
    caption = "two bees fly"
    expressions = [[0, 8, *BOX, 1], [0, 8, 0.3, 0.3, 0.4, 0.4, 1], [0, 8, *BOX, 1]]
    phrases, reasons = read_expressions(expressions, len(caption))
    assert reasons == []
    assert grounded_caption(caption, phrases).answer == (
        "<ref>two bees</ref><box>(100,100),(200,200)</box><box>(300,300),(400,400)</box> fly"
    )


@pytest.mark.parametrize(
    "expression, reason",
    [
        ([0, 99, *BOX], "characters that the caption does not have"),
        ([5, 5, *BOX], "characters that the caption does not have"),
        ([0, 5, 0.5, 0.1, 0.2, 0.2], "reversed"),
        ([0, 5, float("nan"), 0.1, 0.2, 0.2], "not finite"),
        ([0, 5, 2.0, 0.1, 3.0, 0.2], "outside"),
        ([0, 5], "not four numbers"),
        ([float("inf"), 5, *BOX], "infinity"),
        ("text", "invalid literal"),
    ],
)
def test_bad_expressions_have_a_reason(expression, reason):
    """And cost nothing but themselves."""
    phrases, reasons = read_expressions([expression, [0, 5, *BOX]], 12)
    assert len(phrases) == 1
    assert reason in reasons[0]


def answer(text, confidence="yes"):
    return {"answer": text, "answer_confidence": confidence}


@pytest.mark.parametrize(
    "answers, expected",
    [
        ([answer("cat"), answer("dog"), answer("dog")], "dog"),
        ([answer("dog", "maybe"), answer("dog", "maybe"), answer("cat"), answer("cat", "maybe")], "cat"),
        ([answer("dog", "no"), answer("dog", "no"), answer("cat", "maybe")], "cat"),
        ([answer("first"), answer("second")], "first"),
        ([answer(" "), answer("dog", "no")], "dog"),
    ],
)
def test_the_answer_of_maximum_confidence(answers, expected):
    """Sum of confidence; of equals the more frequent, then the first."""
    assert most_confident(answers) == expected
    with pytest.raises(ValueError, match="no answer"):
        most_confident([answer("")])


def test_the_most_frequent_answer():
    """Capitals make no other answer; the first way of writing it stays."""
    assert most_frequent(["Nokia", "samsung", "nokia", " "]) == "Nokia"
    with pytest.raises(ValueError, match="no answer"):
        most_frequent([""])


LINES = [("a line of text that is long enough to count", (10, 10, 300, 30))] * 2


@pytest.mark.parametrize(
    "page, thresholds, reason",
    [
        (Page(600, 800, LINES), PDF, ""),
        (Page(399, 800, LINES), PDF, "page too small"),
        (Page(600, 800, LINES[:1]), PDF, "too few characters"),
        (Page(600, 800, LINES * 80), PDF, "too many characters"),
        (Page(600, 800, [*LINES, ("łódź", (1, 1, 9, 9))]), PDF, "letters of Latin Extended"),
        (Page(600, 800, [*LINES, ("łódź", (1, 1, 9, 9))]), HTML, ""),
        (Page(600, 800, [*LINES, ("\uf0b7 item", (1, 1, 9, 9))]), HTML, "private characters"),
        (Page(600, 800, [*LINES, ("outside", (700, 1, 709, 9))]), PDF, "a line's box is damaged"),
    ],
)
def test_pages_of_the_ocr_data(page, thresholds, reason):
    """The paper's rules for pages; HTML pages may have Latin Extended, PDF pages may not."""
    assert judge_page(page, thresholds) == reason
