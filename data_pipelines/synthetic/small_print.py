"""Small print: a word or number, or two, in letters of about a patch in a much larger picture.

Read at its own size such a line is a few patches wide. In a picture that is brought to a fixed low resolution first, a
capital is 2 to 5 pixels wide and high, and no one can read it: what native resolution is for.
"""

import io

import numpy as np
from PIL import Image

from data_pipelines.records import StoredImage, TextLine
from data_pipelines.synthetic.documents import render_document, sample_lines
from qwenvl_jax.processing.images import decode_image

WIDTHS, HEIGHTS = (168, 252), (84, 168)
"""Sides of a picture in pixels."""
CAPITALS = (11.0, 13.0)
"""Height of a capital in pixels; a patch has 14."""
LOW_RESOLUTION = 56
"""Side, in pixels, of the square that a model without native resolution would see: four vision tokens."""


def sample_small_print(rng: np.random.Generator, held_out: bool) -> tuple[StoredImage, tuple[TextLine, ...]]:
    """A rendered picture and its lines from top to bottom."""
    size = (int(rng.integers(WIDTHS[0], WIDTHS[1] + 1)), int(rng.integers(HEIGHTS[0], HEIGHTS[1] + 1)))
    lines = sample_lines(rng, size, held_out, CAPITALS)
    return render_document(rng, size, lines), tuple(TextLine(line.text, line.annotated_quad(size)) for line in lines)


def at_low_resolution(picture: bytes) -> bytes:
    """The encoded picture at the fixed low resolution, as PNG.

    Raises:
      ValueError: the picture cannot be decoded.
    """
    small = Image.fromarray(decode_image(picture)).resize((LOW_RESOLUTION,) * 2, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()
