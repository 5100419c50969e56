"""Tensors of the PyTorch original and our parameters: which is which, and how one becomes the other.

`TABLE` is the whole truth: an original name, our paths, and the einops pattern from the original's axes to ours.
Where the original fuses several of our arrays into one tensor, the pattern's right side starts with `s`, one
slice per path.
Original linear weights are [out, in], convolutions [out, in, rows, columns]; `proj` of the vision tower is [in, out].

Axis letters: s fused slices, d width, e other width, f mlp width, n heads, h head size, v vocabulary; of the
convolution c channels, p and q a patch's rows and columns (p alone: positions).
Source: `pytorch_model.bin.index.json` of the original and the modules that hold the tensors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange

from qwenvl_jax.config import QwenVLConfig


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
      name: the original's tensor; `{}` stands for the number of the layer.
      paths: our parameters; those under `blocks/` hold all layers behind one leading axis.
      pattern: einops, the original's axes -> ours (of one layer).
    """

    name: str
    paths: tuple[str, ...]
    pattern: str = "d -> d"


def _norm(name: str, path: str) -> tuple[Entry, Entry]:
    return Entry(f"{name}.weight", (f"{path}/scale",)), Entry(f"{name}.bias", (f"{path}/bias",))


def _qkv(path: str, part: str) -> tuple[str, ...]:
    return tuple(f"{path}/{letter}/{part}" for letter in "qkv")


_VISUAL = "transformer.visual"
_VIT = f"{_VISUAL}.transformer.resblocks.{{}}"
_POOL = f"{_VISUAL}.attn_pool"
_LAYER = "transformer.h.{}"

TABLE: tuple[Entry, ...] = (
    Entry(f"{_VISUAL}.conv1.weight", ("vision/patch_embedding/kernel",), "d c p q -> (p q c) d"),
    Entry(f"{_VISUAL}.positional_embedding", ("vision/position",), "p d -> p d"),
    *_norm(f"{_VISUAL}.ln_pre", "vision/norm_pre"),
    *_norm(f"{_VIT}.ln_1", "vision/blocks/norm_1"),
    # Megatron's layout: rows ordered (head, q|k|v, head size), unlike every other fused projection here.
    Entry(f"{_VIT}.attn.in_proj.weight", _qkv("vision/blocks", "kernel"), "(n s h) d -> s d n h"),
    Entry(f"{_VIT}.attn.in_proj.bias", _qkv("vision/blocks", "bias"), "(n s h) -> s n h"),
    Entry(f"{_VIT}.attn.out_proj.weight", ("vision/blocks/out/kernel",), "d (n h) -> n h d"),
    Entry(f"{_VIT}.attn.out_proj.bias", ("vision/blocks/out/bias",)),
    *_norm(f"{_VIT}.ln_2", "vision/blocks/norm_2"),
    Entry(f"{_VIT}.mlp.c_fc.weight", ("vision/blocks/up/kernel",), "f d -> d f"),
    Entry(f"{_VIT}.mlp.c_fc.bias", ("vision/blocks/up/bias",)),
    Entry(f"{_VIT}.mlp.c_proj.weight", ("vision/blocks/down/kernel",), "d f -> f d"),
    Entry(f"{_VIT}.mlp.c_proj.bias", ("vision/blocks/down/bias",)),
    Entry(f"{_POOL}.query", ("adapter/query",), "p d -> p d"),
    Entry(f"{_POOL}.pos_embed", ("adapter/position",), "p d -> p d"),
    Entry(f"{_POOL}.kv_proj.weight", ("adapter/kv/kernel",), "e d -> d e"),
    *_norm(f"{_POOL}.ln_q", "adapter/norm_q"),
    *_norm(f"{_POOL}.ln_kv", "adapter/norm_kv"),
    Entry(f"{_POOL}.attn.in_proj_weight", _qkv("adapter", "kernel"), "(s n h) d -> s d n h"),
    Entry(f"{_POOL}.attn.in_proj_bias", _qkv("adapter", "bias"), "(s n h) -> s n h"),
    Entry(f"{_POOL}.attn.out_proj.weight", ("adapter/out/kernel",), "d (n h) -> n h d"),
    Entry(f"{_POOL}.attn.out_proj.bias", ("adapter/out/bias",)),
    *_norm(f"{_VISUAL}.ln_post", "adapter/norm_post"),
    Entry(f"{_VISUAL}.proj", ("adapter/projection/kernel",), "d e -> d e"),
    Entry("transformer.wte.weight", ("language/embedding",), "v d -> v d"),
    Entry(f"{_LAYER}.ln_1.weight", ("language/blocks/norm_1/scale",)),
    Entry(f"{_LAYER}.attn.c_attn.weight", _qkv("language/blocks", "kernel"), "(s n h) d -> s d n h"),
    Entry(f"{_LAYER}.attn.c_attn.bias", _qkv("language/blocks", "bias"), "(s n h) -> s n h"),
    Entry(f"{_LAYER}.attn.c_proj.weight", ("language/blocks/out/kernel",), "d (n h) -> n h d"),
    Entry(f"{_LAYER}.ln_2.weight", ("language/blocks/norm_2/scale",)),
    Entry(f"{_LAYER}.mlp.w1.weight", ("language/blocks/up/kernel",), "f d -> d f"),
    Entry(f"{_LAYER}.mlp.w2.weight", ("language/blocks/gate/kernel",), "f d -> d f"),
    Entry(f"{_LAYER}.mlp.c_proj.weight", ("language/blocks/down/kernel",), "d f -> f d"),
    Entry("transformer.ln_f.weight", ("language/norm/scale",)),
    Entry("lm_head.weight", ("language/head/kernel",), "v d -> d v"),
)


def layers_of(entry: Entry, config: QwenVLConfig) -> int:
    """Layers that the entry's arrays hold; 0 where they stand alone."""
    if "{}" not in entry.name:
        return 0
    return config.vision.layers if entry.paths[0].startswith("vision/") else config.language.layers


def original_names(config: QwenVLConfig) -> Iterator[tuple[str, Entry, int | None]]:
    """Every tensor of the original: its name, its entry, and its layer (None outside the stacks)."""
    for entry in TABLE:
        layers = layers_of(entry, config)
        if not layers:
            yield entry.name, entry, None
        for layer in range(layers):
            yield entry.name.format(layer), entry, layer


def split(entry: Entry, tensor: Any, config: QwenVLConfig) -> list[Any]:
    """One original tensor as our arrays (of one layer), in the order of `entry.paths`."""
    arrays = rearrange(tensor, entry.pattern, **_sizes(entry, config))
    return list(arrays) if len(entry.paths) > 1 else [arrays]


def join(entry: Entry, arrays: Sequence[Any], config: QwenVLConfig) -> Any:
    """Our arrays (of one layer), in the order of `entry.paths`, as the original tensor; the inverse of `split`."""
    original, ours = entry.pattern.split(" -> ")
    source = list(arrays) if len(entry.paths) > 1 else arrays[0]
    sizes = _sizes(entry, config) if "(" in ours else {}
    return rearrange(source, f"{ours} -> {original}", **sizes)


def from_original(tensors: Mapping[str, np.ndarray], config: QwenVLConfig) -> dict[str, np.ndarray]:
    """Our parameters from all tensors of the original.

    Raises:
      ValueError: a tensor is missing, or one is there that the model does not have.
    """
    wanted = {name for name, _, _ in original_names(config)}
    if wanted != set(tensors):
        wrong = sorted(wanted ^ set(tensors))[0]
        problem = "is missing from" if wrong in wanted else "is unknown: it stands in"
        raise ValueError(f"tensor {wrong} {problem} the checkpoint; is it a Qwen-VL of this configuration?")
    parameters: dict[str, np.ndarray] = {}
    for entry in TABLE:
        layers = layers_of(entry, config)
        parts = [split(entry, tensors[entry.name.format(i)], config) for i in range(max(layers, 1))]
        for number, path in enumerate(entry.paths):
            arrays = [part[number] for part in parts]
            parameters[path] = np.stack(arrays) if layers else arrays[0]
    return parameters


def to_original(parameters: Mapping[str, Any], config: QwenVLConfig) -> dict[str, Any]:
    """All tensors of the original from our parameters; the inverse of `from_original`."""
    tensors = {}
    for name, entry, layer in original_names(config):
        arrays = [parameters[path] if layer is None else parameters[path][layer] for path in entry.paths]
        tensors[name] = join(entry, arrays, config)
    return tensors


def _sizes(entry: Entry, config: QwenVLConfig) -> dict[str, int]:
    """The sizes that einops cannot infer from a tensor: fused slices, heads, the patch."""
    part = entry.paths[0].split("/")[0]
    heads = {
        "vision": config.vision.heads,
        "adapter": config.adapter.heads,
        "language": config.language.heads,
    }
    known = {"s": len(entry.paths), "n": heads[part], "p": config.vision.patch, "q": config.vision.patch}
    grouped = "".join(group.partition(")")[0] for group in entry.pattern.split("(")[1:])
    return {letter: size for letter, size in known.items() if letter in grouped}
