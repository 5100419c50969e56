"""A Hugging Face folder: its configuration, its tokenizer file, and its tensors in whichever files they lie."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qwenvl_jax.config import ModelConfig
from qwenvl_jax.conversion.originals import ORIGINALS, config_of
from qwenvl_jax.conversion.pieces import (
    Piece,
    differences,
    original_shapes,
    parameter_shapes,
    pieces,
    refuse,
    run_all,
    to_ours,
)
from qwenvl_jax.conversion.safetensors import read_header
from qwenvl_jax.conversion.stored_tensor import FLOATS, StoredTensor, Tensor, finite
from qwenvl_jax.conversion.torch_zip import read_state_dict
from qwenvl_jax.json_text import read_json
from qwenvl_jax.models.parameters import layout_of
from qwenvl_jax.models.weights import original_names

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder is in Hugging Face's format (a config.json with a model's sizes), not a run of ours."""
    try:
        fields = read_json((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and "stages" not in fields and bool({"hidden_size", "model_type"} & fields.keys())


def has_weights(folder: Path) -> bool:
    """Whether weights lie in a folder by the names that Hugging Face gives them."""
    return any((folder / name).is_file() for name in (*INDEXES, *SINGLE_FILES))


def read_fields(folder: Path) -> dict[str, Any]:
    """config.json as it is.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; give a Hugging Face folder")
    try:
        fields = read_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); fetch it again") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{file} is no JSON object; fetch it again")
    return fields


def read_config(folder: Path) -> ModelConfig:
    """The model's configuration.

    Raises:
      FileNotFoundError: there is no config.json.
      ValueError: it is of no model that is known here, or contradicts itself.
    """
    return config_of(read_fields(folder), folder / "config.json")


def tokenizer_file(folder: Path, config: ModelConfig) -> Path:
    """The vocabulary of the folder.

    Raises:
      FileNotFoundError: there is none.
    """
    names = ORIGINALS[type(config)].vocabularies
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} holds no {' or '.join(names)}; copy it there from the model's release")
    return file


def read_parameters(folder: Path, config: ModelConfig, dtype: str | None = None) -> dict[str, np.ndarray]:
    """All parameters, path -> array, in memory.

    Args:
      dtype: `float32` or `bfloat16`; None keeps the files' types (float16 becomes float32).

    Raises:
      FileNotFoundError: there are no tensors, or a file of the index is missing.
      ValueError: tensors are missing, unexpected, misshapen or not finite (all are named), or a file is damaged.
    """
    tensors, _ = find_tensors(folder, config)
    shapes = original_shapes(config)
    check(folder, tensors, shapes)
    types = {path: np.dtype(FLOATS[dtype]) if dtype else kept for path, kept in stored_types(tensors, config).items()}
    parameters = {path: np.empty(s.shape, types[path]) for path, s in parameter_shapes(config).items()}
    broken: set[str] = set()

    def place(piece: Piece) -> None:
        rows = tensors[piece.name].read(piece.start, piece.start + piece.shape[0])
        if not finite(rows):
            broken.add(piece.name)
        for path, region in zip(piece.entry.paths, to_ours(piece, rows, config)):
            parameters[path][piece.index] = region

    run_all(place, pieces(config, shapes))
    refuse(folder, [f"{name} is not finite" for name in shapes if name in broken])
    return parameters


def stored_types(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, np.dtype]:
    """Path -> the type that holds all of its tensors exactly: theirs if it is one, float32 for a mixture or float16."""
    found: dict[str, set[np.dtype]] = {}
    for name, entry, _ in original_names(layout_of(config)):
        for path in entry.paths:
            found.setdefault(path, set()).add(tensors[name].dtype)
    wide, half = FLOATS["float32"], FLOATS["float16"]
    return {path: wide if len(types) > 1 or half in types else next(iter(types)) for path, types in found.items()}


def check(place: object, tensors: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compares names, shapes and types with the model's. If they differ, all numbers are looked at too, so that the one
    error names everything.

    Raises:
      ValueError: anything differs.
    """
    lines = differences(tensors, shapes)
    if lines:
        broken: set[str] = set()

        def look(tensor: StoredTensor) -> None:
            rows = max(1, tensor.shape[0] * (16 << 20) // max(tensor.size, 1)) if tensor.shape else 1
            for start in range(0, tensor.shape[0] if tensor.shape else 1, rows):
                if not finite(tensor.read(start, min(start + rows, tensor.shape[0]) if tensor.shape else None)):
                    broken.add(tensor.name)
                    return

        run_all(look, [t for name, t in tensors.items() if name in shapes and t.dtype in FLOATS.values()])
        lines += [f"{name} is not finite" for name in shapes if name in broken]
    refuse(place, lines)


def find_tensors(folder: Path, config: ModelConfig) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors of a folder by the names of the model's table, and the names of those that were left out.

    Raises:
      FileNotFoundError: there are no tensors, or a file of the index is missing.
      ValueError: the index or a file is damaged, or names a file outside the folder; a tensor stands there twice, or
        contradicts config.json.
    """
    original = ORIGINALS[type(config)]
    found: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        for stored_name, tensor in read_file(file).items():
            name = original.name(stored_name)
            if name in found:
                raise ValueError(f"{name} stands twice in {folder}: in {found[name].file.name} and {file.name}")
            found[name] = replace(tensor, name=name)
    left_out = original.left_out(found, config)
    return {name: tensor for name, tensor in found.items() if name not in left_out}, left_out


def read_file(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file of either kind."""
    return read_header(file) if file.suffix == ".safetensors" else read_state_dict(file)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the tensors: those of an index, or one. Safetensors come first where both kinds are there.

    Raises: see `find_tensors`.
    """
    for index, single in zip(INDEXES, SINGLE_FILES):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return _indexed(folder / index)
    raise FileNotFoundError(
        f"{folder} holds no weights: give a folder with {', '.join(SINGLE_FILES)}, or one of them in shards with its index"
    )


def _indexed(index: Path) -> list[Path]:
    try:
        names = set(read_json(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of tensors ({error!r}); fetch it again") from error
    # A plain file name cannot leave the folder.
    outside = [n for n in names if not isinstance(n, str) or Path(n).name != n or n == ".." or "\\" in n]
    if outside:
        raise ValueError(f"{index} names files outside its folder: {', '.join(sorted(map(repr, outside)))}")
    files = [index.parent / name for name in sorted(names)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{index.parent} lacks {len(missing)} files of its index: {', '.join(missing)}")
    return files
