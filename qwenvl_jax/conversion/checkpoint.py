"""Our checkpoints, array by array in pieces: what Orbax restores, written and read without a whole array in memory.

A converted checkpoint is one part (`frozen`) of plain Zarr arrays, a chunk per layer and piece, not compressed (weights
hardly are, and the disk is faster than the compressor), with the description that Orbax wants beside them. Reading takes
every layout that Orbax writes.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from qwenvl_jax.config import ModelConfig, ParameterRule, Run, Schedule, Stage
from qwenvl_jax.config_json import from_json
from qwenvl_jax.conversion import direct
from qwenvl_jax.conversion.pieces import Index, parameter_shapes, rows_axis, rows_per_piece
from qwenvl_jax.conversion.stored_tensor import BFLOAT16, empty
from qwenvl_jax.json_text import read_json
from qwenvl_jax.models.parameters import layout_of
from qwenvl_jax.models.weights import original_names

NAME = "converted"
"""Of the run, and of its one stage."""
PARTS = ("trained", "frozen")
CACHE_BYTES = 256 << 20
"""Of decoded chunks that hold more than one piece."""

_ZARR_TYPES = {BFLOAT16: "bfloat16", np.dtype(np.float32): "<f4"}


def converted_stage(fields: Mapping[str, Any]) -> Stage:
    """The stage that has trained nothing; `fields` tell its length, and how pictures are shown."""
    return Stage(
        name=NAME,
        steps=0,
        mixture=(),
        rows=1,
        schedule=Schedule(0.0, 0.0, 0),
        parameters=(ParameterRule(".*", frozen=True),),
        **fields,
    )


def converted_run(config: ModelConfig, stage: Stage, tokenizer: str, compute: str) -> Run:
    """The run that a converted checkpoint belongs to."""
    run = Run(NAME, config, (stage,))
    return dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, tokenizer=tokenizer),
        precision=dataclasses.replace(run.precision, compute=compute),
    )


class CheckpointWriter:
    """The arrays of one checkpoint, written in pieces by any number of threads; `finish` makes it whole."""

    def __init__(self, workdir: Path, config: ModelConfig, types: Mapping[str, np.dtype], shapes: Mapping[str, tuple]):
        """Makes the arrays, without numbers.

        Args:
          types: path -> float32 or bfloat16.
          shapes: of the original's tensors, as `pieces` wants them.
        """
        self._folder = workdir.resolve() / "checkpoints" / NAME / "0" / "frozen"
        self._folder.mkdir(parents=True)
        self._arrays: dict[str, _Array] = {}
        whole = {path: tuple(struct.shape) for path, struct in parameter_shapes(config).items()}
        for name, entry, layer in original_names(layout_of(config)):
            if layer:
                continue
            for path in entry.paths:
                chunk = list(whole[path] if layer is None else (1, *whole[path][1:]))
                if rows_per_piece(entry, shapes[name]) < shapes[name][0]:
                    chunk[rows_axis(entry) + (layer is not None)] = rows_per_piece(entry, shapes[name])
                self._arrays[path] = _Array(whole[path], tuple(chunk))
                _create(self._folder / path, self._arrays[path], types[path])

    def write(self, path: str, index: Index, region: np.ndarray) -> None:
        """Puts a region, which is a whole chunk or the last of its axis, to its place; returns when the disk has it.

        A chunk that is not compressed is a file of its elements in C order. It is written here, since Zarr's writers
        copy through the page cache (see `direct`).
        """
        array = self._arrays[path]
        chunk, inside = array.chunk_of(index)
        if chunk is None:
            raise ValueError(f"{path}{list(index)} is no chunk of {array}")
        if region.size < math.prod(array.chunk):  # as large as the others; what lies beyond the array is not read
            padded = empty(array.chunk, region.dtype)
            padded[...] = 0
            padded[inside] = region
            region = padded
        file = direct.Writer(self._folder / path / chunk, region.nbytes)
        try:
            file.write(0, region)
        finally:
            file.close(whole=True)

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


@dataclass(frozen=True)
class _Array:
    """Shape of a Zarr array, and of its chunks."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]

    def chunk_of(self, index: Index) -> tuple[str | None, Index]:
        """The file of the chunk that a region is, and where the region lies in it; no file where it is no whole chunk."""
        whole = (*index, *[slice(None)] * (len(self.shape) - len(index)))
        names, inside, exact = [], [], True
        for part, size, chunk in zip(whole, self.shape, self.chunk):
            start, stop, _ = part.indices(size) if isinstance(part, slice) else (part, part + 1, 1)
            exact &= start % chunk == 0 and stop == min(start + chunk, size)
            names.append(str(start // chunk))
            inside.append(slice(0, stop - start) if isinstance(part, slice) else 0)
        return ".".join(names) if exact else None, tuple(inside)


def _create(folder: Path, array: _Array, dtype: np.dtype) -> None:
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "metadata": {
            "shape": array.shape,
            "chunks": array.chunk,
            "dtype": _ZARR_TYPES[dtype],
            "compressor": None,
            "fill_value": None,
        },
    }
    ts.open(spec, create=True).result()


class StoredParameter:
    """One array of a checkpoint, read in regions; a region costs the chunks that it touches."""

    def __init__(self, store: Any):
        self._store = store
        self.shape: tuple[int, ...] = tuple(store.shape)
        self.chunk: tuple[int, ...] = tuple(store.chunk_layout.read_chunk.shape)
        self.dtype: np.dtype = np.dtype(store.dtype.numpy_dtype)
        spec = store.spec().to_json()
        metadata = spec.get("metadata", {})
        plain = spec["kvstore"]["driver"] == "file" and metadata.get("compressor", "?") is None
        plain &= metadata.get("order") == "C" and metadata.get("dtype") == _ZARR_TYPES.get(self.dtype)
        self._folder = Path(spec["kvstore"]["path"]) if plain else None

    def read(self, index: Index) -> np.ndarray:
        """A region, in memory. What `CheckpointWriter` wrote is read as it was written: through Zarr's readers the same
        bytes take three times the processor's time."""
        chunk, inside = _Array(self.shape, self.chunk).chunk_of(index)
        if self._folder is not None and chunk is not None and (self._folder / chunk).is_file():
            size = math.prod(self.chunk) * self.dtype.itemsize
            return direct.read(self._folder / chunk, 0, size).view(self.dtype).reshape(self.chunk)[inside]
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
    mode = "direct" if direct.possible(parts[0] / "_METADATA") else "default"
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}, "file_io_mode": {"mode": mode}})
    found = {}
    for part in parts:
        try:
            description = read_json((part / "_METADATA").read_bytes())
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
