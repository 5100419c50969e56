"""What a model's `flops.py` tells: forward FLOPs of a global batch, by part."""

from collections.abc import Mapping
from typing import NamedTuple


class Flops(NamedTuple):
    """Forward FLOPs; parts in the order of the computation, from pixels to the loss.

    Attributes:
      weights: part -> of what is multiplied with weights.
      attention: part -> of scores and of the values' weighted sums.
      paths: part -> what the paths of its parameters start with.
    """

    weights: Mapping[str, float]
    attention: Mapping[str, float]
    paths: Mapping[str, str]
