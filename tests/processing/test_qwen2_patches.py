"""Promises of `qwenvl_jax.processing.patches`: what transformers 4.57.6 makes of the same pictures."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as original_resize

from qwenvl_jax.config import PixelLimits
from qwenvl_jax.processing.patches import (
    IMAGE_LIMITS,
    Grid,
    frame_numbers,
    grid_of,
    normalize_patches,
    patch_positions,
    patchify,
    resize_frame,
    resize_within,
    smart_resize,
)

RELEASED, CLASS = IMAGE_LIMITS["released"], IMAGE_LIMITS["transformers"]


@pytest.mark.parametrize(
    "height, width, limits, expected, tokens",
    [
        (224, 224, RELEASED, (224, 224), 64),
        (480, 640, RELEASED, (476, 644), 391),
        (720, 1280, RELEASED, (728, 1288), 1196),
        (1080, 1920, RELEASED, (1092, 1932), 2691),
        (2160, 3840, RELEASED, (2156, 3836), 10549),
        (3508, 2480, RELEASED, (3500, 2492), 11125),
        (224, 224, CLASS, (224, 224), 64),
        (480, 640, CLASS, (476, 644), 391),
        (720, 1280, CLASS, (728, 1288), 1196),
        (1080, 1920, CLASS, (728, 1316), 1222),
        (2160, 3840, CLASS, None, 1222),
        (3508, 2480, CLASS, None, 1260),
        (42, 70, RELEASED, (56, 56), 4),  # 1.5 and 2.5 units round to even
        (13, 400, RELEASED, (28, 336), 12),  # a side below half a unit
    ],
)
def test_published_sizes(height: int, width: int, limits: PixelLimits, expected, tokens: int) -> None:
    """Sizes and numbers of vision tokens that the processor gives well-known pictures."""
    size = smart_resize(height, width, limits)
    assert size == original_resize(height, width, 28, limits.min_pixels, limits.max_pixels)
    assert expected in (None, size)
    assert grid_of(*size).tokens == tokens


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(4, 40), st.integers(50, 20000))
@settings(max_examples=300, deadline=None)
def test_every_size_is_the_originals(height: int, width: int, least: int, most: int) -> None:
    """For any picture and limits, also where the original refuses."""
    limits = PixelLimits(least * 784, most * 784)
    try:
        expected = original_resize(height, width, 28, limits.min_pixels, limits.max_pixels)
    except ValueError:
        with pytest.raises(ValueError, match="more than 200 times the other"):
            smart_resize(height, width, limits)
    else:
        assert smart_resize(height, width, limits) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(784, 20_000), st.floats(1, 2000))
@settings(max_examples=300, deadline=None)
def test_no_picture_exceeds_a_limit_that_must_hold(height: int, width: int, least: int, tokens: float) -> None:
    """Whatever its shape and the least size, and nothing changes where the original's size is small enough."""
    limits = PixelLimits(least, int(tokens * 784))
    if max(height, width) <= 200 * min(height, width):
        size, originals = resize_within(height, width, limits), smart_resize(height, width, limits)
        assert 1 <= grid_of(*size).tokens <= tokens
        assert size == originals or grid_of(*originals).tokens > tokens


def test_a_limit_below_one_token_is_refused() -> None:
    """Instead of a picture without tokens."""
    with pytest.raises(ValueError, match="max_pixels=783 has no room"):
        resize_within(100, 100, PixelLimits(0, 783))


def test_empty_pictures_are_refused() -> None:
    """A header may claim a side of zero pixels."""
    with pytest.raises(ValueError, match="picture of 30x0"):
        smart_resize(0, 30, RELEASED)


@pytest.fixture(scope="module")
def processor() -> Qwen2VLImageProcessor:
    return Qwen2VLImageProcessor(min_pixels=RELEASED.min_pixels, max_pixels=RELEASED.max_pixels)


@pytest.mark.parametrize("height, width", [(56, 84), (100, 61), (30, 200), (20, 20)])
def test_images_have_the_bits_of_the_original(processor, height: int, width: int) -> None:
    """Resize, order of patches, order of values, normalisation: every value of a picture of any size."""
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    theirs = processor(Image.fromarray(image), return_tensors="np")
    size = smart_resize(height, width, PixelLimits(processor.size["shortest_edge"], processor.size["longest_edge"]))
    patches = patchify(resize_frame(image, *size)[None])
    assert patches.dtype == np.uint8
    assert [list(grid_of(*size))] == theirs["image_grid_thw"].tolist()
    np.testing.assert_array_equal(normalize_patches(patches), theirs["pixel_values"])


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_videos_have_the_bits_of_the_original(processor, count: int) -> None:
    """Pairs of frames become one patch; the last of an odd number stands twice."""
    frames = np.random.default_rng(count).integers(0, 256, (count, 56, 84, 3), np.uint8)
    theirs, grid = processor._preprocess(
        list(frames), do_resize=False, do_rescale=True, do_normalize=True, rescale_factor=1 / 255,
        image_mean=processor.image_mean, image_std=processor.image_std, patch_size=14, temporal_patch_size=2, merge_size=2,
    )  # fmt: skip
    patches = patchify(frames)
    assert grid_of(56, 84, count) == grid
    np.testing.assert_array_equal(normalize_patches(patches), theirs)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_positions_and_frames_follow_the_patches(frames: int, rows: int, columns: int) -> None:
    """A picture whose pixels say where they are tells every patch its place."""
    grid = Grid(frames, 2 * rows, 2 * columns)
    place = np.stack(np.indices((2 * frames, 4 * rows, 4 * columns)), axis=-1)
    patches = patchify(place, patch=2).reshape(grid.patches, 3, 2, 2, 2)
    np.testing.assert_array_equal(patches[:, 0, 0, 0, 0] // 2, frame_numbers(grid))
    np.testing.assert_array_equal(patches[:, 1:, 0, 0, 0] // 2, patch_positions(grid))
    # Four patches behind each other are a square of two by two: one vision token, tokens row by row.
    squares = patch_positions(grid).reshape(-1, 4, 2)
    assert (squares - squares[:, :1] == [[0, 0], [0, 1], [1, 0], [1, 1]]).all()
    tokens = np.column_stack([frame_numbers(grid)[::4], squares[:, 0] // 2])
    np.testing.assert_array_equal(tokens, np.indices((frames, rows, columns)).reshape(3, -1).T)


def test_normalize_on_jax_arrays() -> None:
    """The device computes what NumPy computes, in float32."""
    patches = np.random.default_rng(0).integers(0, 256, (5, 1176), np.uint8)
    result = normalize_patches(jnp.asarray(patches))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, normalize_patches(patches), rtol=1e-6, atol=1e-6)
