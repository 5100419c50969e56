"""Promises of `qwenvl_jax.conversion.qwen2_config`: every form of config.json, and sentences where one is wrong."""

import json
from pathlib import Path

import pytest
from small_qwen2_vl import CONFIG
from transformers import Qwen2VLConfig

from configs.qwen2_vl import MODEL_2B, MODEL_7B, MODEL_72B
from qwenvl_jax.conversion.original_config import from_original as qwen_vl_config
from qwenvl_jax.conversion.originals import config_of
from qwenvl_jax.conversion.qwen2_config import from_original, to_original

SIZES = {"2B": MODEL_2B, "7B": MODEL_7B, "72B": MODEL_72B}


def released(size: str) -> dict:
    file = Path(__file__).parents[1] / "golden" / f"qwen2_vl_config_{size}.json"
    fields: dict = json.loads(file.read_text())
    return fields


@pytest.mark.parametrize("size", SIZES)
def test_released_configurations(size) -> None:
    """The flat files of the release are our three sizes, and what is written has each of their fields."""
    fields = released(size)
    assert config_of(fields, size) == SIZES[size]
    written = to_original(SIZES[size], 151643)
    assert written["vision_config"].pop("hidden_act") == "quick_gelu"  # the class's default, written for other models
    assert written == fields


@pytest.mark.parametrize("size", SIZES)
def test_nested_configurations(size) -> None:
    """What transformers 4.57 makes of the release, with a text_config; and what 5.x changes in it."""
    nested = json.loads(Qwen2VLConfig(**released(size)).to_json_string(use_diff=True))
    assert from_original(nested, size) == SIZES[size]
    text = nested["text_config"]
    newer = {
        "model_type": "qwen2_vl",
        "tie_word_embeddings": SIZES[size].language.tied,
        "text_config": {
            name: value
            for name, value in text.items()
            if name not in ("rope_scaling", "rope_theta", "tie_word_embeddings")
        }
        | {"rope_parameters": {**text["rope_scaling"], "rope_theta": text["rope_theta"]}},
        "vision_config": nested["vision_config"] | {"model_type": "qwen2_vl_vision"},
    }
    assert from_original(newer, size) == SIZES[size]


def test_a_vision_config_without_defaults() -> None:
    """transformers 4.45 to 4.51 wrote of the 7B's vision tower only what is no default."""
    fields = released("7B") | {"vision_config": {"in_chans": 3, "model_type": "qwen2_vl", "spatial_patch_size": 14}}
    fields["rope_scaling"] = {"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]}
    assert from_original(fields, "7B") == MODEL_7B
    with pytest.raises(ValueError, match=r"vision_config\.hidden_size 3584 is not hidden_size 1536"):
        from_original(fields | {"hidden_size": 1536, "num_attention_heads": 12}, "2B")


def test_norms_come_from_the_file() -> None:
    """The language model's epsilon differs among Qwen2's sizes."""
    assert from_original(released("72B") | {"rms_norm_eps": 1e-5}, "72B").language.norm_eps == 1e-5


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"model_type": "qwen2_5_vl"}, r"f\.json: model_type 'qwen2_5_vl' is none of qwen, qwen2_vl"),
        ({"vision_config": None}, "no configuration of Qwen2-VL: it has no `vision_config`"),
        ({"hidden_size": "big", "vocab_size": 0}, "vocab_size is 0, not a whole number above 0; hidden_size is 'big'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', and only 'silu' is known"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layers without full attention"),
        ({"rope_scaling": {"type": "yarn"}}, "mrope_section is None, not three"),
        ({"rope_scaling": {"mrope_section": [16, 16, 16]}}, r"\[16, 16, 16\] does not add up to half of a head's 128"),
        ({"num_key_value_heads": 5}, "12 heads and 5 heads of keys do not divide"),
        ({"rms_norm_eps": None}, "rms_norm_eps is None"),
        ({"head_dim": 64}, "head_dim 64 x num_attention_heads 12"),
        ({"quantization_config": {}}, "quantised"),
        ({"text_config": {"tie_word_embeddings": False}}, "tie_word_embeddings is not one of"),
        ({"vision_config": {"hidden_size": 1536, "temporal_patch_size": 1}}, "temporal_patch_size is 1, and only 2"),
        ({"vision_config": {"hidden_size": 1536, "hidden_act": "silu"}}, "hidden_act is 'silu', none of quick_gelu"),
    ],
)
def test_other_models_are_refused(fields, sentence) -> None:
    """One sentence names the field, what it is, and what could be."""
    with pytest.raises(ValueError, match=sentence):
        config_of(released("2B") | fields, "f.json")


def test_what_transformers_5_refuses_is_said() -> None:
    """Its vision tower takes whole numbers for the ratio of the MLP alone; 4.57.6 takes any."""
    with pytest.warns(UserWarning, match=r"mlp_ratio 1\.5 is no whole number: transformers 5 refuses it"):
        written = to_original(CONFIG, 0)
    assert from_original(written, "f.json") == CONFIG


def test_kinds_are_told_apart() -> None:
    """A folder of Qwen2-VL is none of Qwen-VL's, whose reader would say so."""
    with pytest.raises(ValueError, match="no configuration of Qwen-VL"):
        qwen_vl_config(released("2B"), "f.json")
