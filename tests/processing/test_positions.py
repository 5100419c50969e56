"""Promises of `qwenvl_jax.processing.positions`."""

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_qwen2_vl import IMAGE_PAD, VIDEO_PAD, VISION_START, make_sample
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from qwenvl_jax.processing.patches import Grid
from qwenvl_jax.processing.positions import mrope_positions


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.replace("|", " ").split()]


def test_image_and_video_between_text() -> None:
    """Three words, an image of 2 x 3 tokens, two words, a video of 2 x 2 x 2 tokens, two words; in both modes."""
    pieces = [3, 1, Grid(1, 4, 6), 1, 2, 1, Grid(2, 4, 4), 1, 2]
    expected = [
        numbers("0 1 2 | 3 | 4 4 4 4 4 4 | 7 | 8 9 | 10 | 11 11 11 11 12 12 12 12 | 13 | 14 15"),
        numbers("0 1 2 | 3 | 4 4 4 5 5 5 | 7 | 8 9 | 10 | 11 11 12 12 11 11 12 12 | 13 | 14 15"),
        numbers("0 1 2 | 3 | 4 5 6 4 5 6 | 7 | 8 9 | 10 | 11 12 11 12 11 12 11 12 | 13 | 14 15"),
    ]
    for mode in ("paper", "hf5"):
        positions = mrope_positions(pieces, mode)
        assert positions.dtype == np.int32
        assert positions.tolist() == expected
        assert positions.max() + 1 - positions.shape[1] == -9


def test_video_longer_than_its_sides() -> None:
    """The text behind six pairs of frames of 2 x 2 tokens stands behind them; the newest transformers lets it overlap."""
    pieces = [3, 1, Grid(6, 4, 4), 1, 2]
    paper, hf5 = (mrope_positions(pieces, mode) for mode in ("paper", "hf5"))
    assert paper[0, 4:28].tolist() == [4 + frame for frame in range(6) for _ in range(4)]
    assert np.array_equal(paper[:, :28], hf5[:, :28])
    assert paper[:, 28:].tolist() == [[10, 11, 12]] * 3
    assert hf5[:, 28:].tolist() == [[6, 7, 8]] * 3
    assert paper[0, -1] + 1 - paper.shape[1] == -18
    # Its delta comes from the largest position, which lies in the video.
    assert hf5.max() + 1 - hf5.shape[1] == -21


GRIDS = st.builds(lambda t, h, w: Grid(t, 2 * h, 2 * w), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))


@given(st.lists(st.one_of(st.integers(0, 5), GRIDS), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_positions_are_the_originals(pieces: list[int | Grid]) -> None:
    """Those of `get_rope_index` of transformers 4.57.6, for any order of text, images and videos."""
    sample = make_sample(np.random.default_rng(0), 1, *pieces)
    ids = torch.as_tensor(sample.tokens)[None]
    images = [grid for grid in sample.grids if grid.frames == 1]
    videos = [grid for grid in sample.grids if grid.frames > 1]
    config = SimpleNamespace(
        vision_config=SimpleNamespace(spatial_merge_size=2),
        image_token_id=IMAGE_PAD, video_token_id=VIDEO_PAD, vision_start_token_id=VISION_START,
    )  # fmt: skip
    theirs, delta = Qwen2VLModel.get_rope_index(
        SimpleNamespace(config=config), ids, torch.as_tensor(images) if images else None,
        torch.as_tensor(videos) if videos else None, torch.ones_like(ids),
    )  # fmt: skip
    np.testing.assert_array_equal(sample.positions, theirs[:, 0])
    assert sample.positions.max() + 1 - len(sample.tokens) == delta.item()
