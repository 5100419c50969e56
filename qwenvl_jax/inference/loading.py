"""From a folder, a run's or Hugging Face's, to a model that answers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from qwenvl_jax.config import ModelConfig, PrecisionConfig, Run, Stage
from qwenvl_jax.config_json import from_json
from qwenvl_jax.conversion.checkpoint import converted_stage
from qwenvl_jax.conversion.hugging_face import (
    is_hugging_face,
    read_config,
    read_fields,
    read_parameters,
    tokenizer_file,
)
from qwenvl_jax.conversion.originals import ORIGINALS
from qwenvl_jax.inference.generation_config import RELEASED, read_generation_config, stage_generation_config
from qwenvl_jax.inference.model import Model, inference_model
from qwenvl_jax.inference.processor import Processor
from qwenvl_jax.models.parameters import build
from qwenvl_jax.processing.chat_formats import CHAT_FORMATS
from qwenvl_jax.processing.encoders import stage_encoder
from qwenvl_jax.processing.tokenizer import Tokenizer
from qwenvl_jax.training.checkpoints import load_parameters, locate

TYPES = ("float32", "bfloat16")


def load(path: str | Path, dtype: str | None = None) -> tuple[Model, Processor]:
    """The model of a run's folder, of one checkpoint in it (see `locate`), or of a Hugging Face folder.

    Args:
      dtype: `float32` or `bfloat16`, what it computes in. By default as it was trained; a Hugging Face folder in
        bfloat16, on a CPU in float32 (as the original chooses).

    Raises:
      FileNotFoundError: there is none.
      ValueError: its configuration is not of this version, or its tensors are not its model's.
    """
    if dtype not in (None, *TYPES):
        raise ValueError(f"dtype {dtype!r} is none of {', '.join(TYPES)}")
    path = Path(path)
    return _load_hugging_face(path, dtype) if is_hugging_face(path) else _load_run(path, dtype)


def _load_run(path: Path, dtype: str | None) -> tuple[Model, Processor]:
    workdir, stage_name, step = locate(path)
    run = from_json((workdir / "config.json").read_text())
    compute = dtype or run.precision.compute
    architecture = build(run.model, PrecisionConfig(compute=compute))  # layers one by one: that decodes fastest
    model = inference_model(architecture, load_parameters(workdir, stage_name, step), compute)
    stage = next(entry for entry in run.stages if entry.name == stage_name)
    processor = run_processor(run, stage)
    if not stage.mixture:  # converted, not trained here: it is asked as its origin says
        processor = replace(processor, generation=read_generation_config(workdir, RELEASED[type(run.model)]))
    return model, processor


def run_processor(run: Run, stage: Stage) -> Processor:
    """How a stage's model is asked: as the stage trains it."""
    encoder = stage_encoder(run.model, stage, run.data.tokenizer).for_prompts()
    return Processor(encoder, CHAT_FORMATS[type(run.model)], stage_generation_config(stage))


def _load_hugging_face(folder: Path, dtype: str | None) -> tuple[Model, Processor]:
    config, fields = read_config(folder), read_fields(folder)
    compute = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    stage = converted_stage(ORIGINALS[type(config)].stage_fields(folder, fields, config))
    encoder = stage_encoder(config, stage, str(tokenizer_file(folder, config))).for_prompts()
    _check_token_ids(encoder.tokenizer, config, fields, folder)
    generation = read_generation_config(folder, RELEASED[type(config)])
    arrays = read_parameters(folder, config, compute)
    # One by one, each leaving the host's memory as it reaches the device's.
    parameters = {path: jnp.asarray(arrays.pop(path)) for path in list(arrays)}
    architecture = build(config, PrecisionConfig(compute=compute))
    processor = Processor(encoder, CHAT_FORMATS[type(config)], generation)
    return inference_model(architecture, parameters, compute), processor


def _check_token_ids(tokenizer: Tokenizer, config: ModelConfig, fields: Mapping[str, Any], folder: Path) -> None:
    for field, token in ORIGINALS[type(config)].token_ids.items():
        wanted = tokenizer.special_tokens[token]
        if fields.get(field, wanted) != wanted:
            raise ValueError(
                f"{folder}: {field} of its config.json is {fields[field]}, its tokenizer gives {token} the id {wanted}"
            )
