"""Reference files of the PyTorch original (see the README of `tests/golden`), and their inputs as ours.

Other references, at other sizes, are tried with QWENVL_GOLDEN=FOLDER: each NAME.npz in it with its NAME_config.json.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qwenvl_jax.batch import IGNORED
from qwenvl_jax.config import QwenVLConfig
from qwenvl_jax.conversion import original_config
from qwenvl_jax.models.fusion import place_vision

FOLDER = Path(os.environ.get("QWENVL_GOLDEN", Path(__file__).parents[2] / "golden"))
REFERENCES = sorted(file.name.removesuffix("_config.json") for file in FOLDER.glob("*_config.json"))


class Reference(NamedTuple):
    """One file of the original's weights, inputs and outputs."""

    arrays: dict[str, np.ndarray]
    hf_config: dict
    config: QwenVLConfig

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[f"io/{name}"]

    def below(self, prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}


def read_reference(name: str) -> Reference:
    hf_config = json.loads((FOLDER / f"{name}_config.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as file:
        return Reference(
            {entry: file[entry] for entry in file.files},
            hf_config,
            original_config.from_original(hf_config, FOLDER / f"{name}_config.json"),
        )


def pixels_of(golden) -> np.ndarray:
    """[3, 448, 448, 3], already normalised."""
    return golden["pixels_448_i8"].transpose(0, 2, 3, 1).astype(np.float32) / 32


class Text(NamedTuple):
    """The batch of the golden file with our positions and segments, [2, S]."""

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    vision_index: np.ndarray


def text_of(golden) -> Text:
    """`vision_index` counts the images of the whole batch."""
    ids, mask = golden["ids_batch"], golden["mask_batch"].astype(np.int32)
    vision_index = np.full(ids.shape, IGNORED)
    queries = golden.config.adapter.queries
    for image, (row, start) in enumerate(np.argwhere(ids == golden.hf_config["visual"]["image_start_id"])):
        vision_index[row, start + 1 : start + 1 + queries] = np.arange(queries) + image * queries
    return Text(ids, np.maximum(np.cumsum(mask, axis=1) - 1, 0), mask, vision_index)


def embed(module, pixels, text: Text) -> jax.Array:
    """Every row sees the images of all rows, and places its own."""
    tokens = module.adapter(module.vision(pixels))
    slots = jnp.broadcast_to(
        tokens.reshape(1, -1, tokens.shape[-1]), (len(text.ids), *tokens.reshape(-1, tokens.shape[-1]).shape)
    )
    return place_vision(module.language.embed(text.ids), slots, text.vision_index)
