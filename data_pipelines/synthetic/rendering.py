"""Drawing of scenes, smooth at the edges: each object is drawn three times as large and reduced."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.records import StoredImage
from data_pipelines.synthetic.backgrounds import Colour, background
from data_pipelines.synthetic.scenes import COLOURS, Object, Scene

QUALITIES = (70, 95)
RIM = 0.045
"""Width of an object's border without stripes or dots, as a share of its extent: its outline stays whole."""
OVERSAMPLING = 3
RING_HOLE = 0.44
"""Diameter of a ring's hole as a share of the ring's."""
FRAME, FRAME_COLOUR = 3, (30, 30, 30)
"""Width in pixels, and colour, of the border that pictures of the native world have."""


def _jittered(rng: np.random.Generator, colour: Colour) -> Colour:
    red, green, blue = np.clip(np.array(colour) + rng.integers(-14, 15, 3), 0, 255).tolist()
    return (red, green, blue)


def _mark_colour(colour: Colour) -> Colour:
    """The colour of stripes and dots: a dark shade of light colours and a light shade of dark ones."""
    luminance = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]
    towards = 0 if luminance > 105 else 255
    red, green, blue = (int(0.66 * channel + 0.34 * towards) for channel in colour)
    return (red, green, blue)


def _marks(
    rng: np.random.Generator, texture: str, centre: np.ndarray, extent: float, size: tuple[int, int]
) -> Image.Image:
    """The mask of a texture's stripes or dots, mode L; lengths in oversampled pixels."""
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    angle = rng.uniform(0, math.pi)
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    if texture == "striped":
        period = extent * 0.21
        offset = rng.uniform(-0.5, 0.5)
        for row in range(-4, 5):
            middle = centre + across * (row + offset) * period
            line = [*(middle - along * extent), *(middle + along * extent)]
            draw.line(line, fill=255, width=max(1, round(period * 0.45)))
    else:
        period, radius = extent * 0.235, extent * 0.075
        i, j = np.indices((9, 9)).reshape(2, -1) - 4
        u, v = rng.uniform(-0.5, 0.5, 2)
        # Every second row is shifted by half a period, and rows lie closer: neighbours are equally far apart.
        dots = np.outer(i + u + 0.5 * (j % 2), along) + np.outer(0.87 * (j + v), across)
        for x, y in (centre + period * dots).tolist():
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    return mask


def _square_around(centre: np.ndarray, side: float) -> list[float]:
    return [*(centre - side / 2), *(centre + side / 2)]


def draw_object(rng: np.random.Generator, picture: Image.Image, item: Object) -> None:
    """Draws one object onto the picture, in a shade of its colour."""
    x1, y1, x2, y2 = item.box
    left, top = math.floor(x1) - 1, math.floor(y1) - 1
    size = (math.ceil(x2) + 1 - left, math.ceil(y2) + 1 - top)
    fine = (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING)
    centre = np.array([item.x - left, item.y - top]) * OVERSAMPLING
    extent = item.extent * OVERSAMPLING
    corners = [((x - left) * OVERSAMPLING, (y - top) * OVERSAMPLING) for x, y in item.outline]
    diameters = () if corners else (extent, extent * RING_HOLE) if item.look.shape == "ring" else (extent,)

    mask = Image.new("L", fine)
    draw = ImageDraw.Draw(mask)
    if corners:
        draw.polygon(corners, fill=255)
    for diameter, fill in zip(diameters, (255, 0)):
        draw.ellipse(_square_around(centre, diameter), fill=fill)

    colour = _jittered(rng, COLOURS[item.look.colour])
    paint = Image.new("RGB", size, colour)
    if item.look.texture != "plain":
        marks = _marks(rng, item.look.texture, centre, extent, fine)
        draw = ImageDraw.Draw(marks)
        rim = round(RIM * extent)
        if corners:
            draw.line([*corners, *corners[:2]], fill=0, width=2 * rim)
        for diameter in diameters:
            draw.ellipse(_square_around(centre, diameter + 2 * rim), outline=0, width=2 * rim)
        paint.paste(_mark_colour(colour), mask=marks.reduce(OVERSAMPLING))
    picture.paste(paint, (left, top), mask.reduce(OVERSAMPLING))


def stored_jpeg(rng: np.random.Generator, picture: Image.Image) -> StoredImage:
    """The picture as a JPEG of random quality."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(rng.integers(QUALITIES[0], QUALITIES[1] + 1)))
    return StoredImage(buffer.getvalue(), *picture.size)


def draw_frame(picture: Image.Image) -> None:
    """Draws the picture's border, as slides and screens have one; what lies there is covered.

    A ViT with rotary positions alone sees by it where a patch lies in the picture (`patches`).
    """
    right, lower = picture.width - 1, picture.height - 1
    ImageDraw.Draw(picture).rectangle([0, 0, right, lower], outline=FRAME_COLOUR, width=FRAME)


def render_scene(rng: np.random.Generator, scene: Scene, framed: bool = False) -> StoredImage:
    """Draws the scene over a random background."""
    picture = background(rng, (scene.width, scene.height))
    for item in scene.objects:
        draw_object(rng, picture, item)
    if framed:
        draw_frame(picture)
    return stored_jpeg(rng, picture)
