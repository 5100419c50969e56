"""config.json of the original <-> `QwenVLConfig`.

Source: `configuration_qwen.py` of the original (its defaults), and `visual.py` for what the vision tower derives.
"""

import math
from collections.abc import Mapping
from typing import Any

from qwenvl_jax.config import AdapterConfig, LanguageConfig, QwenVLConfig, VisionConfig

POSITION_GRID = 16
"""The original stores 256 positions, whatever the image size."""
QUERY_GRID = 16
"""`n_queries` 256; config.json of the original does not name it."""
ADAPTER_HEAD = 128
"""Head size of the adapter: `output_dim // 128` heads."""
PUBLISHED_MLP_RATIO = 4.9231

LANGUAGE_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "seq_length",
)
VISION_SIZES = ("width", "layers", "heads", "patch_size", "image_size", "output_dim")

FIXED = {
    # field -> the only value that the model here computes, which is also the original's default
    "layer_norm_epsilon": 1e-6,
    "rotary_pct": 1.0,
    "no_bias": True,
    "tie_word_embeddings": False,
    "scale_attn_weights": True,
}

DEFAULTS: dict[str, Any] = {
    # what a folder's config.json has beside the model's sizes, as the original publishes it
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    },
    "model_type": "qwen",
    "tokenizer_type": "QWenTokenizer",
    "attn_dropout_prob": 0.0,
    "emb_dropout_prob": 0.0,
    "initializer_range": 0.02,
    "max_position_embeddings": 8192,
    "use_cache": True,
    "bf16": False,
    "fp16": False,
    "fp32": False,
    "onnx_safe": None,
    "use_flash_attn": False,
    **FIXED,
}


def language_from_original(fields: dict[str, Any], place: object) -> LanguageConfig:
    """The LLM's configuration, of Qwen-VL or of Qwen-7B alone.

    Raises:
      ValueError: fields are missing, or contradict each other or this model; one sentence names all of them.
    """
    problems = size_problems(fields, LANGUAGE_SIZES, "")
    problems += [
        f"{name} is {fields[name]!r}, and only {value!r} is known here"
        for name, value in FIXED.items()
        if name in fields and fields[name] != value
    ]
    if "quantization_config" in fields:
        problems.append("it is quantised: take the model's bf16 release")
    base = fields.get("rotary_emb_base", 10000)
    if isinstance(base, bool) or not isinstance(base, int | float) or base <= 1:
        problems.append(f"rotary_emb_base is {base!r}, not a number above 1")
    problems += [
        f"{name} is {fields[name]!r}, not true or false"
        for name in ("use_dynamic_ntk", "use_logn_attn")
        if not isinstance(fields.get(name, True), bool)
    ]
    if not problems:
        width, heads, head = fields["hidden_size"], fields["num_attention_heads"], fields.get("kv_channels", 128)
        if head != width // heads or width % heads:
            problems.append(f"kv_channels {head!r} x num_attention_heads {heads} is not hidden_size {width}")
        if (width // heads) % 2:
            problems.append(f"kv_channels {head!r} is odd, and rotary positions need pairs")
        if fields["intermediate_size"] % 2:
            problems.append(f"intermediate_size {fields['intermediate_size']} is odd: it is two matrices' width")
    refuse(place, problems)
    return LanguageConfig(
        vocab_size=fields["vocab_size"],
        width=fields["hidden_size"],
        layers=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        mlp_width=fields["intermediate_size"] // 2,
        rope_base=float(fields.get("rotary_emb_base", 10000)),
        training_length=fields["seq_length"],
        dynamic_ntk=fields.get("use_dynamic_ntk", True),
        logn=fields.get("use_logn_attn", True),
    )


def from_original(fields: dict[str, Any], place: object) -> QwenVLConfig:
    """Our configuration of a whole Qwen-VL.

    Raises:
      ValueError: as `language_from_original`.
    """
    visual = fields.get("visual")
    if not isinstance(visual, dict):
        raise ValueError(
            f"{place} is no configuration of Qwen-VL: it has no `visual`. A Qwen-7B comes behind OpenCLIP's weights: "
            "qwenvl convert OPENCLIP QWEN7B DST"
        )
    language = language_from_original(fields, place)
    problems = size_problems(visual, VISION_SIZES, "visual.")
    ratio, queries = visual.get("mlp_ratio"), visual.get("n_queries", QUERY_GRID**2)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1e6:
        problems.append("visual.mlp_ratio is missing" if ratio is None else f"visual.mlp_ratio is {ratio!r}")
    if type(queries) is not int or queries < 1 or math.isqrt(queries) ** 2 != queries:
        problems.append(f"visual.n_queries is {queries!r}, not a square")
    if not problems:
        if visual["output_dim"] != language.width:
            problems.append(f"visual.output_dim {visual['output_dim']} is not hidden_size {language.width}")
        if visual["output_dim"] % ADAPTER_HEAD:
            problems.append(
                f"visual.output_dim {visual['output_dim']} is no multiple of {ADAPTER_HEAD}, the adapter's heads"
            )
        if visual["width"] % visual["heads"]:
            problems.append(f"visual.width {visual['width']} does not divide into visual.heads {visual['heads']}")
        if visual["image_size"] % visual["patch_size"]:
            problems.append(
                f"visual.image_size {visual['image_size']} is no multiple of the patch {visual['patch_size']}"
            )
    refuse(place, problems)
    return QwenVLConfig(
        vision=VisionConfig(
            width=visual["width"],
            layers=visual["layers"],
            heads=visual["heads"],
            mlp_width=int(visual["width"] * visual["mlp_ratio"]),
            patch=visual["patch_size"],
            position_grid=POSITION_GRID,
        ),
        adapter=AdapterConfig(query_grid=math.isqrt(queries), heads=visual["output_dim"] // ADAPTER_HEAD),
        language=language,
    )


def to_original(config: QwenVLConfig, image_size: int, image_start_id: int) -> dict[str, Any]:
    """All fields of config.json.

    Raises:
      ValueError: the original cannot compute this model; the sentence names what it lacks.
    """
    vision, adapter, language = config.vision, config.adapter, config.language
    problems = []
    if vision.activation != "gelu":
        problems.append(f"vision.activation {vision.activation}")
    if vision.position_grid != POSITION_GRID:
        problems.append(f"vision.position_grid {vision.position_grid} (only {POSITION_GRID})")
    if adapter.heads * ADAPTER_HEAD != language.width:
        problems.append(
            f"adapter.heads {adapter.heads} of size {language.width // adapter.heads} (only {ADAPTER_HEAD})"
        )
    if language.rope_base != int(language.rope_base):
        problems.append(f"language.rope_base {language.rope_base} (only whole numbers)")
    if problems:
        raise ValueError(f"the PyTorch original cannot compute this model: it knows no {', no '.join(problems)}")
    visual = {
        "heads": vision.heads,
        "image_size": image_size,
        "image_start_id": image_start_id,
        "layers": vision.layers,
        "mlp_ratio": mlp_ratio(vision.width, vision.mlp_width),
        "output_dim": language.width,
        "patch_size": vision.patch,
        "width": vision.width,
    }
    if adapter.query_grid != QUERY_GRID:
        visual["n_queries"] = adapter.queries
    return {
        **DEFAULTS,
        "vocab_size": language.vocab_size,
        "hidden_size": language.width,
        "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads,
        "kv_channels": language.width // language.heads,
        "intermediate_size": 2 * language.mlp_width,
        "rotary_emb_base": int(language.rope_base),
        "seq_length": language.training_length,
        "use_dynamic_ntk": language.dynamic_ntk,
        "use_logn_attn": language.logn,
        "visual": visual,
    }


def mlp_ratio(width: int, mlp_width: int) -> float:
    """A ratio that `int(width * ratio)` turns into `mlp_width`: the original's where it does, else the fewest digits."""
    if int(width * PUBLISHED_MLP_RATIO) == mlp_width:
        return PUBLISHED_MLP_RATIO
    for digits in range(1, 17):
        ratio = math.ceil(mlp_width / width * 10**digits) / 10**digits
        if int(width * ratio) == mlp_width:
            return ratio
    raise ValueError(f"no mlp_ratio gives an mlp of {mlp_width} at width {width}")


def size_problems(fields: Mapping[str, Any], names: tuple[str, ...], prefix: str) -> list[str]:
    """What is wrong with fields that must be whole numbers above zero."""
    missing = [f"{prefix}{name} is missing" for name in names if name not in fields]
    wrong = [
        f"{prefix}{name} is {fields[name]!r}, not a whole number above 0"
        for name in names
        if name in fields and (type(fields[name]) is not int or fields[name] < 1)
    ]
    return missing + wrong


def refuse(place: object, problems: list[str]) -> None:
    """Raises one ValueError that names everything wrong with a configuration; nothing where all is well."""
    if problems:
        raise ValueError(f"{place}: {'; '.join(problems)}")
