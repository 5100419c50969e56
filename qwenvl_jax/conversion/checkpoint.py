"""Our checkpoints, array by array in pieces: what Orbax restores, written and read without a whole array in memory.

A converted checkpoint is one part (`frozen`) of plain Zarr arrays, a chunk per layer and piece, not compressed (weights
hardly are, and the disk is faster than the compressor), with the description that Orbax wants beside them. Reading takes
every layout that Orbax writes.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from qwenvl_jax.config import ParameterRule, QwenVLConfig, Run, Schedule, Stage, from_json
from qwenvl_jax.conversion.pieces import Index, parameter_shapes, rows_axis, rows_per_piece
from qwenvl_jax.conversion.stored_tensor import BFLOAT16
from qwenvl_jax.models.qwen_vl.weights import original_names

NAME = "converted"
"""Of the run, and of its one stage."""
PARTS = ("trained", "frozen")
CACHE_BYTES = 256 << 20
"""Of decoded chunks that hold more than one piece."""

_ZARR_TYPES = {BFLOAT16: "bfloat16", np.dtype(np.float32): "<f4"}


def converted_run(config: QwenVLConfig, tokenizer: str, resolution: int, compute: str) -> Run:
    """The run that a converted checkpoint belongs to: one stage that has trained nothing."""
    stage = Stage(
        name=NAME,
        steps=0,
        mixture=(),
        rows=1,
        sequence_length=config.language.training_length,
        images_per_row=1,
        resolution=resolution,
        schedule=Schedule(0.0, 0.0, 0),
        parameters=(ParameterRule(".*", frozen=True),),
    )
    run = Run(NAME, config, (stage,))
    return dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, tokenizer=tokenizer),
        precision=dataclasses.replace(run.precision, compute=compute),
    )


class CheckpointWriter:
    """The arrays of one checkpoint, written in pieces by any number of threads; `finish` makes it whole."""

    def __init__(self, workdir: Path, config: QwenVLConfig, types: Mapping[str, np.dtype], shapes: Mapping[str, tuple]):
        """Makes the arrays, without numbers.

        Args:
          types: path -> float32 or bfloat16.
          shapes: of the original's tensors, as `pieces` wants them.
        """
        self._folder = workdir.resolve() / "checkpoints" / NAME / "0" / "frozen"
        self._folder.mkdir(parents=True)
        self._arrays: dict[str, Any] = {}
        context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        whole = {path: tuple(struct.shape) for path, struct in parameter_shapes(config).items()}
        for name, entry, layer in original_names(config):
            if layer:
                continue
            for path in entry.paths:
                chunk = list(whole[path] if layer is None else (1, *whole[path][1:]))
                if rows_per_piece(entry, shapes[name]) < shapes[name][0]:
                    chunk[rows_axis(entry) + (layer is not None)] = rows_per_piece(entry, shapes[name])
                self._arrays[path] = _create(self._folder / path, whole[path], chunk, types[path], context)

    def write(self, path: str, index: Index, region: np.ndarray) -> None:
        """Puts a region to its place; returns when the disk has it."""
        self._arrays[path][index].write(region).result()

    def finish(self) -> None:
        """Writes Orbax's description of the arrays."""
        tree = {
            str((path,)): {
                "key_metadata": [{"key": path, "key_type": 2}],
                "value_metadata": {
                    "value_type": "jax.Array",
                    "skip_deserialize": False,
                    "write_shape": list(array.shape),
                },
            }
            for path, array in self._arrays.items()
        }
        description = {
            "tree_metadata": tree,
            "use_ocdbt": False,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
        (self._folder / "_METADATA").write_text(json.dumps(description))


def _create(folder: Path, shape: Sequence[int], chunk: Sequence[int], dtype: np.dtype, context: ts.Context) -> Any:
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "metadata": {
            "shape": list(shape),
            "chunks": list(chunk),
            "dtype": _ZARR_TYPES[dtype],
            "compressor": None,
            "fill_value": None,
        },
        "store_data_equal_to_fill_value": True,
    }
    return ts.open(spec, create=True, context=context).result()


class StoredParameter:
    """One array of a checkpoint, read in regions."""

    def __init__(self, store: Any):
        self._store = store
        self.shape: tuple[int, ...] = tuple(store.shape)
        self.dtype: np.dtype = np.dtype(store.dtype.numpy_dtype)

    def read(self, index: Index) -> np.ndarray:
        """A region, in memory."""
        region: np.ndarray = self._store[index].read().result()
        return region


def open_checkpoint(step_folder: Path) -> tuple[dict[str, StoredParameter], bool]:
    """The parameters of a checkpoint by path, trained and frozen, and whether some were trained. Reads no numbers.

    Raises:
      FileNotFoundError: the folder holds no parameters.
      ValueError: an array is damaged.
    """
    parts = [step_folder / part for part in PARTS if (step_folder / part / "_METADATA").is_file()]
    if not parts:
        raise FileNotFoundError(f"{step_folder} holds no parameters; give a run's folder or a checkpoint in it")
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
    found = {}
    for part in parts:
        try:
            description = json.loads((part / "_METADATA").read_bytes())
            for entry in description["tree_metadata"].values():
                path = ".".join(str(key["key"]) for key in entry["key_metadata"])
                found[path] = StoredParameter(ts.open(_spec(part, path, description), context=context).result())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{part} is damaged: {str(error).splitlines()[0]}") from error
    return found, any(part.name == "trained" for part in parts)


def _spec(part: Path, path: str, description: dict[str, Any]) -> dict[str, Any]:
    folder = part.resolve()
    if description["use_ocdbt"]:
        kvstore = {"driver": "ocdbt", "base": f"file://{folder}", "path": f"{path}/"}
    else:
        kvstore = {"driver": "file", "path": f"{folder}/{path}/"}
    return {"driver": "zarr3" if description.get("use_zarr3") else "zarr", "kvstore": kvstore, "open": True}


def read_run(workdir: Path) -> Run:
    """The run of a folder, from its config.json."""
    return from_json((workdir / "config.json").read_text())
