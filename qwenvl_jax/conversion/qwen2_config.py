"""config.json of the original <-> `Qwen2VLConfig`, in all forms that released folders and transformers have given it.

Flat (the release) or with a `text_config` (transformers from 4.52 on); rotary settings under `rope_scaling` and `rope_theta`
or under `rope_parameters` (5.x); a vision_config that leaves out what is the class's default (4.45 to 4.51).
Source: config.json of the released checkpoints, and `configuration_qwen2_vl.py` of transformers.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from qwenvl_jax.config import Qwen2LanguageConfig, Qwen2VisionConfig, Qwen2VLConfig
from qwenvl_jax.conversion.original_config import mlp_ratio, refuse, size_problems
from qwenvl_jax.processing.patches import MERGE, TEMPORAL_PATCH
from qwenvl_jax.processing.qwen2_tokens import IMAGE_PAD, QWEN2_VL, VIDEO_PAD, VISION_END, VISION_START
from qwenvl_jax.processing.tokenizer import END_OF_TEXT, IM_END

LANGUAGE_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
)
VISION_SIZES = ("depth", "embed_dim", "num_heads", "hidden_size", "patch_size")

LANGUAGE_DEFAULTS = {
    # of the class: what a text_config may leave out
    "vocab_size": 152064,
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 29568,
    "rms_norm_eps": 1e-5,
}
VISION_DEFAULTS = {
    "depth": 32,
    "embed_dim": 1280,
    "num_heads": 16,
    "hidden_size": 3584,
    "patch_size": 14,
    "mlp_ratio": 4,
    "hidden_act": "quick_gelu",
}
FIXED = {
    # field -> the only value that the model here computes, which is also the class's default
    "hidden_act": "silu",
    "use_sliding_window": False,
}
FIXED_VISION = {
    "in_chans": 3,
    "in_channels": 3,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": TEMPORAL_PATCH,
}
ACTIVATIONS = ("quick_gelu", "gelu", "relu2")
"""Of the vision tower: names that mean the same here and in transformers."""

TOKEN_IDS = {
    # field -> the tokenizer's special token that it is the id of
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
    "vision_token_id": "<|vision_pad|>",
    "image_token_id": IMAGE_PAD,
    "video_token_id": VIDEO_PAD,
}
MAX_POSITIONS = 32768
"""`max_position_embeddings` of the release; nothing is computed with it."""


def from_original(fields: Mapping[str, Any], place: object) -> Qwen2VLConfig:
    """Our configuration.

    Raises:
      ValueError: fields are missing, or contradict each other or this model; one sentence names all of them.
    """
    nested, given = fields.get("text_config"), fields.get("vision_config")
    if not isinstance(given, dict) or not isinstance(nested, dict | None):
        raise ValueError(f"{place} is no configuration of Qwen2-VL: it has no `vision_config`")
    language: dict[str, Any] = {**fields, **LANGUAGE_DEFAULTS, **nested} if nested is not None else dict(fields)
    vision: dict[str, Any] = VISION_DEFAULTS | given
    problems = size_problems(language, LANGUAGE_SIZES, "") + size_problems(vision, VISION_SIZES, "vision_config.")
    problems += _other_values(language, FIXED, "") + _other_values(vision, FIXED_VISION, "vision_config.")
    if "quantization_config" in fields:
        problems.append("it is quantised: take the model's bf16 release")
    if any(kind != "full_attention" for kind in language.get("layer_types") or ()):
        problems.append("layer_types has layers without full attention")
    if vision["hidden_act"] not in ACTIVATIONS:
        problems.append(f"vision_config.hidden_act is {vision['hidden_act']!r}, none of {', '.join(ACTIVATIONS)}")
    tied = {part["tie_word_embeddings"] for part in (fields, nested or {}) if "tie_word_embeddings" in part} or {False}
    if tied not in ({True}, {False}):
        problems.append("tie_word_embeddings is not one of true and false, the same everywhere")
    rotary: dict[str, Any] = language.get("rope_parameters") or language.get("rope_scaling") or {}
    base = rotary.get("rope_theta", language.get("rope_theta", 1e6))
    sections: Any = rotary.get("mrope_section")
    problems += _not_above_0(base, "rope_theta") + _not_above_0(language.get("rms_norm_eps"), "rms_norm_eps")
    problems += _not_above_0(vision["mlp_ratio"], "vision_config.mlp_ratio")
    if not (isinstance(sections, list) and len(sections) == 3 and all(type(n) is int and n > 0 for n in sections)):
        problems.append(f"rope_scaling.mrope_section is {sections!r}, not three whole numbers above 0")
    if not problems:
        problems += _contradictions(language, vision, sections)
    refuse(place, problems)
    return Qwen2VLConfig(
        vision=Qwen2VisionConfig(
            width=vision["embed_dim"],
            layers=vision["depth"],
            heads=vision["num_heads"],
            mlp_width=int(vision["embed_dim"] * vision["mlp_ratio"]),
            patch=vision["patch_size"],
            activation=vision["hidden_act"],
        ),
        language=Qwen2LanguageConfig(
            vocab_size=language["vocab_size"],
            width=language["hidden_size"],
            layers=language["num_hidden_layers"],
            heads=language["num_attention_heads"],
            kv_heads=language["num_key_value_heads"],
            mlp_width=language["intermediate_size"],
            tied=tied == {True},
            mrope_sections=tuple(sections),
            rope_base=float(base),
            norm_eps=float(language["rms_norm_eps"]),
        ),
    )


def to_original(config: Qwen2VLConfig, first_special: int) -> dict[str, Any]:
    """All fields of config.json, flat as the release has them, which every version of transformers reads; warns where
    transformers 5 does not: it wants the vision tower's MLP to be a multiple of its width.

    Args:
      first_special: id of the tokenizer's first special token, behind which the others stand.
    """
    vision, language = config.vision, config.language
    ratio = mlp_ratio(vision.width, vision.mlp_width)
    if ratio != int(ratio):
        warnings.warn(f"vision_config.mlp_ratio {ratio} is no whole number: transformers 5 refuses it", stacklevel=2)
    ids = {token: first_special + number for number, token in enumerate(QWEN2_VL.strings)}
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids[END_OF_TEXT],
        "eos_token_id": ids[IM_END],
        **{field: ids[token] for field, token in TOKEN_IDS.items()},
        "hidden_act": "silu",
        "hidden_size": language.width,
        "initializer_range": 0.02,
        "intermediate_size": language.mlp_width,
        "max_position_embeddings": MAX_POSITIONS,
        "max_window_layers": language.layers,
        "model_type": "qwen2_vl",
        "num_attention_heads": language.heads,
        "num_hidden_layers": language.layers,
        "num_key_value_heads": language.kv_heads,
        "rms_norm_eps": language.norm_eps,
        "rope_scaling": {"type": "mrope", "mrope_section": list(language.mrope_sections)},
        "rope_theta": language.rope_base,
        "sliding_window": MAX_POSITIONS,
        "tie_word_embeddings": language.tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": vision.layers,
            "embed_dim": vision.width,
            "hidden_act": vision.activation,
            "hidden_size": language.width,
            "in_chans": 3,
            "mlp_ratio": int(ratio) if ratio == int(ratio) else ratio,
            "num_heads": vision.heads,
            "patch_size": vision.patch,
            "spatial_merge_size": vision.merge,
            "spatial_patch_size": vision.patch,
            "temporal_patch_size": vision.temporal_patch,
        },
        "vocab_size": language.vocab_size,
    }


def _other_values(fields: Mapping[str, Any], fixed: Mapping[str, Any], prefix: str) -> list[str]:
    return [
        f"{prefix}{name} is {fields[name]!r}, and only {value!r} is known here"
        for name, value in fixed.items()
        if name in fields and fields[name] != value
    ]


def _not_above_0(value: Any, name: str) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        return [f"{name} is {value!r}, not a number above 0"]
    return []


def _contradictions(language: Mapping[str, Any], vision: Mapping[str, Any], sections: list[int]) -> list[str]:
    """What does not fit together in fields that are numbers."""
    width, heads, kv_heads = (language[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    problems = []
    if width % heads or heads % kv_heads:
        problems.append(f"hidden_size {width}, {heads} heads and {kv_heads} heads of keys do not divide")
    elif 2 * sum(sections) != width // heads:
        problems.append(f"rope_scaling.mrope_section {sections} does not add up to half of a head's {width // heads}")
    if language.get("head_dim", width // heads) != width // heads:
        problems.append(f"head_dim {language['head_dim']} x num_attention_heads {heads} is not hidden_size {width}")
    if vision["hidden_size"] != width:
        problems.append(f"vision_config.hidden_size {vision['hidden_size']} is not hidden_size {width}")
    if vision["embed_dim"] % (4 * vision["num_heads"]):
        problems.append(
            f"vision_config.embed_dim {vision['embed_dim']} is no multiple of 4 for each of {vision['num_heads']} heads"
        )
    return problems
