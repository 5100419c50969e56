"""How each kind of model stands in a Hugging Face folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qwenvl_jax.config import ModelConfig, Qwen2VLConfig, QwenVLConfig, Run, Stage
from qwenvl_jax.conversion import original_config, qwen2_config, qwen2_folder, qwen_vl_folder
from qwenvl_jax.conversion.stored_tensor import StoredTensor
from qwenvl_jax.models.qwen2_vl.weights import released_name
from qwenvl_jax.processing.tokenizer import VOCABULARY_FILE, Tokenizer


class Original(NamedTuple):
    """What conversion must know of a kind of model.

    Attributes:
      config: config.json's fields and its path -> our configuration; raises ValueError.
      name: a tensor's name in a file -> its name in the table of `models/`.
      left_out: names of tensors that the model does not need; raises ValueError.
      vocabularies: files of which each holds the vocabulary.
      token_ids: fields of config.json -> the special token that each is the id of.
      compute_type: what config.json wants to be computed in, or None.
      stage_fields: folder, config.json's fields, configuration -> what the stage of a converted folder is to hold.
      config_fields: run, stage, tokenizer, the weights' own config.json where it fits -> all fields of config.json.
      complete: run, stage, tokenizer, folder, files that are there -> writes those that are not.
    """

    config: Callable[[dict[str, Any], object], ModelConfig]
    name: Callable[[str], str]
    left_out: Callable[[Mapping[str, StoredTensor], Any], list[str]]
    vocabularies: tuple[str, ...]
    token_ids: Mapping[str, str]
    compute_type: Callable[[Mapping[str, Any]], str | None]
    stage_fields: Callable[[Path, Mapping[str, Any], Any], dict[str, Any]]
    config_fields: Callable[[Run, Stage, Tokenizer | None, dict[str, Any] | None], dict[str, Any]]
    complete: Callable[[Run, Stage, Tokenizer | None, Path, list[str]], None]


ORIGINALS: Mapping[type, Original] = {
    QwenVLConfig: Original(
        original_config.from_original,
        str,
        qwen_vl_folder.left_out,
        (VOCABULARY_FILE,),
        {},
        qwen_vl_folder.compute_type,
        qwen_vl_folder.stage_fields,
        qwen_vl_folder.config_fields,
        qwen_vl_folder.complete,
    ),
    Qwen2VLConfig: Original(
        qwen2_config.from_original,
        released_name,
        qwen2_folder.left_out,
        qwen2_folder.VOCABULARIES,
        qwen2_config.TOKEN_IDS,
        qwen2_folder.compute_type,
        qwen2_folder.stage_fields,
        qwen2_folder.config_fields,
        qwen2_folder.complete,
    ),
}
MODEL_TYPES: Mapping[str, type] = {"qwen": QwenVLConfig, "qwen2_vl": Qwen2VLConfig}
"""`model_type` of config.json; old folders of Qwen-VL have none."""


def config_of(fields: dict[str, Any], place: object) -> ModelConfig:
    """The configuration of a folder's config.json, whichever model it is of.

    Raises:
      ValueError: it is of no model that is known here, or contradicts itself.
    """
    name = fields.get("model_type", "qwen")
    if name not in MODEL_TYPES:
        raise ValueError(f"{place}: model_type {name!r} is none of {', '.join(MODEL_TYPES)}")
    return ORIGINALS[MODEL_TYPES[name]].config(fields, place)
