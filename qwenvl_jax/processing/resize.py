"""PIL's bicubic resize of 8-bit RGB pictures with all of its bits, compiled for vectors: about a third of PIL's time,
which is most of what a loader of pictures does (`python -m launch.benchmarks.resize`).

Source: what Pillow 13 computes (`src/libImaging/Resample.c`): one axis after the other, each result rounded to 8 bits, with
the weights of Keys' cubic (a = -0.5), stretched where the picture gets smaller, as whole numbers of 2^-22.

Shape legend: Y, X the picture's height and width, y, x those of the result, T taps: the most numbers that one is made of.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numba import njit

WEIGHT_BITS = 22
"""A sum of weights times 255 has 30 bits, those below 0 and above 255 included."""
ROWS = 32
"""Rows that are turned at a time, so that those that are summed lie next to each other and in the cache."""
COLUMNS = 512
"""Numbers that are summed at a time."""


def compiled(function: Callable) -> Callable:
    """The function as machine code, made at its first call and kept on disk where there is a place to write to."""
    kernel: Any = njit(nogil=True)(function)
    # Where neither this folder nor the user's cache can be written to, each process compiles anew: 3 s.
    with suppress(RuntimeError):
        kernel.enable_caching()
    return kernel


def resize_bicubic(picture: np.ndarray, height: int, width: int, planar: bool = False) -> np.ndarray:
    """[Y, X, 3] uint8 -> [height, width, 3] uint8, the bits of PIL's `Image.resize((width, height), BICUBIC)`.

    Args:
      planar: in memory the result is (3, height, width).
    """
    # Pillow 13 begins with the height where it loses more than twice as many pixels as the width, found by its results on
    # 2,600 random shapes; older ones always begin with the width, and round otherwise there.
    height_first = picture.shape[0] - height > max(0, 2 * (picture.shape[1] - width))
    if height_first:
        picture = _resized_height(picture, height)
    picture = _resized_width(picture, width, planar)
    return picture if height_first else _resized_height(picture, height)


def _resized_width(picture: np.ndarray, width: int, planar: bool) -> np.ndarray:
    """[Y, X, 3] -> [Y, width, 3]."""
    length, size = picture.shape[:2]
    if size == width and not planar:
        return picture
    result = (
        np.empty((3, length, width), np.uint8).transpose(1, 2, 0) if planar else np.empty((length, width, 3), np.uint8)
    )
    if size == width:
        result[:] = picture
    else:
        _sum_columns(np.ascontiguousarray(picture), *_taps(size, width), result)
    return result


def _resized_height(picture: np.ndarray, height: int) -> np.ndarray:
    """[Y, X, 3] -> [height, X, 3], planar in memory where the picture is."""
    size, width = picture.shape[:2]
    if size == height:
        return picture
    if picture.transpose(2, 0, 1).flags.c_contiguous:
        result = np.empty((3, height, width), np.uint8)
        _sum_rows(picture.transpose(2, 0, 1), *_taps(size, height), result)
        return result.transpose(1, 2, 0)
    result = np.empty((height, width, 3), np.uint8)
    rows = np.ascontiguousarray(picture).reshape(1, size, width * 3)
    _sum_rows(rows, *_taps(size, height), result.reshape(1, height, width * 3))
    return result


@compiled
def _taps(size: int, resized: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first pixel that each of the result's is made of, how many there are ([resized] int32 both), and their weights
    [resized, T] int32."""
    scale = size / resized
    stretch = max(scale, 1.0)
    reach = 2.0 * stretch
    first = np.empty(resized, np.int32)
    count = np.empty(resized, np.int32)
    weights = np.zeros((resized, 2 * math.ceil(reach) + 1), np.int32)
    for place in range(resized):
        centre = (place + 0.5) * scale
        start = max(int(centre - reach + 0.5), 0)
        taps = min(int(centre + reach + 0.5), size) - start
        cubic = np.empty(taps)
        total = 0.0
        for tap in range(taps):
            x = abs((tap + start - centre + 0.5) * (1.0 / stretch))
            if x < 1.0:
                cubic[tap] = (1.5 * x - 2.5) * x * x + 1
            elif x < 2.0:
                cubic[tap] = (((x - 5) * x + 8) * x - 4) * -0.5
            else:
                cubic[tap] = 0.0
            total += cubic[tap]
        for tap in range(taps):
            weight = (cubic[tap] / total if total != 0.0 else cubic[tap]) * (1 << WEIGHT_BITS)
            weights[place, tap] = int(weight - 0.5) if weight < 0 else int(weight + 0.5)
        first[place], count[place] = start, taps
    return first, count, weights


@compiled
def _sum_columns(
    picture: np.ndarray, first: np.ndarray, count: np.ndarray, weights: np.ndarray, result: np.ndarray
) -> None:
    """[Y, X, 3] -> [Y, x, 3], into `result`. Neighbours in a row have different weights; those in a column do not."""
    height, width, _ = picture.shape
    turned = np.empty((width, ROWS * 3), np.uint8)
    sums = np.empty(ROWS * 3, np.int32)
    for top in range(0, height, ROWS):
        rows = min(ROWS, height - top)
        for column in range(width):
            for row in range(rows):
                turned[column, 3 * row] = picture[top + row, column, 0]
                turned[column, 3 * row + 1] = picture[top + row, column, 1]
                turned[column, 3 * row + 2] = picture[top + row, column, 2]
        for place in range(len(first)):
            sums[:] = 1 << (WEIGHT_BITS - 1)
            for tap in range(count[place]):
                weight = weights[place, tap]
                column = first[place] + tap
                for number in range(ROWS * 3):
                    sums[number] += np.int32(turned[column, number]) * weight
            for row in range(rows):
                for channel in range(3):
                    result[top + row, place, channel] = min(max(sums[3 * row + channel] >> WEIGHT_BITS, 0), 255)


@compiled
def _sum_rows(
    planes: np.ndarray, first: np.ndarray, count: np.ndarray, weights: np.ndarray, result: np.ndarray
) -> None:
    """[P, Y, M] -> [P, y, M], into `result`."""
    sums = np.empty(COLUMNS, np.int32)
    for plane in range(len(planes)):
        for place in range(len(first)):
            for left in range(0, planes.shape[2], COLUMNS):
                numbers = min(COLUMNS, planes.shape[2] - left)
                sums[:] = 1 << (WEIGHT_BITS - 1)
                for tap in range(count[place]):
                    weight = weights[place, tap]
                    row = planes[plane, first[place] + tap, left : left + numbers]
                    for number in range(numbers):
                        sums[number] += np.int32(row[number]) * weight
                target = result[plane, place, left : left + numbers]
                for number in range(numbers):
                    target[number] = min(max(sums[number] >> WEIGHT_BITS, 0), 255)
