"""Records of the native world: pictures of many sizes and aspects, small print, videos, and episodes on a screen."""

import math

import numpy as np

from data_pipelines.records import Record, StoredImage
from data_pipelines.synthetic.documents import document_questions, draw_page
from data_pipelines.synthetic.native_texts import KINDS, episode_turns, played
from data_pipelines.synthetic.screens import sample_screen
from data_pipelines.synthetic.small_print import sample_small_page
from data_pipelines.synthetic.texts import sample_text
from data_pipelines.synthetic.videos import clip_questions, render_clip, sample_clip

MEAN_SIDES = (64, 98)
"""Square root of a scene's area in pixels: some 4 x 6 to 8 x 6 patches."""
WIDEST_ASPECT = 2.2


def native_size(rng: np.random.Generator) -> tuple[int, int]:
    """(width, height) in pixels of a scene: area and aspect ratio vary alike over their octaves."""
    mean = math.exp(rng.uniform(*np.log(MEAN_SIDES)))
    stretch = math.exp(rng.uniform(-0.5, 0.5) * math.log(WIDEST_ASPECT))
    return round(mean * stretch), round(mean / stretch)


def small_print_record(rng: np.random.Generator, key: str, held_out: bool) -> Record:
    """A large picture with small print, and questions on it."""
    image, lines = draw_page(rng, sample_small_page(rng, held_out), framed=True)
    asked = document_questions(tuple(line.text for line in lines), rng)
    return Record(key, images=(image,), questions=asked, lines=lines)


def video_record(rng: np.random.Generator, key: str, held_out: bool) -> Record:
    """A short video with questions on motion and order."""
    clip = sample_clip(rng, held_out)
    return Record(key, videos=(render_clip(rng, clip),), questions=clip_questions(clip, rng))


def episode_record(rng: np.random.Generator, key: str, held_out: bool) -> Record:
    """The expert's way from a first screen to its goal: all screens, and all calls as turns."""
    start = sample_screen(rng, held_out)
    size = (start.width, start.height)
    images = tuple(StoredImage(screen.screenshot(), *size) for screen, _ in played(start))
    return Record(key, images=images, conversation=episode_turns(start, lambda number, _: f"<img>{number}</img>"))


def native_text_record(rng: np.random.Generator, key: str, held_out: bool) -> Record:
    """A text without a picture; there are no held-out ones."""
    return Record(key, text=sample_text(rng, KINDS))
