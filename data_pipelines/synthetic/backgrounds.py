"""Procedural backgrounds: muted, so that objects of every colour stand out from each of them.

All of them are made by Pillow from a few random numbers (half a millisecond a picture), never from stored
photographs.
"""

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

# Value (brightness) of a background lies between these: black objects are darker, white ones lighter than all
# of it.
DARKEST, LIGHTEST = 0.36, 0.66
MOST_SATURATED = 0.24


def muted_colour(rng: np.random.Generator) -> Colour:
    """A colour of low saturation and middle brightness."""
    hue, saturation, value = rng.random(3)
    rgb = colorsys.hsv_to_rgb(hue, MOST_SATURATED * saturation, DARKEST + (LIGHTEST - DARKEST) * value)
    return (int(rgb[0] * 255), int(rgb[1] * 255), int(rgb[2] * 255))


def noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> Image.Image:
    """Value noise: random grey values on a grid of `cells` (across, down), smoothly enlarged to `size`, mode
    L.
    """
    grid = rng.integers(0, 256, (cells[1], cells[0]), dtype=np.uint8)
    return Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)


def _two_colours(rng: np.random.Generator, size: tuple[int, int], mask: Image.Image) -> Image.Image:
    picture = Image.new("RGB", size, muted_colour(rng))
    picture.paste(muted_colour(rng), mask=mask)
    return picture


def gradient(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A smooth change between four corner colours."""
    corners = np.array([muted_colour(rng) for _ in range(4)], np.uint8).reshape(2, 2, 3)
    return Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)


def clouds(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Two octaves of value noise."""
    coarse, fine = int(rng.integers(2, 5)), int(rng.integers(8, 20))
    mask = Image.blend(noise(rng, size, (coarse, coarse)), noise(rng, size, (fine, fine)), 0.35)
    return _two_colours(rng, size, mask)


def grain(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Noise stretched along one direction: wood, brushed metal, cloth."""
    fine = int(rng.integers(14, 40))
    cells = (2, fine) if rng.random() < 0.5 else (fine, 2)
    return _two_colours(rng, size, noise(rng, size, cells))


def blotches(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Soft patches of a few colours: stone, leaves, worn paint."""
    picture = Image.new("RGB", size, muted_colour(rng))
    for _ in range(int(rng.integers(2, 5))):
        cells = int(rng.integers(5, 11))
        patches = noise(rng, size, (cells, cells)).point(lambda grey: 255 if grey > 160 else 0)
        picture.paste(muted_colour(rng), mask=patches)
    return picture.filter(ImageFilter.BoxBlur(int(rng.integers(1, 4))))


def clutter(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A photograph out of focus: walls, furniture and lights of muted colours, blurred."""
    picture = gradient(rng, size)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(6, 14))):
        x, y = rng.random(2) * size
        w, h = (0.1 + 0.5 * rng.random(2)) * size
        corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        if rng.random() < 0.6:
            draw.rectangle(corners, fill=muted_colour(rng))
        else:
            draw.ellipse(corners, fill=muted_colour(rng))
    return picture.filter(ImageFilter.BoxBlur(int(rng.integers(3, 7))))


BACKGROUNDS: tuple[Callable[[np.random.Generator, tuple[int, int]], Image.Image], ...] = (
    gradient,
    clouds,
    grain,
    blotches,
    clutter,
)


def background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A background of a random kind; `size` is (width, height) in pixels, the result RGB."""
    return BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))](rng, size)
