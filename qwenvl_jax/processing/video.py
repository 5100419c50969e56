"""Videos for Qwen2-VL: which frames are shown, how large, and reading them (paper section 2.1).

What is shown follows from the header alone (frames, speed, size), so that lengths are known before anything is decoded.
Source of the named limits: the paper for training; `fetch_video` of qwen-vl-utils for what came later.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from qwenvl_jax.config import PAPER_VIDEOS, PixelLimits, VideoLimits
from qwenvl_jax.processing.patches import TEMPORAL_PATCH, Grid, grid_of, resize_frame, resize_within

FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,ogg,flv,gif"
"""What videos come in; FFmpeg's other readers (some open further files or addresses) never see a user's bytes."""
_TOKEN = 28 * 28
_UTILS_FRAME = PixelLimits(128 * _TOKEN, 768 * _TOKEN)

VIDEO_LIMITS = {
    # name: where these limits stand
    "paper": PAPER_VIDEOS,
    # qwen-vl-utils up to 0.0.8, and from 0.0.10 on. Long videos have more tokens than `total_pixels`: a frame's least
    # size comes first.
    "utils-0.0.8": VideoLimits(2.0, 4, 768, _UTILS_FRAME, 24576 * _TOKEN, round_down=False),
    "utils-0.0.10": VideoLimits(2.0, 4, 768, _UTILS_FRAME, 115200 * _TOKEN, round_down=True),
}


class VideoInfo(NamedTuple):
    """What a video's header and packets tell. Rotation that a player would apply is not."""

    frames: int
    frames_per_second: float
    height: int
    width: int


def frame_indices(info: VideoInfo, limits: VideoLimits) -> np.ndarray:
    """[F] int: the frames that are shown, evenly spread from the first to the last; F is even but for a video of one."""
    wanted = info.frames / info.frames_per_second * limits.frames_per_second
    wanted = min(max(wanted, limits.min_frames), limits.max_frames, info.frames)
    pairs = math.floor(wanted / TEMPORAL_PATCH) if limits.round_down else round(wanted / TEMPORAL_PATCH)
    pairs = min(max(pairs, 1), info.frames // TEMPORAL_PATCH)
    return np.linspace(0, info.frames - 1, max(pairs * TEMPORAL_PATCH, 1)).round().astype(int)


def frame_size(info: VideoInfo, frames: int, limits: VideoLimits, unit: int) -> tuple[int, int]:
    """Height and width, in pixels, of each of so many frames; errors of `resize_within`."""
    share = limits.total_pixels / frames * TEMPORAL_PATCH
    most = max(min(limits.frame.max_pixels, share), int(limits.frame.min_pixels * 1.05))
    return resize_within(info.height, info.width, PixelLimits(limits.frame.min_pixels, int(most)), unit)


def video_grid(info: VideoInfo, limits: VideoLimits, patch: int) -> Grid:
    """The grid of the frames that are shown; errors of `resize_within`."""
    count = len(frame_indices(info, limits))
    return grid_of(*frame_size(info, count, limits, 2 * patch), count, patch)


def probe_video(data: bytes) -> VideoInfo:
    """Frames are counted by their packets, as headers may lie; nothing is decoded.

    Raises:
      ValueError: the data is no video of `FORMATS`, or has no frames.
    """
    with _opened(data) as (container, stream):
        frames = sum(packet.size > 0 for packet in container.demux(stream))
        rate = stream.average_rate or stream.guessed_rate
        if not (frames and rate and stream.height and stream.width):
            raise ValueError(f"{len(data)} bytes of {container.format.name} hold no frames; store the video again")
        return VideoInfo(frames, float(rate), stream.height, stream.width)


def video_frames(data: bytes, grid: Grid, limits: VideoLimits, patch: int) -> np.ndarray:
    """[F, Y, X, 3] uint8: the frames that are shown, in the size of the grid.

    Args:
      grid: that of `video_grid`, or a smaller one with the same number of frames.

    Raises:
      ValueError: as `probe_video`, or frames cannot be decoded.
    """
    info = probe_video(data)
    indices = frame_indices(info, limits)
    size = (grid.rows * patch, grid.columns * patch)
    return np.stack([resize_frame(frame, *size) for frame in decode_frames(data, indices)])


def decode_frames(data: bytes, indices: np.ndarray) -> Iterator[np.ndarray]:
    """The frames of these ascending numbers, [Y, X, 3] uint8 RGB. Decodes from the start: seeking is not exact.

    Raises:
      ValueError: as `probe_video`, or a frame is missing or damaged.
    """
    wanted = [int(index) for index in indices]
    given = 0
    to_rgb = (
        VideoReformatter()
    )  # one for all: a frame's own prepares the conversion anew, half of all the time of a small video
    with _opened(data) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            while given < len(wanted) and wanted[given] == number:
                yield to_rgb.reformat(frame, format="rgb24").to_ndarray()
                given += 1
            if given == len(wanted):
                return
    raise ValueError(f"video ends before its frame {wanted[given]}; store it again")


@contextmanager
def _opened(data: bytes) -> Iterator[tuple]:
    """The container and its video stream; what FFmpeg says becomes one sentence."""
    try:
        with av.open(io.BytesIO(data), options={"format_whitelist": FORMATS}) as container:
            if not container.streams.video:
                raise ValueError(f"{len(data)} bytes of {container.format.name} hold no video; give one of {FORMATS}")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        start = f"{len(data)} bytes that start with {data[:8]!r}"
        raise ValueError(f"{start} are no readable video ({error.strerror}); give one of {FORMATS}") from error
