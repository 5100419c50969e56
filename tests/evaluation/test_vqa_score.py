"""The official VQA score, with the quirks of its code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenvl_jax.evaluation.vqa_score import CONTRACTIONS, normalise_answer, vqa_score


@pytest.mark.parametrize(
    "answer, normal",
    [
        ("The Two\tdogs.", "2 dogs"),
        ("dont", "don't"),
        ("couldntve and couldnt've", "couldntve and couldn't've"),
        ("somebody'd", "somebodyd"),
        ("none", "0"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("1,000 black/white", "1000 blackwhite"),
        ("2.5 m.", "2.5 m"),
        ("2. 5", "2 5"),
        ("x" + "." * 40, "x" + "." * 8),
    ],
)
def test_normalisation_by_hand(answer, normal):
    """Articles, number words, contractions, punctuation, and 32 periods at most."""
    assert normalise_answer(answer) == normal


def test_there_are_as_many_contractions_as_upstream():
    """Upstream has 120 spellings; two change nothing, and four have capitals that no word can match."""
    assert len(CONTRACTIONS) == 120 - 2 - 4


@pytest.mark.parametrize("matches, score", [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_leaving_each_annotator_out(matches, score):
    """With 3 matches of ten: three annotators see 2/3, seven see 1, so 0.9."""
    assert vqa_score("Red", ["red"] * matches + ["blue"] * (10 - matches)) == pytest.approx(score)


def test_unanimous_answers_keep_their_punctuation():
    """True answers lose punctuation only where annotators disagree."""
    assert vqa_score("t-shirt", ["t-shirt"] * 10) == 0
    assert vqa_score("t-shirt", ["t-shirt"] * 9 + ["coat"]) == 1


@given(st.text(max_size=12), st.lists(st.sampled_from(["red", "blue", "a, b"]), min_size=1, max_size=10))
def test_score_is_a_share(predicted, annotations):
    """Any answer scores in [0, 1]."""
    assert 0 <= vqa_score(predicted, annotations) <= 1


def test_no_annotations_is_an_error():
    """An unanswered question is reported in a sentence."""
    with pytest.raises(ValueError, match="no annotations"):
        vqa_score("red", [])
