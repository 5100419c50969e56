"""Promises of `qwenvl_jax.processing.video`."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_video import make_video

from qwenvl_jax.processing.patches import Grid, patchify
from qwenvl_jax.processing.video import (
    VIDEO_LIMITS,
    VideoInfo,
    decode_frames,
    frame_indices,
    frame_size,
    probe_video,
    video_frames,
    video_grid,
)

PAPER = VIDEO_LIMITS["paper"]


@pytest.mark.parametrize("kind, rate", [("mp4", "8"), ("matroska", "8"), ("mp4", "30000/1001")])
def test_headers_tell_what_is_inside(kind: str, rate: str) -> None:
    """Number of frames, speed and size, without decoding."""
    info = probe_video(make_video(19, rate, kind=kind))
    assert info._replace(frames_per_second=0) == VideoInfo(19, 0, 48, 64)
    assert info.frames_per_second == pytest.approx(float(Fraction(rate)), rel=1e-3)


def test_the_frames_that_were_asked_for() -> None:
    """By their numbers, also one twice and the last one."""
    gray = [int(frame.mean().round()) for frame in decode_frames(make_video(20), np.array([0, 3, 3, 11, 19]))]
    np.testing.assert_allclose(gray, [0, 24, 24, 88, 152], atol=1)


def test_a_video_becomes_patches() -> None:
    """Two frames per second, pairs of frames in one patch, resized to the grid."""
    data = make_video(16)  # two seconds
    info = probe_video(data)
    assert frame_indices(info, PAPER).tolist() == [0, 5, 10, 15]
    grid = video_grid(info, PAPER, 14)
    assert grid == Grid(2, 4, 4)
    patches = patchify(video_frames(data, grid, PAPER, 14))
    assert patches.shape == (32, 1176)
    first, second = patches.reshape(2, 16, 3, 2, 14 * 14).mean((1, 2, 4)).round()
    np.testing.assert_allclose([*first, *second], [0, 40, 80, 120], atol=1)


@pytest.mark.parametrize(
    "frames, rate, name, count",
    [
        (300, 30, "paper", 20),  # ten seconds
        (300, 25, "paper", 24),
        (330, 30, "utils-0.0.8", 22),
        (345, 30, "utils-0.0.8", 24),  # 23 frames: 11.5 pairs round to the even number 12
        (345, 30, "utils-0.0.10", 22),  # and down to 11 there
        (10, 30, "paper", 4),  # the least
        (3, 30, "paper", 2),  # no more than there are
        (1, 30, "paper", 1),
        (3 * 3600 * 30, 30, "paper", 768),  # the most
    ],
)
def test_numbers_of_frames(frames: int, rate: float, name: str, count: int) -> None:
    """Two per second within the limits, made even as each version does."""
    indices = frame_indices(VideoInfo(frames, rate, 48, 64), VIDEO_LIMITS[name])
    assert len(indices) == count
    assert indices[0] == 0
    assert indices[-1] == (frames - 1 if count > 1 else 0)


@given(st.integers(1, 400_000), st.floats(1, 120), st.integers(64, 4320), st.integers(64, 7680))
@settings(max_examples=200, deadline=None)
def test_a_video_of_the_paper_has_at_most_16384_tokens(frames: int, rate: float, height: int, width: int) -> None:
    """For any video; no frame has more than 768 tokens either, and frames come in pairs."""
    info = VideoInfo(frames, rate, height, width)
    grid = video_grid(info, PAPER, 14)
    assert grid.tokens <= 16384
    assert grid.tokens // grid.frames <= 768
    assert grid.frames == -(-len(frame_indices(info, PAPER)) // 2)


def test_later_limits() -> None:
    """A minute of 1080p by the versions' own figures."""
    info = VideoInfo(1800, 30, 1080, 1920)
    sizes = {name: frame_size(info, 120, limits, 28) for name, limits in VIDEO_LIMITS.items()}
    tokens = {name: 60 * height * width // 784 for name, (height, width) in sizes.items()}
    assert tokens["paper"] <= 16384 < tokens["utils-0.0.8"] <= 24576 < tokens["utils-0.0.10"] <= 60 * 768


@pytest.mark.parametrize(
    "data", [b"", b"#EXTM3U\n/etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"\0" * 5000]
)
def test_no_video(data: bytes) -> None:
    """Other files, playlists among them, are refused in a sentence."""
    with pytest.raises(ValueError, match="are no readable video"):
        probe_video(data)


def test_truncated_videos_are_refused() -> None:
    """Frames that the header promised and the file lacks are one sentence."""
    data = make_video(30, kind="matroska")
    with pytest.raises(ValueError, match="video ends before its frame 29"):
        list(decode_frames(data[: len(data) * 2 // 3], np.array([0, 29])))
