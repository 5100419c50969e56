"""Promises of `qwenvl_jax.processing.visual_sample`."""

import io

import numpy as np
import pytest
from PIL import Image as Picture
from small_video import make_video

from qwenvl_jax.config import PixelLimits
from qwenvl_jax.processing.patches import IMAGE_LIMITS, Grid, patchify
from qwenvl_jax.processing.positions import mrope_positions
from qwenvl_jax.processing.qwen2_tokens import QWEN2_VL
from qwenvl_jax.processing.sample import Image, Sample, Text, Video, encode_sample, joined
from qwenvl_jax.processing.tokenizer import Tokenizer, load_tokenizer
from qwenvl_jax.processing.video import VIDEO_LIMITS
from qwenvl_jax.processing.visual_sample import encode_visual_sample, fit_grids, measure, sample_frames, sizes_of

PAPER, RELEASED = VIDEO_LIMITS["paper"], IMAGE_LIMITS["released"]


def sample_patches(*arguments, patch: int = 14) -> np.ndarray:
    """As a row holds them: those of all visuals behind each other."""
    visuals = [patchify(frames, patch) for frames in sample_frames(*arguments, patch=patch)]
    return np.concatenate([np.zeros((0, 6 * patch**2), np.uint8), *visuals])


def picture(height: int, width: int, seed: int = 0) -> bytes:
    file = io.BytesIO()
    Picture.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("bytes", QWEN2_VL)


@pytest.fixture(scope="module")
def sample() -> Sample:
    """A video of two seconds between two pictures, and learned text with markup."""
    parts = (Text("ab"), Image(1), Text("c"), Video(0), Image(0), Text("<box>(1,2),(3,4)</box>", supervised=True))
    return Sample(parts, (picture(56, 84), picture(112, 56, 1)), (make_video(16),))


def test_tokens_and_positions(sample, tokenizer) -> None:
    """Every visual is as many pads as its grid has tokens, numbered in order of appearance."""
    grids = measure(sample, sizes_of(sample), RELEASED, PAPER)
    assert grids == (Grid(1, 8, 4), Grid(2, 4, 4), Grid(1, 4, 6))
    encoded = encode_visual_sample(sample, tokenizer, grids)
    pads = ["<|image_pad|>" * 8, "<|video_pad|>" * 8, "<|image_pad|>" * 6]
    first, video, second = (f"<|vision_start|>{pad}<|vision_end|>" for pad in pads)
    text = f"ab{first}c{video}{second}<|box_start|>(1,2),(3,4)<|box_end|>"
    assert tokenizer.decode(encoded.tokens) == text
    seen = encoded.vision_index
    assert seen[seen >= 0].tolist() == list(range(22))
    assert ((seen >= 0) == np.isin(encoded.tokens, tokenizer.encode("<|image_pad|><|video_pad|>"))).all()
    assert encoded.supervised.sum() == encoded.supervised[-13:].sum() == 13
    pieces = [3, grids[0], 3, grids[1], 2, grids[2], 14]
    np.testing.assert_array_equal(encoded.positions, mrope_positions(pieces))


def test_patches_follow_the_grids(sample) -> None:
    """Pictures of their own size are taken as they are; a planner's smaller grid is what is written."""
    grids = measure(sample, sizes_of(sample), RELEASED, PAPER)
    patches = sample_patches(sample, grids, PAPER)
    assert patches.shape == (32 + 32 + 24, 1176)
    image = np.asarray(Picture.open(io.BytesIO(sample.images[1])))
    np.testing.assert_array_equal(patches[:32], patchify(image[None]))
    smaller = measure(sample, sizes_of(sample), PixelLimits(784, 2 * 784), PAPER)
    assert [grid.tokens for grid in smaller] == [2, 8, 1]
    assert len(sample_patches(sample, smaller, PAPER)) == 4 * 11
    assert sample_patches(Sample((Text("a"),)), (), PAPER).shape == (0, 1176)


def test_patches_of_another_size(sample) -> None:
    """Smaller patches, for small models: grids and values follow."""
    grids = measure(sample, sizes_of(sample), PixelLimits(64, 64 * 64), PAPER, patch=4)
    # Pictures shrink to 4,096 pixels; the video's frames of 3,072 grow to the least 3,136.
    assert [grid.patches for grid in grids] == [22 * 10, 2 * 14 * 18, 12 * 18]
    assert sample_patches(sample, grids, PAPER, patch=4).shape == (220 + 504 + 216, 96)


def test_users_cannot_write_special_tokens(tokenizer) -> None:
    """ChatML's tags and pads in typed text are plain text, markup is not."""
    text = "<|im_end|><|image_pad|><box>(1,2),(3,4)</box>"
    encoded = encode_visual_sample(Sample((Text(text, typed=True),)), tokenizer, ())
    special = [i for i in encoded.tokens.tolist() if i >= tokenizer.eod_id]
    assert special == tokenizer.encode("<|box_start|><|box_end|>")


def test_qwen_vl_reads_no_videos(sample) -> None:
    """The other model's encoding says so instead of leaving the video out."""
    with pytest.raises(ValueError, match="Qwen-VL reads no videos"):
        encode_sample(sample, load_tokenizer("bytes"), 4)


def test_joined_samples_keep_their_visuals(sample, tokenizer) -> None:
    """Behind another sample, every image and video is still its own."""
    both = joined(sample, sample)
    grids = measure(both, sizes_of(both), RELEASED, PAPER)
    assert grids == 2 * measure(sample, sizes_of(sample), RELEASED, PAPER)
    alone = sample_patches(sample, grids[:3], PAPER)
    np.testing.assert_array_equal(sample_patches(both, grids, PAPER), np.concatenate([alone, alone]))
    first, second = sample.images
    assert joined(sample, Sample((Image(0),), (second,))).images == (first, second, second)


@pytest.mark.parametrize("tokens", [21, 14, 9, 5, 4])
def test_what_has_no_room_is_shown_smaller(sample, tokens) -> None:
    """All visuals together have at most so many tokens, and all frames stay; what has room keeps its size."""
    sizes = sizes_of(sample)
    whole = measure(sample, sizes, RELEASED, PAPER)
    assert fit_grids(sample, sizes, RELEASED, PAPER, 14, 22) == whole
    grids = fit_grids(sample, sizes, RELEASED, PAPER, 14, tokens)
    assert sum(grid.tokens for grid in grids) <= tokens
    assert [grid.frames for grid in grids] == [1, 2, 1]
    assert all(small.tokens <= large.tokens for small, large in zip(grids, whole))
    assert len(sample_patches(sample, grids, PAPER)) == 4 * sum(grid.tokens for grid in grids)


def test_more_visuals_than_tokens_are_never_cut(sample) -> None:
    """Below one token for each image and pair of frames nothing fits: the grids stay whole, so that it is seen."""
    grids = fit_grids(sample, sizes_of(sample), RELEASED, PAPER, 14, 3)
    assert [grid.tokens for grid in grids] == [1, 2, 1]
