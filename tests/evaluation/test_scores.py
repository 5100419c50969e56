"""Scores: hand-computed cases, the laws that they keep, and the quirks of the original's scripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenvl_jax.evaluation import scores

coordinate = st.floats(-2, 2, allow_nan=False, width=32)
boxes = st.tuples(coordinate, coordinate, coordinate, coordinate)
words = st.lists(st.sampled_from(["exit", "EXIT", "7", "77", "sale"]), max_size=6)


@given(boxes, boxes)
def test_iou_is_symmetric_and_a_share(first, second):
    """IoU does not depend on the order of the boxes and lies in [0, 1], for empty and swapped boxes too."""
    iou = scores.box_iou(first, second)
    assert iou == scores.box_iou(second, first)
    assert 0 <= iou <= 1


@given(boxes, st.sampled_from([0.25, 2.0, 640.0]), st.sampled_from([0.5, 4.0, 480.0]))
def test_iou_does_not_depend_on_the_unit(box, wide, high):
    """Boxes in shares of the picture score as boxes in pixels do."""
    other = (0.0, -1.0, 1.5, 1.25)
    scaled = [(b[0] * wide, b[1] * high, b[2] * wide, b[3] * high) for b in (box, other)]
    assert scores.box_iou(*scaled) == pytest.approx(scores.box_iou(box, other))


@pytest.mark.parametrize(
    "second, iou",
    [
        ((0, 0, 10, 10), 1.0),
        ((5, 0, 15, 10), 50 / 150),
        ((0, 0, 5, 10), 0.5),
        ((10, 0, 20, 10), 0.0),
        ((10, 10, 0, 0), 0.0),
        (scores.NO_BOX, 0.0),
    ],
)
def test_iou_by_hand(second, iou):
    """Overlap, containment, touching, swapped corners, no box."""
    assert scores.box_iou((0, 0, 10, 10), second) == pytest.approx(iou)


def test_precision_counts_the_threshold_itself():
    """An IoU of exactly 0.5 is a hit, as in `evaluate_grounding.py`; unequal lengths are refused in a
    sentence.
    """
    true = [(0.0, 0.0, 10.0, 10.0)] * 4
    predicted = [(0.0, 0.0, 5.0, 10.0), (0.0, 0.0, 4.9, 10.0), (0.0, 0.0, 10.0, 10.0), scores.NO_BOX]
    assert scores.precision_at_iou(predicted, true) == 0.5
    with pytest.raises(ValueError, match="1 predicted boxes for 4"):
        scores.precision_at_iou(predicted[:1], true)


@pytest.mark.parametrize(
    "answer, box",
    [
        ("<box>(0,0),(999,999)</box>", (0, 0, 1, 1)),
        ("(999,0),(333,666)", (1, 0, 333 / 999, 666 / 999)),
        (
            "<box>(111,222),(333,444)</box><box>(0,0),(1,1)</box>",
            (111 / 999, 222 / 999, 333 / 999, 444 / 999),
        ),
        ("the box is (nowhere),(1,2) or (0,0),(999,999)", scores.NO_BOX),
        ("<box>(1,2,3),(4,5)</box>", scores.NO_BOX),
        ("<box>(1,2)", scores.NO_BOX),
        ("", scores.NO_BOX),
    ],
)
def test_refcoco_box_takes_the_first_match(answer, box):
    """The first match decides even where it is broken; coordinates are divided by 999."""
    assert scores.refcoco_box(answer) == pytest.approx(box)


def test_words_read_by_hand():
    """Each true word counts as often as it stands there; case matters; extra words cost nothing."""
    assert scores.words_read(["EXIT", "exit"], ["EXIT", "EXIT", "exit"]) == pytest.approx(2 / 3)
    assert scores.words_read(["sale", "sale", "7"], ["7"]) == 1
    assert scores.words_read([], ["7"]) == 0
    with pytest.raises(ValueError, match="no true words"):
        scores.words_read(["7"], [])


@given(words, words.filter(len), st.randoms(use_true_random=False))
def test_words_read_is_a_share_that_order_does_not_change(predicted, true, random):
    """The score lies in [0, 1], is 1 for the truth itself, and does not see the order of the words."""
    share = scores.words_read(predicted, true)
    shuffled = predicted[:]
    random.shuffle(shuffled)
    assert 0 <= share <= 1
    assert scores.words_read(shuffled, true) == share
    assert scores.words_read(true, true) == 1


def test_matches():
    """Captions are compared in the case that they have, answers in lower case; outer white space never
    counts.
    """
    assert scores.exact_match(" a red circle", "a red circle ")
    assert not scores.exact_match("A red circle", "a red circle")
    assert scores.vqa_match(" Yes\n", "yes")
    assert not scores.vqa_match("yes.", "yes")


@given(st.text("abc", max_size=7), st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_edit_distance_is_a_metric(a, b, c):
    """Zero only for equal texts, symmetric, and no way round is shorter."""
    assert (scores.edit_distance(a, b) == 0) == (a == b)
    assert scores.edit_distance(a, b) == scores.edit_distance(b, a)
    assert scores.edit_distance(a, c) <= scores.edit_distance(a, b) + scores.edit_distance(b, c)


@pytest.mark.parametrize(
    "predicted, true, score",
    [
        ("kitten", ["sitting"], 1 - 3 / 7),
        ("kitten", ["sitting", "Kitten"], 1.0),
        ("abcd", ["abxy"], 0.5),
        ("abcd", ["axyz"], 0.0),
        ("  two   words ", ["Two Words"], 1.0),
        ("ab        ", ["ac"], 1 - 1 / 10),
        ("", [""], 1.0),
    ],
)
def test_anls_by_hand(predicted, true, score):
    """The best answer counts, below one half nothing does; the quirk divides by the length with its white
    space.
    """
    assert scores.anls(predicted, true) == pytest.approx(score)


@pytest.mark.parametrize(
    "predicted, true, right",
    [
        ("105", ["100"], True),
        ("100", ["105"], True),
        ("100", ["105.1"], False),
        ("95", ["100"], False),  # off by 5 % of the true answer, by 5.3 % of the model's
        ("95.3", ["100"], True),
        ("5%", ["0.05"], True),
        ("0", ["0.0"], False),  # a model's zero is compared as text
        ("Yes", ["no", "yes"], True),
    ],
)
def test_relaxed_match_divides_by_the_models_answer(predicted, true, right):
    """ChartQA's tolerance with the original's swapped arguments."""
    assert scores.relaxed_match(predicted, true) is right
