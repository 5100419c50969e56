"""Tensors of a PyTorch original and our parameters: how one becomes the other, for every model.

A model's `weights.py` holds its table: an original name, our paths, and the einops pattern from the original's axes to ours.
Where the original fuses several of our arrays into one tensor, the pattern's right side starts with `s`, one slice per path.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange


@dataclass(frozen=True)
class Entry:
    """One line of a table.

    Attributes:
      name: the original's tensor; `{}` stands for the number of the layer.
      paths: our parameters; those under `blocks/` hold all layers behind one leading axis.
      pattern: einops, the original's axes -> ours (of one layer).
    """

    name: str
    paths: tuple[str, ...]
    pattern: str = "d -> d"

    @property
    def part(self) -> str:
        """The part of the model that holds the arrays: the first word of their paths."""
        return self.paths[0].split("/")[0]


@dataclass(frozen=True)
class Layout:
    """A model's table with the sizes of one configuration.

    Attributes:
      table: all tensors of the original.
      layers: part -> layers that its entries with `{}` have.
      sizes: part -> axis letter -> size, for what einops cannot infer from a tensor.
    """

    table: tuple[Entry, ...]
    layers: Mapping[str, int]
    sizes: Mapping[str, Mapping[str, int]]


def norm_entries(name: str, path: str) -> tuple[Entry, Entry]:
    """Weight and bias of a LayerNorm."""
    return Entry(f"{name}.weight", (f"{path}/scale",)), Entry(f"{name}.bias", (f"{path}/bias",))


def qkv_paths(path: str, array: str) -> tuple[str, ...]:
    """The three projections that originals fuse; `array` is `kernel` or `bias`."""
    return tuple(f"{path}/{letter}/{array}" for letter in "qkv")


def layers_of(entry: Entry, layout: Layout) -> int:
    """Layers that the entry's arrays hold; 0 where they stand alone."""
    return layout.layers[entry.part] if "{}" in entry.name else 0


def original_names(layout: Layout) -> Iterator[tuple[str, Entry, int | None]]:
    """Every tensor of the original: its name, its entry, and its layer (None outside the stacks)."""
    for entry in layout.table:
        layers = layers_of(entry, layout)
        if not layers:
            yield entry.name, entry, None
        for layer in range(layers):
            yield entry.name.format(layer), entry, layer


def split(entry: Entry, tensor: Any, layout: Layout) -> list[Any]:
    """One original tensor as our arrays (of one layer), in the order of `entry.paths`."""
    arrays = rearrange(tensor, entry.pattern, **_sizes(entry, layout))
    return list(arrays) if len(entry.paths) > 1 else [arrays]


def join(entry: Entry, arrays: Sequence[Any], layout: Layout) -> Any:
    """Our arrays (of one layer), in the order of `entry.paths`, as the original tensor; the inverse of `split`."""
    original, ours = entry.pattern.split(" -> ")
    source = list(arrays) if len(entry.paths) > 1 else arrays[0]
    sizes = _sizes(entry, layout) if "(" in ours else {}
    return rearrange(source, f"{ours} -> {original}", **sizes)


def from_original(tensors: Mapping[str, np.ndarray], layout: Layout) -> dict[str, np.ndarray]:
    """Our parameters from all tensors of the original.

    Raises:
      ValueError: a tensor is missing, or one is there that the model does not have.
    """
    wanted = {name for name, _, _ in original_names(layout)}
    if wanted != set(tensors):
        wrong = sorted(wanted ^ set(tensors))[0]
        problem = "is missing from" if wrong in wanted else "is unknown: it stands in"
        raise ValueError(f"tensor {wrong} {problem} the checkpoint; is it of this model and configuration?")
    parameters: dict[str, np.ndarray] = {}
    for entry in layout.table:
        layers = layers_of(entry, layout)
        parts = [split(entry, tensors[entry.name.format(i)], layout) for i in range(max(layers, 1))]
        for number, path in enumerate(entry.paths):
            arrays = [part[number] for part in parts]
            parameters[path] = np.stack(arrays) if layers else arrays[0]
    return parameters


def to_original(parameters: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """All tensors of the original from our parameters; the inverse of `from_original`."""
    tensors = {}
    for name, entry, layer in original_names(layout):
        arrays = [parameters[path] if layer is None else parameters[path][layer] for path in entry.paths]
        tensors[name] = join(entry, arrays, layout)
    return tensors


def _sizes(entry: Entry, layout: Layout) -> dict[str, int]:
    """The sizes that the entry's pattern needs: of its fused axes."""
    known = {"s": len(entry.paths), **layout.sizes[entry.part]}
    grouped = "".join(group.partition(")")[0] for group in entry.pattern.split("(")[1:])
    return {letter: size for letter, size in known.items() if letter in grouped}
