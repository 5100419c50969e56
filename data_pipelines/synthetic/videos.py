"""Short videos: objects that move, or that appear one after the other, and questions on motion and order.

What is asked cannot be told from any single frame. Objects follow the held-out rule of scenes.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace

import av
import numpy as np
from PIL import Image

from data_pipelines.records import Question, StoredVideo
from data_pipelines.synthetic.backgrounds import background
from data_pipelines.synthetic.rendering import draw_frame, draw_object
from data_pipelines.synthetic.scenes import LARGEST_ANGLE, Object, Scene, sample_looks, sample_scene
from data_pipelines.synthetic.wording import name, pick

FRAMES_PER_SECOND = 4
SECONDS = (2, 4)
WIDTHS, HEIGHTS = (70, 98), (56, 84)
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""In pictures y grows downwards."""
EXTENTS = (0.4, 0.52)
"""Of an object that moves, as a share of the shorter side of its part of the picture."""
STILL_SHARE = 0.3
MOVING_SHARE = 0.5
"""Share of videos of objects that move; in the others objects appear."""
MOST_QUESTIONS = 3
QUANTIZER = 3
"""Of the encoder, 2 (best) to 31."""


@dataclass(frozen=True)
class Clip:
    """A scene in time.

    Attributes:
      scene: the objects where they are at the start.
      directions: of each object, a name of `DIRECTIONS` or "" for one that stands still.
      paths: (dx, dy) in pixels that each object goes from the first frame to the last.
      appears: number of the frame from which on each object is there.
      frames: number of frames.
    """

    scene: Scene
    directions: tuple[str, ...]
    paths: tuple[tuple[float, float], ...]
    appears: tuple[int, ...]
    frames: int


def video_size(rng: np.random.Generator) -> tuple[int, int]:
    """(width, height) in pixels; even, as video codecs want it."""
    return tuple(2 * int(rng.integers(low // 2, high // 2 + 1)) for low, high in (WIDTHS, HEIGHTS))  # type: ignore[return-value]


def _frames(rng: np.random.Generator, least_seconds: int) -> int:
    return FRAMES_PER_SECOND * int(rng.integers(least_seconds, SECONDS[1] + 1))


def sample_moving(rng: np.random.Generator, held_out: bool) -> Clip:
    """One object that moves, or two side by side, each in its own part of the picture; one of two may stand still."""
    width, height = video_size(rng)
    looks = sample_looks(rng, int(rng.integers(1, 3)), held_out)
    part = width / len(looks)
    objects, directions, paths = [], [], []
    for number, look in enumerate(looks):
        extent = rng.uniform(*EXTENTS) * min(part, height)
        margin = 0.56 * extent + 1  # a turned object is a little wider than its extent
        low = np.array([number * part + margin, margin])
        free = np.array([part, height]) - 2 * margin
        direction = pick(rng, list(DIRECTIONS))
        if number == 1 and rng.random() < STILL_SHARE:
            direction = ""
        # From the first fifth of the free way to its last one; anywhere on the other axis.
        way = np.abs(DIRECTIONS.get(direction, (0, 0)))
        ends = np.array([rng.uniform(0, 0.2, 2), rng.uniform(0.8, 1, 2)]) * way + rng.random(2) * (1 - way)
        if direction in ("left", "up"):
            ends = ends[::-1]
        (x, y), path = low + ends[0] * free, (ends[1] - ends[0]) * free
        objects.append(Object(look, float(x), float(y), float(extent), rng.uniform(-LARGEST_ANGLE, LARGEST_ANGLE)))
        directions.append(direction)
        paths.append((float(path[0]), float(path[1])))
    scene = Scene(width, height, tuple(objects))
    return Clip(scene, tuple(directions), tuple(paths), (0,) * len(objects), _frames(rng, SECONDS[0]))


def sample_appearing(rng: np.random.Generator, held_out: bool) -> Clip:
    """Two or three objects, a second or more between one's appearance and the next one's; they stay."""
    scene = sample_scene(rng, held_out, count=int(rng.integers(2, 4)), size_of=video_size)
    count = len(scene.objects)
    frames = _frames(rng, max(SECONDS[0], count))
    appears = tuple(int(rank) * frames // count for rank in rng.permutation(count))
    return Clip(scene, ("",) * count, ((0.0, 0.0),) * count, appears, frames)


def sample_clip(rng: np.random.Generator, held_out: bool) -> Clip:
    """A clip of either kind."""
    return (sample_moving if rng.random() < MOVING_SHARE else sample_appearing)(rng, held_out)


def clip_questions(clip: Clip, rng: np.random.Generator) -> tuple[Question, ...]:
    """Up to three questions of kind `motion` or `order`, in random order."""
    names = [name(item) for item in clip.scene.objects]
    asked = [
        Question(f"Which way does the {phrase} move?", direction, "motion")
        for phrase, direction in zip(names, clip.directions)
        if direction
    ]
    if len(names) == 2 and not any(clip.appears):
        i = int(rng.integers(2))
        asked.append(Question(f"Does the {names[i]} move?", "yes" if clip.directions[i] else "no", "motion"))
    if any(clip.appears):
        ordered = [names[i] for i in np.argsort(clip.appears)]
        first, second = rng.permutation(len(ordered))[:2]
        asked += [
            Question("Which object appears first?", ordered[0], "order"),
            Question("Which object appears last?", ordered[-1], "order"),
            Question(
                f"Does the {ordered[first]} appear before the {ordered[second]}?",
                "yes" if first < second else "no",
                "order",
            ),
        ]
    return tuple(asked[i] for i in rng.permutation(len(asked))[:MOST_QUESTIONS])


def render_clip(rng: np.random.Generator, clip: Clip) -> StoredVideo:
    """Draws the clip over a random background and encodes it."""
    size = (clip.scene.width, clip.scene.height)
    still = background(rng, size)
    # An object's shade and marks are drawn from a seed of its own: they are the same in every frame.
    seeds = rng.integers(2**32, size=len(clip.scene.objects))

    def frame(number: int) -> Image.Image:
        picture = still.copy()
        share = number / max(1, clip.frames - 1)
        for item, (dx, dy), appears, seed in zip(clip.scene.objects, clip.paths, clip.appears, seeds):
            if number >= appears:
                moved = replace(item, x=item.x + share * dx, y=item.y + share * dy)
                draw_object(np.random.default_rng(seed), picture, moved)
        draw_frame(picture)
        return picture

    data = encode_video((frame(number) for number in range(clip.frames)), size)
    return StoredVideo(data, clip.frames, float(FRAMES_PER_SECOND), *size)


def encode_video(frames: Iterable[Image.Image], size: tuple[int, int]) -> bytes:
    """The frames as MPEG-4 in MP4, by one thread: the same frames give the same bytes."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=FRAMES_PER_SECOND)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.qmin = stream.codec_context.qmax = QUANTIZER
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return file.getvalue()
