"""Drawing of scenes: what is drawn is where and what the ground truth says."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines.synthetic.backgrounds import BACKGROUNDS, DARKEST, LIGHTEST, MOST_SATURATED
from data_pipelines.synthetic.rendering import draw_object, render_scene
from data_pipelines.synthetic.scenes import COLOURS, SHAPES, TEXTURES, Look, Object, sample_scene


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("texture", TEXTURES)
def test_box_is_tight(shape, texture):
    """The box of an object is the box of its drawn pixels, to one pixel."""
    for angle in (0.0, 0.2):
        item = Object(Look(shape, "red", "large", texture), 61.3, 58.6, 44.0, angle)
        picture = Image.new("RGB", (120, 120), (90, 90, 90))
        draw_object(np.random.default_rng(0), picture, item)
        changed = np.abs(np.asarray(picture).astype(int) - 90).sum(-1) > 60
        ys, xs = np.nonzero(changed)
        drawn = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert np.abs(np.subtract(drawn, item.box)).max() < 1.5


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("texture", TEXTURES)
def test_colour_is_unmistakable(colour, texture):
    """With every texture, half of an object's pixels or more are nearer to its colour than to any other."""
    item = Object(Look("square", colour, "large", texture), 40.0, 40.0, 50.0, 0.0)
    picture = Image.new("RGB", (80, 80), (90, 90, 90))
    draw_object(np.random.default_rng(0), picture, item)
    inside = np.asarray(picture)[20:60, 20:60].reshape(-1, 1, 3).astype(float)
    nearest = np.linalg.norm(inside - np.array(list(COLOURS.values())), axis=-1).argmin(-1)
    assert (nearest == list(COLOURS).index(colour)).mean() > 0.5


@pytest.mark.parametrize("make", BACKGROUNDS)
def test_backgrounds_are_muted(make):
    """No background has a pixel that could be taken for an object's: middle brightness, low saturation."""
    for seed in range(5):
        pixels = np.asarray(make(np.random.default_rng(seed), (120, 96)).convert("HSV"))
        assert pixels.shape == (96, 120, 3)
        assert pixels[..., 1].max() <= 255 * (MOST_SATURATED + 0.08)
        assert pixels[..., 2].min() >= 255 * (DARKEST - 0.06)
        assert pixels[..., 2].max() <= 255 * (LIGHTEST + 0.06)


def test_picture_is_a_jpeg_of_the_scene():
    """A rendered scene is a JPEG of the scene's size; the same seed gives the same bytes."""
    scene = sample_scene(np.random.default_rng(3), held_out=False)
    image = render_scene(np.random.default_rng(4), scene)
    assert Image.open(io.BytesIO(image.data)).size == (scene.width, scene.height) == (image.width, image.height)
    assert image == render_scene(np.random.default_rng(4), scene)
