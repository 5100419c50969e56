"""Sampling of scenes: the held-out rule and what makes every question answerable."""

import itertools

import numpy as np
import pytest

from data_pipelines.synthetic.scenes import (
    ANNOTATION_STEPS,
    COLOURS,
    GAP,
    LEAST_X_DISTANCE,
    LOOKS,
    OUTLINES,
    SHAPES,
    SIDES,
    SIZES,
    TEXTURES,
    WIDEST_ASPECT,
    annotated,
    is_held_out,
    sample_scene,
)
from qwenvl_jax.processing.markup import to_thousandths


def scenes(held_out: bool, number: int = 150):
    return [sample_scene(np.random.default_rng([1, held_out, i]), held_out) for i in range(number)]


SCENES = {held_out: scenes(held_out) for held_out in (False, True)}


def test_no_combination_is_in_both_splits():
    """Held-out scenes share no combination of attributes with training scenes."""
    looks = {key: {item.look for scene in found for item in scene.objects} for key, found in SCENES.items()}
    assert not looks[False] & looks[True]
    assert not set(LOOKS[False]) & set(LOOKS[True])
    assert all(is_held_out(look) for look in looks[True])
    assert len(LOOKS[False]) + len(LOOKS[True]) == len(SHAPES) * len(COLOURS) * len(SIZES) * len(TEXTURES)


def test_every_pair_of_values_is_trained():
    """Each two attribute values of a held-out look occur together in training looks."""
    for first, second in itertools.combinations(range(4), 2):
        trained = {(look[first], look[second]) for look in LOOKS[False]}
        assert {(look[first], look[second]) for look in LOOKS[True]} <= trained


@pytest.mark.parametrize("held_out", [False, True])
def test_objects_are_told_apart(held_out):
    """Objects lie inside, apart, left to right without doubt, and differ in colour or shape."""
    for scene in SCENES[held_out]:
        assert SIDES[0] <= min(scene.width, scene.height) <= max(scene.width, scene.height) <= SIDES[1]
        assert max(scene.width, scene.height) <= WIDEST_ASPECT * min(scene.width, scene.height)
        names = [(item.look.shape, item.look.colour) for item in scene.objects]
        assert len(set(names)) == len(names)
        for item in scene.objects:
            x1, y1, x2, y2 = item.box
            assert 0 < x1 < x2 < scene.width
            assert 0 < y1 < y2 < scene.height
        for first, second in itertools.pairwise(scene.objects):
            assert second.x - first.x >= LEAST_X_DISTANCE * scene.width
        gap = GAP * (scene.width + scene.height) / 2
        for first, second in itertools.combinations(scene.objects, 2):
            a, b = first.box, second.box
            assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= gap


def test_every_value_occurs():
    """All shapes, colours, sizes, textures and numbers of objects occur in some ten dozen scenes."""
    looks = [item.look for scene in SCENES[False] for item in scene.objects]
    assert {look.shape for look in looks} == set(SHAPES)
    assert {look.colour for look in looks} == set(COLOURS)
    assert {look.size for look in looks} == set(SIZES)
    assert {look.texture for look in looks} == set(TEXTURES)
    assert {len(scene.objects) for scene in SCENES[False]} == {1, 2, 3}
    assert set(OUTLINES) | {"circle", "ring"} == set(SHAPES)


def test_given_looks_are_in_the_scene():
    """A scene holds the looks that it was asked for, whatever else is in it."""
    look = LOOKS[True][3]
    scene = sample_scene(np.random.default_rng(0), True, given=(look,), count=3)
    assert look in [item.look for item in scene.objects]
    assert len(scene.objects) == 3


def test_annotated_coordinates_are_multiples():
    """What is annotated is written as a multiple of 20 thousandths, the nearest to what is drawn (999 at the far edge)."""
    for side in range(SIDES[0], SIDES[1] + 1):
        for step in range(ANNOTATION_STEPS + 1):
            for x in ((step - 0.49) / ANNOTATION_STEPS * side, (step + 0.49) / ANNOTATION_STEPS * side):
                assert to_thousandths(annotated(x, side), side) == min(20 * step, 999)
