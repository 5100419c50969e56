"""Cards of the gallery: what shares a card, what is drawn where, and how right and wrong are told apart."""

from qwenvl_jax.evaluation.agent import BENCHMARK as AGENT
from qwenvl_jax.evaluation.benchmarks import BENCHMARKS
from qwenvl_jax.evaluation.cards import SECTIONS, card_html, cards, marked_picture, plain, row_html


def test_every_benchmark_has_a_section():
    """A new benchmark cannot be forgotten in the gallery."""
    assert sorted(name for section in SECTIONS for name in section.benchmarks) == sorted((*BENCHMARKS, AGENT))


def test_answers_on_one_picture_share_a_card(gallery):
    """One record is one card, in the order of the section's benchmarks."""
    found = cards(gallery, SECTIONS[0])
    assert [[entry["benchmark"] for entry in card] for card in found] == [
        ["caption", "vqa", "vqa", "refer"],
        ["refer"],
    ]


def test_true_boxes_are_dashed_below_predicted_ones(item):
    """Both are drawn in pixels of the stored picture, the predicted one last."""
    located = item("refer", "<box>(0,0),(500,500)</box>", "<box>(100,0),(500,500)</box>", 1)
    html = card_html([located])
    assert 'viewBox="0 0 120 90"' in html
    true = html.index('class="true" points="0.0,0.0 60.0,0.0 60.0,45.0 0.0,45.0"')
    assert true < html.index('class="said" points="12.0,0.0 60.0,0.0 60.0,45.0 12.0,45.0"')


def test_boxes_are_drawn_on_the_picture_that_is_asked_about(item):
    """The last "Picture N" of the question counts; otherwise, as in the original, the latest picture."""
    assert marked_picture(item("chat_refer", "", "", 1, question="Where is it in Picture 1?", pictures=2)) == 0
    assert marked_picture(item("chat_refer", "", "", 1, question="Where is it?", pictures=2)) == 1
    assert marked_picture(item("chat_refer", "", "", 1, question="In Picture 7?", pictures=2)) == 1


def test_rows_tell_right_from_wrong(item):
    """A wrong answer shows the true one, a missing box is said, words that are not there are struck out."""
    assert "truth" not in row_html(item("vqa", "red", "red", 1))
    wrong = row_html(item("vqa", "red", " ", 0))
    assert 'class="row wrong"' in wrong
    assert "(nothing)" in wrong
    assert '<p class="truth">red</p>' in wrong
    assert "no box" in row_html(item("refer", "<box>(1,1),(2,2)</box>", "box", 0))
    read = row_html(item("ocr", "<ref>A B</ref>", "<ref>A</ref><ref>A</ref>", 0.5))
    assert 'A <span class="missed">A</span>' in read
    assert '<p class="truth">A B</p>' in read


def test_plain_text_of_an_answer():
    """Phrases stay, boxes and quads go."""
    text = "<ref>a ring</ref><box>(1,1),(9,9)</box> and <ref> EXIT</ref> <quad>(1,1),(2,2),(3,3),(4,4)</quad>"
    assert plain(text) == "a ring and EXIT"
