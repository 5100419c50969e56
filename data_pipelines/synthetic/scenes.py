"""Scenes: a few objects of different shape, colour, size, texture and position (`rendering` draws them).

The held-out rule: an object whose attribute indices sum to a multiple of five occurs in held-out scenes only,
every other object in training scenes only. So no combination of the four attributes is in both, while every
pair of attribute values is trained: what is measured on held-out scenes is composition, not memory.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from data_pipelines.synthetic.backgrounds import Colour

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS: dict[str, Colour] = {
    "red": (212, 38, 38),
    "green": (38, 158, 52),
    "blue": (36, 76, 216),
    "yellow": (240, 212, 38),
    "white": (244, 244, 244),
    "black": (20, 20, 22),
}
SIZES = {"small": (0.26, 0.32), "large": (0.42, 0.52)}
"""Extent of an object as a share of the picture's mean side."""
TEXTURES = ("plain", "striped", "dotted")

COUNTS = (0.15, 0.50, 0.35)
"""Share of scenes with 1, 2, 3 objects."""
SIDES = (112, 160)
WIDEST_ASPECT = 1.25
GAP = 0.03
"""Least distance between two objects' boxes, as a share of the mean side."""
LEAST_X_DISTANCE = 0.12
"""Least distance between two objects' centres in x, as a share of the width: left to right is never in doubt.
"""


class Look(NamedTuple):
    """The four attributes of an object."""

    shape: str
    colour: str
    size: str
    texture: str


def is_held_out(look: Look) -> bool:
    """Whether this combination of attributes occurs in held-out scenes only (else in training ones only)."""
    indices = (
        SHAPES.index(look.shape),
        list(COLOURS).index(look.colour),
        list(SIZES).index(look.size),
        TEXTURES.index(look.texture),
    )
    return sum(indices) % 5 == 0


_ALL_LOOKS = tuple(itertools.starmap(Look, itertools.product(SHAPES, COLOURS, SIZES, TEXTURES)))
LOOKS = {held_out: tuple(look for look in _ALL_LOOKS if is_held_out(look) == held_out) for held_out in (False, True)}
"""False: the combinations of training scenes; True: those of held-out scenes."""


_ARM = 0.19
OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.44, -0.44), (0.44, -0.44), (0.44, 0.44), (-0.44, 0.44)),
    "triangle": ((0.0, -0.48), (0.52, 0.42), (-0.52, 0.42)),
    "cross": (
        *((-_ARM, -0.5), (_ARM, -0.5), (_ARM, -_ARM), (0.5, -_ARM), (0.5, _ARM), (_ARM, _ARM)),
        *((_ARM, 0.5), (-_ARM, 0.5), (-_ARM, _ARM), (-0.5, _ARM), (-0.5, -_ARM), (-_ARM, -_ARM)),
    ),
}
"""Corners of the shapes with corners, for an extent of 1 around the origin, y downwards."""
LARGEST_ANGLE = math.radians(14)


@dataclass(frozen=True)
class Object:
    """An object in a picture: its attributes, centre and extent in pixels, and its angle in radians."""

    look: Look
    x: float
    y: float
    extent: float
    angle: float

    @cached_property
    def outline(self) -> tuple[tuple[float, float], ...]:
        """The corners in pixels; () for round shapes."""
        cos, sin = math.cos(self.angle) * self.extent, math.sin(self.angle) * self.extent
        return tuple(
            (self.x + u * cos - v * sin, self.y + u * sin + v * cos) for u, v in OUTLINES.get(self.look.shape, ())
        )

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2): the tight box of what is drawn, in pixels."""
        if not self.outline:
            half = self.extent / 2
            return (self.x - half, self.y - half, self.x + half, self.y + half)
        xs, ys = zip(*self.outline)
        return (min(xs), min(ys), max(xs), max(ys))


ANNOTATION_STEPS = 50
"""Steps of a side to which annotated corners are rounded, as people who mark boxes round: of the three digits of a
coordinate, those that no one sees in 72 pixels (13.9 thousandths each) are then 0 instead of noise to be learned."""


def annotated(x: float, side: float) -> float:
    """A coordinate in pixels as it is annotated in a picture of that side."""
    # The small excess keeps `floor` of the thousandths at the multiple that is meant.
    return (round(x / side * ANNOTATION_STEPS) / ANNOTATION_STEPS + 1e-6) * side


@dataclass(frozen=True)
class Scene:
    """A picture's size in pixels and its objects from left to right."""

    width: int
    height: int
    objects: tuple[Object, ...]

    def annotated_box(self, item: Object) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2) in pixels of an object's box, rounded as annotations are."""
        x1, y1, x2, y2 = item.box
        width, height = self.width, self.height
        return (annotated(x1, width), annotated(y1, height), annotated(x2, width), annotated(y2, height))


def picture_size(rng: np.random.Generator) -> tuple[int, int]:
    """(width, height) in pixels of a stored picture, of mild aspect."""
    width = int(rng.integers(SIDES[0], SIDES[1] + 1))
    low = max(SIDES[0], math.ceil(width / WIDEST_ASPECT))
    return width, int(rng.integers(low, min(SIDES[1], math.floor(width * WIDEST_ASPECT)) + 1))


def _choose(rng: np.random.Generator, looks: list[Look]) -> Look:
    return looks[int(rng.integers(len(looks)))]


def sample_looks(
    rng: np.random.Generator, count: int, held_out: bool, given: tuple[Look, ...] = ()
) -> tuple[Look, ...]:
    """`count` looks, `given` ones first; no two share both colour and shape, but shapes and colours often
    repeat, so that counting and referring need more than one attribute.
    """
    looks = list(given)
    while len(looks) < count:
        pool = list(LOOKS[held_out])
        repeat = rng.random()
        if looks and repeat < 0.3:
            shape = _choose(rng, looks).shape
            pool = [look for look in pool if look.shape == shape]
        elif looks and repeat < 0.5:
            colour = _choose(rng, looks).colour
            pool = [look for look in pool if look.colour == colour]
        taken = {(look.shape, look.colour) for look in looks}
        pool = [look for look in pool if (look.shape, look.colour) not in taken]
        if pool:
            looks.append(_choose(rng, pool))
    return tuple(looks)


SCENE_ATTEMPTS = 1000


def _fits(candidate: Object, placed: list[Object], width: int, height: int) -> bool:
    gap = GAP * (width + height) / 2
    x1, y1, x2, y2 = candidate.box
    if x1 < 1 or y1 < 1 or x2 > width - 1 or y2 > height - 1:
        return False
    for other in placed:
        a1, b1, a2, b2 = other.box
        if x1 < a2 + gap and a1 < x2 + gap and y1 < b2 + gap and b1 < y2 + gap:
            return False
        if abs(candidate.x - other.x) < LEAST_X_DISTANCE * width:
            return False
    return True


def _place(rng: np.random.Generator, look: Look, placed: list[Object], size: tuple[int, int]) -> Object | None:
    mean = sum(size) / 2
    low, high = SIZES[look.size]
    extent = rng.uniform(low, high) * mean
    angle = rng.uniform(-LARGEST_ANGLE, LARGEST_ANGLE)
    for u, v in rng.random((24, 2)).tolist():
        x = extent / 2 + u * (size[0] - extent)
        y = extent / 2 + v * (size[1] - extent)
        candidate = Object(look, x, y, extent, angle)
        if _fits(candidate, placed, *size):
            return candidate
    return None


def sample_scene(
    rng: np.random.Generator,
    held_out: bool,
    given: tuple[Look, ...] = (),
    count: int | None = None,
    size_of: Callable[[np.random.Generator], tuple[int, int]] = picture_size,
) -> Scene:
    """A scene of held-out or of training looks. `given` looks are among its objects; `count` of them, or as
    `COUNTS`. `size_of` draws its (width, height) in pixels.
    """
    number = count or max(len(given), int(rng.choice(len(COUNTS), p=COUNTS)) + 1)
    for _ in range(SCENE_ATTEMPTS):
        looks = sample_looks(rng, number, held_out, given)
        for _ in range(8):
            size = size_of(rng)
            placed: list[Object] = []
            # Large ones first: small ones find room between them.
            for look in sorted(looks, key=lambda look: look.size == "small"):
                found = _place(rng, look, placed, size)
                if found is None:
                    break
                placed.append(found)
            if len(placed) == number:
                return Scene(*size, tuple(sorted(placed, key=lambda item: item.x)))
    raise RuntimeError(f"{number} objects found no place in {SCENE_ATTEMPTS} attempts")
