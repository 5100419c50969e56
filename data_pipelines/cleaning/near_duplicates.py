"""Pictures that are nearly the same, by a perceptual hash of 64 bits and the mean colour.

A picture is left out where an earlier one of the corpus is alike: their hashes differ in at most so many bits, and their
mean colours hardly. So the first in order always stays, and which others go depends on neither engine nor workers. An
earlier picture counts although it is left out itself: of a row of pictures, each alike to the next, the first stays.
Half of a hash's bits are set, so hashes differ in 0, 2, 4, ... bits.

Pairs are found without comparing all. The 64 bits are cut into two blocks more than bits may differ, so two blocks at
least are equal; for every two blocks (a table), only pictures are compared that are equal there.
"""

import math
from itertools import combinations, pairwise

import numpy as np
from PIL import Image

SIDE = 32
"""Pixels to which a picture is brought."""
FREQUENCIES = sorted(
    ((u, v) for u in range(11) for v in range(11) if 0 < u + v < 11), key=lambda pair: (sum(pair), pair)
)[:64]
"""The 64 lowest, from both sides of the picture, but the mean."""
COSINES = np.array(
    [[round(4096 * math.cos((2 * n + 1) * k * math.pi / (2 * SIDE)) / (1 if k else math.sqrt(2))) for n in range(SIDE)]
     for k in range(11)]
)  # fmt: skip
"""[11, 32] the first rows of a cosine transform in integers, whose sums are the same on every machine."""
FLAT = 16
"""Steps of grey between the darkest and the lightest of those pixels, below which a picture shows too little to be
compared: of blank pictures one would be left, whatever their captions."""
COLOUR_STEPS = 6
"""By which the means of the two colour channels of alike pictures may differ. The hash sees grey alone; a picture that
differs in its colours is another one, as its caption says. Compression and scaling change the means by one or two."""
MOST_BITS = 8
"""More are not asked for: tables become many, and their blocks so short that nearly all pictures are compared."""

SIGNATURE = np.dtype([("hash", "<u8"), ("colour", "u1", 2)])
"""What is kept of a picture, 10 bytes; the hash of one that cannot be compared is 0, which no other has."""


def signature(pixels: np.ndarray) -> np.ndarray:
    """[] of `SIGNATURE` for a picture [H, W, 3] uint8."""
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    grey, *colours = np.moveaxis(np.asarray(small.convert("YCbCr"), np.int64), 2, 0)
    found = np.zeros((), SIGNATURE)
    found["colour"] = [np.rint(channel.mean()) for channel in colours]
    if grey.max() - grey.min() >= FLAT:
        waves = COSINES @ grey @ COSINES.T
        values = np.array([waves[pair] for pair in FREQUENCIES])
        # Half of the bits are set: those above the lower median.
        found["hash"] = np.packbits(values > np.sort(values)[31]).view(">u8")[0]
    return found


def tables(bits: int) -> tuple[int, ...]:
    """The masks of the tables in which all pairs of hashes meet that differ in at most so many bits.

    Raises:
      ValueError: more than `MOST_BITS`, or fewer than none.
    """
    if not 0 <= bits <= MOST_BITS:
        raise ValueError(f"near-duplicates may differ in 0 to {MOST_BITS} bits of 64, not in {bits}")
    ends = [64 * n // (bits + 2) for n in range(bits + 3)]
    blocks = [(1 << end) - (1 << begin) for begin, end in pairwise(ends)]
    return tuple(first | second for first, second in combinations(blocks, 2))


def part_of(hashes: np.ndarray, mask: int, parts: int) -> np.ndarray:
    """[n] the part of a table in which each hash [n] uint64 lies: those that are equal under the mask lie in the same."""
    mixed = (hashes & np.uint64(mask)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(32)) % np.uint64(parts)


def alike(first: np.ndarray, second: np.ndarray, bits: int) -> np.ndarray:
    """[n] bool of two arrays [n] of `SIGNATURE`."""
    colours = first["colour"].astype(np.int16) - second["colour"]
    return (np.bitwise_count(first["hash"] ^ second["hash"]) <= bits) & (np.abs(colours).max(-1) <= COLOUR_STEPS)


def alike_to_earlier(signatures: np.ndarray, mask: int, bits: int) -> np.ndarray:
    """[n] bool: whether a signature before it, equal under the mask, is alike. Signatures [n] stand in their order.

    In a group of equal ones, each is compared with the one before it, then with the one before that, until one is alike or
    there is none: the work is small where most are alike, and grows with the square of groups in which none are.
    """
    keys = signatures["hash"] & np.uint64(mask)
    order = np.argsort(keys, kind="stable")
    keys, sorted_ = keys[order], signatures[order]
    begins = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
    rank = np.arange(len(keys)) - np.repeat(begins, np.diff(begins, append=len(keys)))
    found = np.zeros(len(keys), bool)
    left, lag = np.flatnonzero((rank > 0) & (sorted_["hash"] != 0)), 1
    while len(left):
        is_alike = alike(sorted_[left], sorted_[left - lag], bits)
        found[order[left[is_alike]]] = True
        left, lag = left[~is_alike & (rank[left] > lag)], lag + 1
    return found
