"""Pure text in the formats of the tasks."""

import numpy as np
import pytest

from data_pipelines.synthetic.texts import KINDS, sample_text
from qwenvl_jax.processing.markup import ImageSpan, parse


@pytest.mark.parametrize("kind", KINDS)
def test_markup_is_whole_and_without_pictures(kind):
    """Texts parse: every tag is closed, coordinates are in range, and no picture is named."""
    for i in range(15):
        text = kind(np.random.default_rng(i))
        assert not any(isinstance(element, ImageSpan) for element in parse(text))
        assert 20 < len(text.encode()) < 700


def test_texts_are_short():
    """Most texts have 100 to 500 bytes: a packed row holds several."""
    lengths = [len(sample_text(np.random.default_rng([1, i])).encode()) for i in range(80)]
    assert 200 < np.mean(lengths) < 400
    assert sum(KINDS.values()) == pytest.approx(1)
