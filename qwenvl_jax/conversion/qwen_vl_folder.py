"""What a Hugging Face folder of Qwen-VL holds beside its tensors."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenvl_jax.config import QwenVLConfig, Run, Stage
from qwenvl_jax.conversion import original_config
from qwenvl_jax.conversion.carried import GENERATION_CONFIG, vocabulary, write_json
from qwenvl_jax.conversion.stored_tensor import StoredTensor
from qwenvl_jax.processing.tokenizer import VOCABULARY_FILE, Tokenizer

BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias|rotary_emb\.inv_freq|logn_tensor)|"
                     r"transformer\.rotary_emb\.inv_freq")  # fmt: skip
"""Constants that old versions of the original kept among their parameters; the model computes them."""

IMAGE_START_ID, END_ID = 151857, 151643
"""`<img>` and `<|endoftext|>` of Qwen's vocabulary, for runs whose vocabulary is gone."""


def left_out(tensors: Mapping[str, StoredTensor], config: QwenVLConfig) -> list[str]:
    """Names of what the model does not need."""
    return [name for name in tensors if BUFFERS.fullmatch(name)]


def compute_type(fields: Mapping[str, Any]) -> str | None:
    """What config.json asks for."""
    return "bfloat16" if fields.get("bf16") else "float32" if fields.get("fp32") else None


def stage_fields(folder: Path, fields: Mapping[str, Any], config: QwenVLConfig) -> dict[str, Any]:
    """Of the stage that a converted folder is: its length, and how pictures are shown."""
    return {
        "sequence_length": config.language.training_length,
        "images_per_row": 1,
        "resolution": fields["visual"]["image_size"],
    }


def config_fields(run: Run, stage: Stage, tokenizer: Tokenizer | None, kept: dict[str, Any] | None) -> dict[str, Any]:
    """config.json of a run; `kept` is the one that its weights came with, where it describes the same model.

    Raises:
      ValueError: the original cannot compute this model.
    """
    assert isinstance(run.model, QwenVLConfig)
    if kept is not None:
        kept["visual"]["image_size"] = stage.resolution
        return kept
    start = tokenizer.image_start_id if tokenizer else IMAGE_START_ID
    return original_config.to_original(run.model, stage.resolution, start)


def complete(run: Run, stage: Stage, tokenizer: Tokenizer | None, folder: Path, names: list[str]) -> None:
    """Writes the files that were not carried along, whose names are `names`."""
    file = vocabulary(run)
    if file and VOCABULARY_FILE not in names:
        shutil.copyfile(file, folder / VOCABULARY_FILE)
        names.append(VOCABULARY_FILE)
    if GENERATION_CONFIG not in names:
        write_json(folder / GENERATION_CONFIG, generation_fields(stage, tokenizer))


def generation_fields(stage: Stage, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """generation_config.json as the original publishes it, for a stage that has learned to chat or for one that has not."""
    chats = any(component.task == "chat" for component in stage.mixture)
    end = tokenizer.eod_id if tokenizer else END_ID
    return {
        "chat_format": "chatml" if chats else "raw",
        "do_sample": True,
        "eos_token_id": end,
        "max_new_tokens": 512,
        "max_window_size": 6144,
        "pad_token_id": end,
        "top_k": 0,
        "top_p": 0.3 if chats else 0.5,
    }
