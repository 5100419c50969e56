"""A checkpoint of ours to a Hugging Face folder: shards with their index, config.json, and what travels along."""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qwenvl_jax.config import ModelConfig, Run, Stage
from qwenvl_jax.conversion import carried, hugging_face
from qwenvl_jax.conversion.checkpoint import StoredParameter, open_checkpoint, read_run
from qwenvl_jax.conversion.destination import Progress, Say, need_space, new_folder
from qwenvl_jax.conversion.originals import ORIGINALS, config_of
from qwenvl_jax.conversion.pieces import (
    Piece,
    differences,
    original_shapes,
    parameter_shapes,
    pieces,
    refuse,
    run_all,
    to_rows,
)
from qwenvl_jax.conversion.safetensors import SafetensorsWriter
from qwenvl_jax.conversion.stored_tensor import BFLOAT16, FLOATS, finite
from qwenvl_jax.json_text import read_json
from qwenvl_jax.models.parameters import layout_of
from qwenvl_jax.models.weights import Entry, original_names
from qwenvl_jax.training.checkpoints import locate

SHARD_BYTES = 5 << 30
"""Of a file of weights at most, as Hugging Face shards."""


def to_hugging_face(source: Path, destination: Path, dtype: str | None, say: Say, progress: Progress) -> None:
    """A run's newest checkpoint, or the one that is named, becomes a Hugging Face folder."""
    workdir, stage_name, step = locate(source)
    run = read_run(workdir)
    stage = next(stage for stage in run.stages if stage.name == stage_name)
    say(f"{workdir}, stage {stage_name}, step {step}")
    step_folder = workdir / "checkpoints" / stage_name / str(step)
    parameters, trained = open_checkpoint(step_folder)
    shapes = original_shapes(run.model)
    lines = differences(parameters, {path: s.shape for path, s in parameter_shapes(run.model).items()})
    refuse(step_folder, lines)
    fields = config_fields(workdir, run, stage)
    kept = {entry.name: _kept_type(entry, parameters) for _, entry, _ in original_names(layout_of(run.model))}
    if dtype is None and trained and run.precision.compute == "bfloat16":
        dtype = "bfloat16"
        say("float32 masters are rounded to bfloat16, the type of the release (--dtype float32 keeps them)")
    types = dict.fromkeys(kept, FLOATS[dtype]) if dtype else kept
    with new_folder(destination, say) as folder:
        say(f"carried along: {', '.join(write_carried(workdir, run, stage, fields, types, folder)) or 'nothing'}")
        write_hugging_face(step_folder, parameters, run.model, shapes, types, folder, progress)


def write_hugging_face(
    source: Path,
    parameters: Mapping[str, StoredParameter],
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, np.dtype],
    folder: Path,
    progress: Progress,
) -> None:
    """Streams parameters into shards with their index. `types` by the name of the table's entry.

    Raises:
      ValueError: numbers are not finite in the type they are written in, or the disk is too small.
    """
    tensors = [(name, types[entry.name], shapes[name]) for name, entry, _ in original_names(layout_of(config))]
    shards: list[list[tuple[str, np.dtype, tuple[int, ...]]]] = [[]]
    filled = total = 0
    for tensor in tensors:
        size = prod(tensor[2]) * tensor[1].itemsize
        if filled + size > SHARD_BYTES and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled, total = filled + size, total + size
    need_space(folder, total)
    broken: set[str] = set()
    with ExitStack() as files:
        writers: dict[str, SafetensorsWriter] = {}
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            writer = files.enter_context(SafetensorsWriter(folder / file, shard))
            writers |= {name: writer for name, _, _ in shard}
            weight_map |= {name: file for name, _, _ in shard}

        def move(piece: Piece) -> None:
            regions = [parameters[path].read(piece.index) for path in piece.entry.paths]
            rows = to_rows(piece, regions, types[piece.entry.name], config)
            if not finite(rows):
                broken.add(piece.name)
            if broken:
                return
            writers[piece.name].write(piece.name, piece.start, rows)
            progress(piece.name, rows.nbytes)

        run_all(move, pieces(config, shapes))
        refuse(source, [f"{name} is not finite in {types[entry.name]}"
                        for name, entry, _ in original_names(layout_of(config)) if name in broken])  # fmt: skip
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    carried.write_json(folder / hugging_face.INDEXES[0], index)


def config_fields(workdir: Path, run: Run, stage: Stage) -> dict[str, Any]:
    """config.json for a checkpoint: the one that its weights came with, where it describes the same model.

    Raises:
      ValueError: the original cannot compute this model.
    """
    origin, kept = carried.origin(workdir, run), None
    if origin is not None:
        file = origin / carried.ORIGINAL_CONFIG
        fields: dict[str, Any] = read_json(file.read_bytes())
        kept = fields if config_of(fields, file) == run.model else None
    return ORIGINALS[type(run.model)].config_fields(run, stage, carried.tokenizer(run), kept)


def write_carried(
    workdir: Path, run: Run, stage: Stage, fields: dict[str, Any], types: Mapping[str, np.dtype], folder: Path
) -> list[str]:
    """Writes what stands beside the weights; returns the names of the files that were copied."""
    origin = carried.origin(workdir, run)
    names = carried.carry(origin, folder) if origin else []
    for key in ("torch_dtype", "dtype"):
        if key in fields:
            fields[key] = str(next(iter(types.values()))) if len(set(types.values())) == 1 else "float32"
    if origin and fields == read_json((origin / carried.ORIGINAL_CONFIG).read_bytes()):
        shutil.copyfile(origin / carried.ORIGINAL_CONFIG, folder / "config.json")
    else:
        carried.write_json(folder / "config.json", fields)
    ORIGINALS[type(run.model)].complete(run, stage, carried.tokenizer(run), folder, names)
    return names


def _kept_type(entry: Entry, parameters: Mapping[str, StoredParameter]) -> np.dtype:
    """The type that holds all arrays of a tensor exactly."""
    types = {parameters[path].dtype for path in entry.paths}
    return BFLOAT16 if types == {BFLOAT16} else FLOATS["float32"]
