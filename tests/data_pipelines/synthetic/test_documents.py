"""Documents: lines are drawn where their quads say, in readable size and plain order."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.synthetic.documents import (
    CAP_HEIGHTS,
    CHARACTERS,
    FONTS,
    OVERSAMPLING,
    WORDS,
    PlacedLine,
    document_questions,
    draw_line,
    is_held_out_number,
    sample_document,
    sample_lines,
    sample_text,
    size_for_capitals,
)

SIZE = (140, 130)


@pytest.mark.parametrize("angle", [-0.3, 0.0, 0.25])
@pytest.mark.parametrize("font", FONTS)
def test_quad_holds_the_ink(font, angle):
    """Turned back by its angle, a line's ink fills its quad, which starts at the text's top left."""
    line = PlacedLine("Exit", font, size_for_capitals(font, 22 * OVERSAMPLING), 65.3, 60.8, angle)
    picture = Image.new("RGB", (130, 120), (255, 255, 255))
    draw_line(picture, line, (0, 0, 0))
    ys, xs = np.nonzero(np.asarray(picture.convert("L")) < 160)
    quad = np.array(line.quad)
    across, down = quad[1] - quad[0], quad[3] - quad[0]
    offsets = np.stack([xs + 0.5, ys + 0.5], -1) - quad[0]
    u = offsets @ across / (across @ across)
    v = offsets @ down / (down @ down)
    width, height = np.linalg.norm(across), np.linalg.norm(down)
    assert abs(u.min()) * width < 1.6
    assert abs(u.max() - 1) * width < 1.6
    assert abs(v.min()) * height < 1.6
    assert abs(v.max() - 1) * height < 1.6
    assert across[0] > 0
    assert down[1] > 0


@pytest.mark.parametrize("font", FONTS)
def test_fonts_have_their_letters(font):
    """Each font draws different letters and digits differently (symbol fonts lack some)."""
    drawn = set()
    for letter in CHARACTERS:
        picture = Image.new("RGB", (60, 60), (255, 255, 255))
        draw_line(picture, PlacedLine(letter, font, 50, 30.0, 30.0, 0.0), (0, 0, 0))
        drawn.add(picture.tobytes())
    assert len(drawn) == len(CHARACTERS)


def test_lines_are_inside_large_and_in_order():
    """Lines lie inside the picture, one below the other, with capitals of a readable size."""
    for seed in range(60):
        lines = sample_lines(np.random.default_rng(seed), SIZE, held_out=False)
        bottom = 0.0
        for line in lines:
            xs, ys = zip(*line.quad)
            assert min(xs) >= 0
            assert max(xs) <= SIZE[0]
            assert min(ys) >= bottom
            bottom = max(ys)
            capital = size_for_capitals(line.font, round(CAP_HEIGHTS[0] * 135 * OVERSAMPLING))
            assert line.font_size >= capital - 1
        assert bottom <= SIZE[1]


def test_held_out_numbers_are_not_trained():
    """Held-out documents show numbers that training ones never show; words are the lexicon's in both."""
    for held_out in (False, True):
        rng = np.random.default_rng(5)
        texts = [sample_text(rng, held_out) for _ in range(400)]
        numbers = [int(text) for text in texts if text.isdigit()]
        assert len(numbers) > 50
        assert all(is_held_out_number(number) == held_out for number in numbers)
        words = [text for text in texts if not text.isdigit()]
        assert set(words) <= set(WORDS)


def test_words_vary_in_length():
    """The lexicon is six dozen different words of three to five letters, and uses nearly all of the alphabet."""
    assert len(set(WORDS)) == len(WORDS) > 75
    assert {len(text) for text in WORDS} == {3, 4, 5}
    assert all(text.isascii() and text.isupper() for text in WORDS)
    assert len(set("".join(WORDS))) >= 24


def test_questions_are_about_the_lines():
    """Each line is asked for once, and the questions alone say which line is meant."""
    for seed in range(30):
        _, lines = sample_document(np.random.default_rng(seed), held_out=True)
        texts = tuple(line.text for line in lines)
        asked = document_questions(texts, np.random.default_rng(seed))
        assert sorted(item.answer for item in asked) == sorted(texts)
        for item in asked:
            if item.question.startswith("What is on line"):
                assert texts[int(item.question[16]) - 1] == item.answer
            elif item.question == "What is written on the sign?":
                assert texts == (item.answer,)
            else:
                alike = [text for text in texts if text.isdigit() == item.answer.isdigit()]
                assert alike == [item.answer]
