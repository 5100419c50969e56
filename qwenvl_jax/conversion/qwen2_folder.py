"""What a Hugging Face folder of Qwen2-VL holds beside its tensors: sizes of pictures, tokenizer, template, generation.

Source: the files of the released checkpoints (`preprocessor_config.json`, `tokenizer_config.json`, `chat_template.json`).
"""

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qwenvl_jax.config import RELEASED_IMAGES, PixelLimits, Qwen2VLConfig, Run, Stage
from qwenvl_jax.conversion import qwen2_config
from qwenvl_jax.conversion.carried import GENERATION_CONFIG, write_json
from qwenvl_jax.conversion.stored_tensor import StoredTensor
from qwenvl_jax.json_text import read_json
from qwenvl_jax.models.qwen2_vl.weights import HEAD
from qwenvl_jax.processing.chatml import SYSTEM_PROMPT
from qwenvl_jax.processing.patches import MERGE, TEMPORAL_PATCH
from qwenvl_jax.processing.qwen2_tokens import IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START
from qwenvl_jax.processing.tokenizer import BYTE_LETTERS, END_OF_TEXT, IM_END, IM_START, Tokenizer

PREPROCESSOR, TOKENIZER_CONFIG, TEMPLATE = "preprocessor_config.json", "tokenizer_config.json", "chat_template.json"
PIXELS = {
    # in the release's digits: `qwenvl_jax.processing.images.MEAN` and `STD` are the same numbers in float32
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
VOCABULARIES = ("vocab.json", "tokenizer.json")
"""Either file holds the vocabulary."""
BUFFERS = re.compile(r"(model|visual)\.(layers\.\d+\.self_attn\.)?rotary_(pos_)?emb\.inv_freq")
"""Constants that a file may hold; the model computes them."""
EMBEDDING = "model.embed_tokens.weight"
FIRST_SPECIAL = 151643
"""`<|endoftext|>` of Qwen's vocabulary, for runs whose vocabulary is gone."""
ROWS = 4096
"""Rows of the embedding that are compared at a time."""

_SEEN = (
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}"
    f"{{{{- '{VISION_START}{IMAGE_PAD}{VISION_END}' -}}}}"
    "{%- elif part.type == 'video' or 'video' in part -%}"
    f"{{{{- '{VISION_START}{VIDEO_PAD}{VISION_END}' -}}}}"
    "{%- elif 'text' in part -%}{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}"
)
CHAT_TEMPLATE = (
    "{%- if messages and messages[0].role != 'system' -%}"
    f"{{{{- '{IM_START}system\\n{SYSTEM_PROMPT}{IM_END}\\n' -}}}}"
    "{%- endif -%}{%- for message in messages -%}"
    f"{{{{- '{IM_START}' + message.role + '\\n' -}}}}{_SEEN}{{{{- '{IM_END}\\n' -}}}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}"
    f"{{{{- '{IM_START}assistant\\n' -}}}}"
    "{%- endif -%}"
)
"""ChatML, for a model that has learned to chat."""
RAW_TEMPLATE = f"{{%- for message in messages -%}}{_SEEN}{{%- endfor -%}}"
"""Contents behind each other."""


def left_out(tensors: Mapping[str, StoredTensor], config: Qwen2VLConfig) -> list[str]:
    """Names of what the model does not need: constants, and the head where it is the embedding.

    Raises:
      ValueError: config.json ties the head to the embedding, and they differ.
    """
    names = [name for name in tensors if BUFFERS.fullmatch(name)]
    if config.language.tied and HEAD.name in tensors and EMBEDDING in tensors:
        head, embedding = tensors[HEAD.name], tensors[EMBEDDING]
        starts = range(0, head.shape[0] if head.shape else 0, ROWS)
        if (head.shape, head.dtype) != (embedding.shape, embedding.dtype) or not all(
            np.array_equal(head.read(row, row + ROWS), embedding.read(row, row + ROWS), equal_nan=True)
            for row in starts
        ):
            raise ValueError(
                f"{head.file}: {HEAD.name} differs from {EMBEDDING}, and config.json says that they are one "
                "(tie_word_embeddings); set it to false if the head was trained"
            )
        names.append(HEAD.name)
    return names


def compute_type(fields: Mapping[str, Any]) -> str | None:
    """What config.json asks for."""
    asked = fields.get("torch_dtype", fields.get("dtype"))
    return {"float32": "float32", "bfloat16": "bfloat16", "float16": "bfloat16"}.get(str(asked))


def stage_fields(folder: Path, fields: Mapping[str, Any], config: Qwen2VLConfig) -> dict[str, Any]:
    """Of the stage that a converted folder is: its length, and how pictures are shown."""
    length = {**fields, **fields.get("text_config", {})}.get("max_position_embeddings", qwen2_config.MAX_POSITIONS)
    return {"sequence_length": length, "image_limits": image_limits(folder, config)}


def image_limits(folder: Path, config: Qwen2VLConfig) -> PixelLimits:
    """How large the folder's processor shows images; as released where it has no file.

    Raises:
      ValueError: the file is no JSON object, or is of another kind of processor.
    """
    file = folder / PREPROCESSOR
    if not file.is_file():
        return RELEASED_IMAGES
    try:
        fields = read_json(file.read_bytes())
        size = fields.get("size") or {}
        fewest = fields.get("min_pixels") or size.get("shortest_edge") or RELEASED_IMAGES.min_pixels
        most = fields.get("max_pixels") or size.get("longest_edge") or RELEASED_IMAGES.max_pixels
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is no configuration of a processor ({error}); fetch it again") from error
    wanted = _patch_fields(config) | PIXELS
    other = [name for name, value in wanted.items() if name in fields and not np.allclose(fields[name], value)]
    if other or not all(type(n) is int and n > 0 for n in (fewest, most)):
        names = ", ".join(other) or "min_pixels, max_pixels"
        raise ValueError(f"{file}: {names} are not those of the model; is it of this checkpoint?")
    return PixelLimits(fewest, most)


def config_fields(run: Run, stage: Stage, tokenizer: Tokenizer | None, kept: dict[str, Any] | None) -> dict[str, Any]:
    """config.json of a run; `kept` is the one that its weights came with, where it describes the same model."""
    assert isinstance(run.model, Qwen2VLConfig)
    return kept or qwen2_config.to_original(run.model, tokenizer.eod_id if tokenizer else FIRST_SPECIAL)


def complete(run: Run, stage: Stage, tokenizer: Tokenizer | None, folder: Path, names: list[str]) -> None:
    """Writes the files that were not carried along, whose names are `names`, and how large the stage shows images."""
    assert isinstance(run.model, Qwen2VLConfig)
    chats = any(component.task == "chat" for component in stage.mixture)
    template = CHAT_TEMPLATE if chats else RAW_TEMPLATE
    if PREPROCESSOR not in names:
        write_json(folder / PREPROCESSOR, preprocessor_fields(run.model, stage.image_limits))
    elif image_limits(folder, run.model) != stage.image_limits:
        fields = read_json((folder / PREPROCESSOR).read_bytes())
        fields.pop("size", None)
        write_json(folder / PREPROCESSOR, fields | stage.image_limits.__dict__)
    if not any(name in names for name in VOCABULARIES) and tokenizer is not None:
        write_tokenizer(tokenizer, template, folder)
        write_json(folder / TEMPLATE, {"chat_template": template})
    if GENERATION_CONFIG not in names:
        end = tokenizer.eod_id if tokenizer else FIRST_SPECIAL
        im_end = tokenizer.im_end_id if tokenizer else FIRST_SPECIAL + 2
        fields = {"bos_token_id": end, "do_sample": False, "eos_token_id": [im_end, end], "pad_token_id": end}
        write_json(folder / GENERATION_CONFIG, {**fields, "max_new_tokens": 512})


def preprocessor_fields(config: Qwen2VLConfig, limits: PixelLimits) -> dict[str, Any]:
    """preprocessor_config.json."""
    return {
        **limits.__dict__,
        **_patch_fields(config),
        **PIXELS,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
    }


def _patch_fields(config: Qwen2VLConfig) -> dict[str, Any]:
    return {"patch_size": config.vision.patch, "temporal_patch_size": TEMPORAL_PATCH, "merge_size": MERGE}


def write_tokenizer(tokenizer: Tokenizer, template: str, folder: Path) -> None:
    """vocab.json, merges.txt and tokenizer_config.json of a Qwen2 tokenizer with our vocabulary and special tokens."""
    words = {_letters(token): rank for token, rank in sorted(tokenizer.ranks.items(), key=lambda item: item[1])}
    (folder / VOCABULARIES[0]).write_text(json.dumps(words, ensure_ascii=False))
    lines = (f"{_letters(first)} {_letters(second)}\n" for first, second in merges(tokenizer.ranks))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(lines))
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    others = [token for token in tokenizer.special_tokens if token != END_OF_TEXT]
    write_json(
        folder / TOKENIZER_CONFIG,
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(rank): {"content": token, **plain} for token, rank in tokenizer.special_tokens.items()
            },
            "additional_special_tokens": others,
            "bos_token": None,
            "chat_template": template,
            "clean_up_tokenization_spaces": False,
            "eos_token": IM_END,
            "errors": "replace",
            "model_max_length": qwen2_config.MAX_POSITIONS,
            "pad_token": END_OF_TEXT,
            "padding_side": "left",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The two tokens that each token of several bytes is merged from, in the order of ranks: what all earlier merges leave
    of its bytes."""
    found = []
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
            first = pairs.index(min(pairs))
            parts[first : first + 2] = [parts[first] + parts[first + 1]]
        found.append((parts[0], parts[1]))
    return found


def _letters(token: bytes) -> str:
    return "".join(BYTE_LETTERS[byte] for byte in token)
