"""Conversion between folders, in pieces, by several threads; what is written becomes visible when it is whole.

A conversion is: look at the source as a whole, refuse it with everything that is wrong, or stream it into a folder beside
the destination that gets the destination's name at the end.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qwenvl_jax.config import QwenVLConfig, Run, Stage, to_json
from qwenvl_jax.conversion import carried, hugging_face, openclip, original_config
from qwenvl_jax.conversion.checkpoint import CheckpointWriter, StoredParameter, converted_run, open_checkpoint, read_run
from qwenvl_jax.conversion.pieces import (
    Piece,
    differences,
    original_shapes,
    parameter_shapes,
    pieces,
    refuse,
    run_all,
    to_ours,
    to_rows,
)
from qwenvl_jax.conversion.safetensors import SafetensorsWriter
from qwenvl_jax.conversion.stored_tensor import BFLOAT16, FLOATS, Tensor, finite
from qwenvl_jax.models.qwen_vl.weights import Entry, original_names
from qwenvl_jax.processing.tokenizer import VOCABULARY_FILE
from qwenvl_jax.training.checkpoints import locate

SHARD_BYTES = 5 << 30
"""Of a file of weights at most, as Hugging Face shards."""

Say = Callable[[str], None]
Progress = Callable[[str, int], None]
"""Called from the threads with each piece's tensor and the bytes that were written."""


def convert(sources: Sequence[Path], destination: Path, dtype: str | None, say: Say, progress: Progress) -> None:
    """Converts what the sources are to what they are not.

    Args:
      sources: a Hugging Face folder of Qwen-VL, or a run or checkpoint of ours, or OpenCLIP's weights and a folder of
        Qwen-7B.
      destination: a folder that is not there yet, or empty.
      dtype: `float32` or `bfloat16` for all that is written. By default types stay, and what was trained in bfloat16
        with float32 masters goes to PyTorch in bfloat16.

    Raises:
      FileNotFoundError: a source is not there, or not whole.
      ValueError: tensors are missing, unexpected, misshapen or not finite (all are named), or a configuration is not
        that of a Qwen-VL. Nothing is left at the destination.
    """
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source} is not there")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ValueError(f"{destination} is there already; choose another destination")
    if len(sources) == 2:
        from_towers(sources[0], sources[1], destination, dtype, say, progress)
    elif hugging_face.is_hugging_face(sources[0]) or hugging_face.has_weights(sources[0]):
        from_hugging_face(sources[0], destination, dtype, say, progress)
    elif openclip.is_openclip(sources[0]):
        raise ValueError(f"{sources[0]} is OpenCLIP's; the folder of Qwen-7B is needed as second source")
    else:
        to_hugging_face(sources[0], destination, dtype, say, progress)


def from_hugging_face(source: Path, destination: Path, dtype: str | None, say: Say, progress: Progress) -> None:
    """A Hugging Face folder of Qwen-VL becomes a checkpoint of ours."""
    fields = hugging_face.read_fields(source)
    config = hugging_face.read_config(source)
    tensors, buffers = hugging_face.find_tensors(source)
    shapes = original_shapes(config)
    hugging_face.check(source, tensors, shapes)
    if buffers:
        say(f"left out {len(buffers)} constants that the model computes: {_few(buffers)}")
    with new_folder(destination) as folder:
        names = carried.carry(source, folder)
        shutil.copyfile(source / "config.json", folder / carried.ORIGINAL_CONFIG)
        say(f"carried along: {', '.join(names) or 'nothing'}")
        tokenizer = VOCABULARY_FILE
        if VOCABULARY_FILE in names:
            tokenizer = str(destination.resolve() / VOCABULARY_FILE)
        else:
            say(
                f"{source} holds no {VOCABULARY_FILE}: put it into {destination}, or set --data.tokenizer when training"
            )
        types = write_checkpoint(source, tensors, config, shapes, dtype, folder, say, progress)
        compute = "float32" if fields.get("fp32") or set(types.values()) == {FLOATS["float32"]} else "bfloat16"
        run = converted_run(config, tokenizer, fields["visual"]["image_size"], compute)
        (folder / "config.json").write_text(to_json(run))


def from_towers(
    vision: Path, language: Path, destination: Path, dtype: str | None, say: Say, progress: Progress
) -> None:
    """OpenCLIP's ViT and Qwen-7B become the starting point of stage 1."""
    fields = hugging_face.read_fields(language)
    if "visual" in fields:
        raise ValueError(f"{language} is a Qwen-VL, not a Qwen-7B; convert it alone")
    clip = openclip.read_tensors(vision)
    config = openclip.stage_1_config(
        openclip.vision_config(vision, clip),
        original_config.language_from_original(fields, language / "config.json"),
    )
    words, buffers = hugging_face.find_tensors(language)
    shapes = original_shapes(config)
    dropped = [name for name in clip if openclip.DROPPED.fullmatch(name)]
    clip = {name: tensor for name, tensor in clip.items() if name not in set(dropped)}
    word_shapes = {name: shape for name, shape in shapes.items() if not name.startswith(openclip.TRUNK)}
    hugging_face.check(
        f"{vision} and {language}", {**clip, **words}, {**openclip.expected_shapes(shapes), **word_shapes}
    )
    adapter = openclip.new_adapter(config, seed=0)
    say(f"left out of {vision}: {len(dropped)} tensors, {_few(dropped)}, and the class token's position")
    if buffers:
        say(f"left out of {language}: {len(buffers)} constants that the model computes: {_few(buffers)}")
    say(f"new, as a new model of seed 0 has them: {len(adapter)} tensors of the adapter, {_few(list(adapter))}")
    say("norms of the vision tower have eps 1e-6 from now on, as the original (OpenCLIP has 1e-5)")
    tensors: dict[str, Tensor] = {**openclip.trunk(clip, shapes, config.vision.heads), **words, **adapter}
    with new_folder(destination) as folder:
        tokenizer = VOCABULARY_FILE
        if (language / VOCABULARY_FILE).is_file():
            shutil.copyfile(language / VOCABULARY_FILE, folder / VOCABULARY_FILE)
            tokenizer = str(destination.resolve() / VOCABULARY_FILE)
        else:
            say(f"{language} holds no {VOCABULARY_FILE}: set --data.tokenizer when training")
        write_checkpoint(vision, tensors, config, shapes, dtype, folder, say, progress)
        run = converted_run(config, tokenizer, config.vision.position_grid * config.vision.patch, "bfloat16")
        (folder / "config.json").write_text(to_json(run))


def write_checkpoint(
    source: Path,
    tensors: Mapping[str, Tensor],
    config: QwenVLConfig,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str | None,
    folder: Path,
    say: Say,
    progress: Progress,
) -> dict[str, np.dtype]:
    """Streams tensors, by the original's names, into a checkpoint; returns the types by path.

    Raises:
      ValueError: numbers are not finite (in the type they are written in), or the disk is too small.
    """
    kept = hugging_face.stored_types(tensors, config)
    types = dict.fromkeys(kept, FLOATS[dtype]) if dtype else kept
    if any(tensor.dtype == FLOATS["float16"] for tensor in tensors.values()):
        say(f"float16 becomes {dtype or 'float32, which holds it exactly'}")
    need_space(folder, sum(s.size * types[path].itemsize for path, s in parameter_shapes(config).items()))
    writer = CheckpointWriter(folder, config, types, shapes)
    broken: set[str] = set()

    def move(piece: Piece) -> None:
        tensor = tensors[piece.name]
        rows = tensor.read(piece.start, piece.start + piece.shape[0]).astype(types[piece.entry.paths[0]], copy=False)
        if not finite(rows):
            broken.add(tensor.name)
        if broken:
            return
        for path, region in zip(piece.entry.paths, to_ours(piece, rows, config)):
            writer.write(path, piece.index, region)
        progress(piece.name, rows.nbytes)

    run_all(move, pieces(config, shapes))
    refuse(source, [f"{tensor.name} is not finite" for tensor in tensors.values() if tensor.name in broken])
    writer.finish()
    return types


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
    kept = {entry.name: _kept_type(entry, parameters) for _, entry, _ in original_names(run.model)}
    if dtype is None and trained and run.precision.compute == "bfloat16":
        dtype = "bfloat16"
        say("float32 masters are rounded to bfloat16, the type of the release (--dtype float32 keeps them)")
    types = dict.fromkeys(kept, FLOATS[dtype]) if dtype else kept
    with new_folder(destination) as folder:
        say(f"carried along: {', '.join(write_carried(workdir, run, stage, fields, types, folder)) or 'nothing'}")
        write_hugging_face(step_folder, parameters, run.model, shapes, types, folder, progress)


def write_hugging_face(
    source: Path,
    parameters: Mapping[str, StoredParameter],
    config: QwenVLConfig,
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, np.dtype],
    folder: Path,
    progress: Progress,
) -> None:
    """Streams parameters into shards with their index. `types` by the name of the table's entry.

    Raises:
      ValueError: numbers are not finite in the type they are written in, or the disk is too small.
    """
    tensors = [(name, types[entry.name], shapes[name]) for name, entry, _ in original_names(config)]
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
                        for name, entry, _ in original_names(config) if name in broken])  # fmt: skip
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    carried.write_json(folder / hugging_face.INDEXES[0], index)


def config_fields(workdir: Path, run: Run, stage: Stage) -> dict[str, Any]:
    """config.json for a checkpoint: the one that its weights came with, where it describes the same model.

    Raises:
      ValueError: the original cannot compute this model.
    """
    origin = carried.origin(workdir, run)
    if origin is not None:
        file = origin / carried.ORIGINAL_CONFIG
        fields: dict[str, Any] = json.loads(file.read_bytes())
        if original_config.from_original(fields, file) == run.model:
            fields["visual"]["image_size"] = stage.resolution
            return fields
    tokenizer = carried.tokenizer(run)
    start = tokenizer.image_start_id if tokenizer else carried.IMAGE_START_ID
    return original_config.to_original(run.model, stage.resolution, start)


def write_carried(
    workdir: Path, run: Run, stage: Stage, fields: dict[str, Any], types: Mapping[str, np.dtype], folder: Path
) -> list[str]:
    """Writes what stands beside the weights; returns the names of the files that were copied."""
    origin, vocabulary = carried.origin(workdir, run), carried.vocabulary(run)
    names = carried.carry(origin, folder) if origin else []
    if vocabulary and VOCABULARY_FILE not in names:
        shutil.copyfile(vocabulary, folder / VOCABULARY_FILE)
        names.append(VOCABULARY_FILE)
    if "torch_dtype" in fields:
        fields["torch_dtype"] = str(next(iter(types.values()))) if len(set(types.values())) == 1 else "float32"
    if origin and fields == json.loads((origin / carried.ORIGINAL_CONFIG).read_bytes()):
        shutil.copyfile(origin / carried.ORIGINAL_CONFIG, folder / "config.json")
    else:
        carried.write_json(folder / "config.json", fields)
    if carried.GENERATION_CONFIG not in names:
        carried.write_json(folder / carried.GENERATION_CONFIG, carried.generation_fields(stage, carried.tokenizer(run)))
    return names


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder beside the destination that gets its name when the block ends well, and is removed otherwise."""
    destination = destination.resolve()
    destination.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}-unfinished-", dir=destination.parent))
    try:
        folder.chmod(0o777 & ~_umask())
        yield folder
        os.replace(folder, destination)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def need_space(folder: Path, size: int) -> None:
    """Raises ValueError where the disk has not that many bytes left."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ValueError(f"{folder.parent} has {free / 1e9:.1f} GB left, and {size / 1e9:.1f} GB are to be written")


def _kept_type(entry: Entry, parameters: Mapping[str, StoredParameter]) -> np.dtype:
    """The type that holds all arrays of a tensor exactly."""
    types = {parameters[path].dtype for path in entry.paths}
    return BFLOAT16 if types == {BFLOAT16} else FLOATS["float32"]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
