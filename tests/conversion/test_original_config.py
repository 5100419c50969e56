"""Promises of `qwenvl_jax.conversion.original_config`."""

import copy
import json
from pathlib import Path

import pytest
from small_folder import CONFIG, FIELDS

from configs.qwen_vl import MODEL
from qwenvl_jax.conversion.original_config import from_original, mlp_ratio, to_original
from qwenvl_jax.conversion.pieces import original_shapes


def test_there_and_back() -> None:
    """The released model's config.json describes the recipe's model, with 853 tensors of the published shapes."""
    fields = to_original(MODEL, 448, 151857)
    assert from_original(fields, "here") == MODEL
    assert fields["visual"]["mlp_ratio"] == 4.9231
    assert fields["intermediate_size"] == 22016
    published = json.loads((Path(__file__).parents[1] / "golden" / "qwen_vl_tensors.json").read_text())
    assert {name: list(shape) for name, shape in original_shapes(MODEL).items()} == published
    assert from_original(to_original(CONFIG, 224, 470), "here") == CONFIG


@pytest.mark.parametrize("width, mlp", [(1664, 8192), (64, 315), (32, 64), (100, 333), (7, 1), (1280, 5120), (48, 197)])
def test_a_ratio_for_every_width(width: int, mlp: int) -> None:
    """`int(width * mlp_ratio)` of the original gives our mlp width."""
    assert int(width * mlp_ratio(width, mlp)) == mlp


@pytest.mark.parametrize(
    "path, value, sentence",
    [
        ("hidden_size", None, "hidden_size is missing"),
        ("hidden_size", 130, "kv_channels 64 x num_attention_heads 2 is not hidden_size 130"),
        ("kv_channels", 32, "kv_channels 32 x"),
        ("intermediate_size", 97, "intermediate_size 97 is odd"),
        ("num_hidden_layers", 0, "num_hidden_layers is 0"),
        ("vocab_size", "many", "vocab_size is 'many'"),
        ("layer_norm_epsilon", 1e-5, "layer_norm_epsilon is 1e-05"),
        ("tie_word_embeddings", True, "tie_word_embeddings is True"),
        ("rotary_emb_base", "big", "rotary_emb_base is 'big'"),
        ("use_logn_attn", "auto", "use_logn_attn is 'auto'"),
        ("quantization_config", {"bits": 4}, "quantised"),
        ("visual", None, "no `visual`"),
        ("visual.output_dim", 256, "output_dim 256 is not hidden_size 128"),
        ("visual.width", 33, "width 33 does not divide"),
        ("visual.image_size", 225, "image_size 225 is no multiple"),
        ("visual.mlp_ratio", None, "mlp_ratio is missing"),
        ("visual.n_queries", 250, "n_queries is 250"),
    ],
)
def test_contradictions_are_one_sentence(path: str, value: object, sentence: str) -> None:
    """A field that is missing, impossible, or says what the model here does not compute, is named with the file."""
    fields = copy.deepcopy(FIELDS)
    *parents, name = path.split(".")
    place = fields["visual"] if parents else fields
    place.pop(name, None)
    if value is not None:
        place[name] = value
    with pytest.raises(ValueError, match=sentence) as error:
        from_original(fields, "config.json")
    assert str(error.value).startswith("config.json")


def test_everything_wrong_is_named_at_once() -> None:
    """Not the first mistake alone."""
    fields = {k: v for k, v in FIELDS.items() if k not in ("vocab_size", "seq_length")} | {"rotary_pct": 0.5}
    with pytest.raises(ValueError, match=r"vocab_size is missing; seq_length is missing; rotary_pct is 0\.5"):
        from_original(fields, "config.json")
