"""Pure text in the formats of the tasks."""

import numpy as np
import pytest

from configs.tiny import tiny
from data_pipelines.synthetic.texts import KINDS, sample_text
from qwenvl_jax.processing.markup import ImageSpan, parse
from qwenvl_jax.processing.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer("world")


@pytest.mark.parametrize("kind", KINDS)
def test_markup_is_whole_and_without_pictures(kind):
    """Texts parse: every tag is closed, coordinates are in range, and no picture is named."""
    for i in range(15):
        text = kind(np.random.default_rng(i))
        assert not any(isinstance(element, ImageSpan) for element in parse(text))
        assert 20 < len(text.encode()) < 1300


def test_texts_are_short():
    """No text is longer than a row of stage `language`, and most are far shorter: a packed row holds several."""
    row = next(stage.sequence_length for stage in tiny().stages if stage.name == "language")
    lengths = [len(TOKENIZER.encode(sample_text(np.random.default_rng([1, i]), KINDS))) for i in range(200)]
    assert max(lengths) <= row
    assert np.mean(lengths) < 0.6 * row
    assert sum(KINDS.values()) == pytest.approx(1)
