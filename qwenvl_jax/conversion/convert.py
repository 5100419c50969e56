"""Conversion between folders, in pieces, by several threads; what is written becomes visible when it is whole.

A conversion is: look at the source as a whole, refuse it with everything that is wrong, or stream it into a folder beside
the destination that gets the destination's name at the end.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qwenvl_jax.config import ModelConfig
from qwenvl_jax.config_json import to_json
from qwenvl_jax.conversion import carried, hugging_face, openclip, original_config
from qwenvl_jax.conversion.checkpoint import CheckpointWriter, converted_run, converted_stage
from qwenvl_jax.conversion.destination import Progress, Say, need_space, new_folder
from qwenvl_jax.conversion.export import to_hugging_face
from qwenvl_jax.conversion.originals import ORIGINALS
from qwenvl_jax.conversion.pieces import (
    Piece,
    original_shapes,
    parameter_shapes,
    pieces,
    refuse,
    run_all,
    to_ours,
)
from qwenvl_jax.conversion.stored_tensor import FLOATS, Tensor, finite
from qwenvl_jax.processing.tokenizer import VOCABULARY_FILE


def convert(sources: Sequence[Path], destination: Path, dtype: str | None, say: Say, progress: Progress) -> None:
    """Converts what the sources are to what they are not.

    Args:
      sources: a Hugging Face folder of Qwen-VL or Qwen2-VL, or a run or checkpoint of ours, or OpenCLIP's weights and a
        folder of Qwen-7B.
      destination: a folder that is not there yet, or empty.
      dtype: `float32` or `bfloat16` for all that is written. By default types stay, and what was trained in bfloat16
        with float32 masters goes to PyTorch in bfloat16.

    Raises:
      FileNotFoundError: a source is not there, or not whole.
      ValueError: tensors are missing, unexpected, misshapen or not finite (all are named), or a configuration is not
        that of either. Nothing is left at the destination.
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
    """A Hugging Face folder becomes a checkpoint of ours."""
    fields = hugging_face.read_fields(source)
    config = hugging_face.read_config(source)
    original = ORIGINALS[type(config)]
    stage = converted_stage(original.stage_fields(source, fields, config))
    tensors, left_out = hugging_face.find_tensors(source, config)
    shapes = original_shapes(config)
    hugging_face.check(source, tensors, shapes)
    if left_out:
        say(f"left out {len(left_out)} tensors that the model computes or holds under another name: {_few(left_out)}")
    with new_folder(destination, say) as folder:
        names = carried.carry(source, folder)
        shutil.copyfile(source / "config.json", folder / carried.ORIGINAL_CONFIG)
        say(f"carried along: {', '.join(names) or 'nothing'}")
        vocabulary = next((name for name in original.vocabularies if name in names), None)
        if vocabulary is None:
            missing = " or ".join(original.vocabularies)
            say(f"{source} holds no {missing}: put it into {destination}, or set --data.tokenizer when training")
        tokenizer = str(destination.resolve() / vocabulary) if vocabulary else original.vocabularies[0]
        types = write_checkpoint(source, tensors, config, shapes, dtype, folder, say, progress)
        compute = compute_type(original.compute_type(fields), tensors, types)
        run = converted_run(config, stage, tokenizer, compute)
        (folder / "config.json").write_text(to_json(run))


def compute_type(asked: str | None, tensors: Mapping[str, Tensor], types: Mapping[str, np.dtype]) -> str:
    """What a converted model computes in: what config.json asks for; else float32 if all weights came and stay so."""
    wide = {FLOATS["float32"]}
    stays = {tensor.dtype for tensor in tensors.values()} == wide == set(types.values())
    return asked or ("float32" if stays else "bfloat16")


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
    words, buffers = hugging_face.find_tensors(language, config)
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
    with new_folder(destination, say) as folder:
        tokenizer = VOCABULARY_FILE
        if (language / VOCABULARY_FILE).is_file():
            shutil.copyfile(language / VOCABULARY_FILE, folder / VOCABULARY_FILE)
            tokenizer = str(destination.resolve() / VOCABULARY_FILE)
        else:
            say(f"{language} holds no {VOCABULARY_FILE}: set --data.tokenizer when training")
        write_checkpoint(vision, tensors, config, shapes, dtype, folder, say, progress)
        shown = {"images_per_row": 1, "resolution": config.vision.position_grid * config.vision.patch}
        stage = converted_stage({"sequence_length": config.language.training_length, **shown})
        run = converted_run(config, stage, tokenizer, "bfloat16")
        (folder / "config.json").write_text(to_json(run))


def write_checkpoint(
    source: Path,
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
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


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
