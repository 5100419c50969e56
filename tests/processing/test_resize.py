"""Promises of `qwenvl_jax.processing.resize`: PIL's bits."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from qwenvl_jax.processing.resize import resize_bicubic

SIDES = st.integers(1, 120)


def by_pil(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


@given(SIDES, SIDES, SIDES, SIDES, st.booleans(), st.booleans())
@example(1, 1, 1, 1, True, False)
@example(100, 60, 49, 35, False, True)  # loses one row more than twice its columns: height first
@example(100, 60, 50, 35, False, True)  # twice as many: width first
@example(60, 40, 30, 40, False, True)  # one axis alone
@example(60, 40, 60, 80, True, True)
@settings(max_examples=150, deadline=None)
def test_every_bit_is_pils(height: int, width: int, y: int, x: int, turned: bool, planar: bool) -> None:
    """Of any size to any size, whatever lies in memory in which order; noise meets both ends of 0 to 255."""
    picture = np.random.default_rng(height * 1000 + width).integers(0, 2, (width, height, 3), np.uint8) * 255
    picture = picture.transpose(1, 0, 2) if turned else np.ascontiguousarray(picture.transpose(1, 0, 2))
    resized = resize_bicubic(picture, y, x, planar)
    np.testing.assert_array_equal(resized, by_pil(picture, y, x))
    assert resized.transpose(2, 0, 1).flags.c_contiguous or not planar


@pytest.mark.parametrize("sizes", [((512, 600), (224, 224)), ((31, 2000), (280, 1400)), ((1300, 45), (28, 644))])
def test_rows_longer_than_a_block(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Pictures of more rows and columns than are summed at a time."""
    before, after = sizes
    picture = np.random.default_rng(0).integers(0, 256, (*before, 3), np.uint8)
    for planar in (False, True):
        np.testing.assert_array_equal(resize_bicubic(picture, *after, planar), by_pil(picture, *after))
