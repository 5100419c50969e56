"""Resizing beside PIL, on one core: `python -m launch.benchmarks.resize` prints a table in Markdown.

Pictures of noise, which cost what others do; the two take turns, and the least of the repeats counts. PIL keeps its memory.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from qwenvl_jax.processing.images import keep_memory
from qwenvl_jax.processing.resize import resize_bicubic

SIZES = (((512, 512), (224, 224)), ((512, 512), (448, 448)), ((512, 512), (504, 504)), ((1080, 1920), (1092, 1932)))
"""Height and width, before and behind: the shapes of `launch.benchmarks.loaders`, and a frame of a video."""
REPEATS = 50


def by_pil(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def milliseconds(function: Callable[[], np.ndarray]) -> float:
    began = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    keep_memory()
    print("| pixels | PIL | ours | |\n|---|--:|--:|--:|")
    for before, after in SIZES:
        picture = np.random.default_rng(0).integers(0, 256, (*before, 3), np.uint8)
        np.testing.assert_array_equal(resize_bicubic(picture, *after), by_pil(picture, *after))
        both = [partial(resize, picture, *after) for resize in (by_pil, resize_bicubic)]
        theirs, ours = map(min, zip(*([milliseconds(resize) for resize in both] for _ in range(REPEATS))))
        sizes = " -> ".join(f"{width} x {height}" for height, width in (before, after))
        print(f"| {sizes} | {theirs:.2f} ms | {ours:.2f} ms | {ours / theirs:.2f} |")


if __name__ == "__main__":
    main()
