"""Small Hugging Face folders of random weights, in every kind of file."""

import dataclasses
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from safetensors.numpy import save_file

from qwenvl_jax.conversion.original_config import from_original
from qwenvl_jax.conversion.pieces import original_shapes

FIELDS = {
    "vocab_size": 480,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "kv_channels": 64,
    "intermediate_size": 96,
    "seq_length": 512,
    "layer_norm_epsilon": 1e-6,
    "visual": {
        "width": 32,
        "layers": 2,
        "heads": 2,
        "mlp_ratio": 2.0,
        "patch_size": 14,
        "image_size": 224,
        "image_start_id": 470,
        "output_dim": 128,
    },
}
CONFIG = from_original(FIELDS, "FIELDS")
SHAPES = original_shapes(CONFIG)
TYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}

Tensors = dict[str, np.ndarray]


def random_tensors(dtype: str, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Tensors:
    """N(0, 0.1), scales of norms around one."""
    rng = np.random.default_rng(0)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        scale = len(shape) == 1 and name.endswith("weight")
        return rng.normal(float(scale), 0.1, shape).astype(np.float32).astype(TYPES[dtype])

    return {name: draw(name, shape) for name, shape in shapes.items()}


def make_folder(folder: Path, tensors: Tensors, kind: str = "safetensors", shards: int = 0, **fields) -> Path:
    """A folder with config.json and weights; `shards` 0 means one file without index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(FIELDS | fields))
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    if not shards:
        save(folder / f"{stem}.{suffix}", tensors)
        return folder
    names = list(tensors)
    weight_map = {}
    for number in range(shards):
        part = names[number::shards]
        file = f"{stem}-{number + 1:05d}-of-{shards:05d}.{suffix}"
        save(folder / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def save(file: Path, tensors: Tensors) -> None:
    """With the library of the format."""
    if file.suffix == ".safetensors":
        save_file(tensors, file, metadata={"format": "pt"})
    else:
        torch.save({name: as_torch(array) for name, array in tensors.items()}, file)


def as_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == TYPES["bfloat16"]:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def changed(config=CONFIG, **fields):
    """The configuration with other fields of its language model."""
    return dataclasses.replace(config, language=dataclasses.replace(config.language, **fields))
