"""Small print: words and numbers in letters of about a patch in a much larger picture.

Read at its own size such a line is a few patches wide. In a picture that is brought to a fixed low resolution first, a
capital is 3 pixels wide and up to 9 high: enlarged, a person may still make it out, but a patch has five letters of two
lines, and a model knows them no more. That is what native resolution is for.
"""

import io

import numpy as np
from PIL import Image

from data_pipelines.synthetic.documents import Page, sample_lines
from qwenvl_jax.processing.images import decode_image

WIDTHS, HEIGHTS = (200, 236), (102, 138)
"""Sides of a picture in pixels."""
CAPITALS = (14.0, 16.0)
"""Height of a capital in pixels; a patch has 14."""
LINES = (0.1, 0.25, 0.35, 0.3)
"""Share of pictures with 1 to 4 lines. With one or two, 0.04 of the patches had a character, and a ViT that had seen 12,000
pictures told 0.55 of them."""
LOW_RESOLUTION = 56
"""Side, in pixels, of the square that a model without native resolution would see: four vision tokens."""


def sample_small_page(rng: np.random.Generator, held_out: bool) -> Page:
    """The page of a picture with small print."""
    size = (int(rng.integers(WIDTHS[0], WIDTHS[1] + 1)), int(rng.integers(HEIGHTS[0], HEIGHTS[1] + 1)))
    return size, sample_lines(rng, size, held_out, CAPITALS, LINES)


def at_low_resolution(picture: bytes) -> bytes:
    """The encoded picture at the fixed low resolution, as PNG.

    Raises:
      ValueError: the picture cannot be decoded.
    """
    small = Image.fromarray(decode_image(picture)).resize((LOW_RESOLUTION,) * 2, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()
