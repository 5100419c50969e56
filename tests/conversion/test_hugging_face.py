"""Promises of `qwenvl_jax.conversion.hugging_face`: every kind of folder is read, and what is wrong is named as a whole."""

import json

import numpy as np
import pytest
from small_folder import CONFIG, FIELDS, TYPES, Tensors, make_folder, random_tensors, save

from qwenvl_jax.config import Run
from qwenvl_jax.config_json import to_json
from qwenvl_jax.conversion.hugging_face import (
    is_hugging_face,
    read_config,
    read_parameters,
    tokenizer_file,
)
from qwenvl_jax.models.parameters import layout_of
from qwenvl_jax.models.weights import from_original


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [0, 3])
def test_every_kind_of_folder(tmp_path, tensors: Tensors, kind: str, shards: int) -> None:
    """One file or shards with an index, of either kind, give the parameters of `from_original` bit by bit."""
    folder = make_folder(tmp_path / "hf", tensors, kind, shards)
    assert is_hugging_face(folder)
    config = read_config(folder)
    assert config == CONFIG
    found, wanted = read_parameters(folder, config), from_original(tensors, layout_of(config))
    assert found.keys() == wanted.keys()
    assert all(found[path].dtype == wanted[path].dtype for path in wanted)
    assert all(found[path].tobytes() == wanted[path].tobytes() for path in wanted)


def test_types(tmp_path, tensors: Tensors) -> None:
    """A wanted type is given; float16 becomes float32, exactly; a mixture within an array becomes float32."""
    folder = make_folder(tmp_path / "hf", tensors)
    wide = read_parameters(folder, CONFIG, "float32")
    wanted = from_original(tensors, layout_of(CONFIG))
    assert all(array.dtype == np.float32 and np.array_equal(array, wanted[path]) for path, array in wide.items())
    half = random_tensors("float16")
    exact = read_parameters(make_folder(tmp_path / "half", half), CONFIG)
    assert all(
        a.dtype == np.float32 and np.array_equal(a, from_original(half, layout_of(CONFIG))[p]) for p, a in exact.items()
    )
    name = "transformer.h.1.attn.c_proj.weight"
    mixed = read_parameters(make_folder(tmp_path / "mixed", tensors | {name: tensors[name].astype("f4")}), CONFIG)
    assert {str(a.dtype) for p, a in mixed.items() if p == "language/blocks/out/kernel"} == {"float32"}
    assert mixed["language/blocks/down/kernel"].dtype == TYPES["bfloat16"]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_all_that_is_wrong_is_named_at_once(tmp_path, tensors: Tensors, kind: str) -> None:
    """Missing, unexpected, misshapen, of a wrong type, not finite: five names in one error."""
    wrong = dict(tensors)
    del wrong["transformer.ln_f.weight"]
    wrong["transformer.lora.weight"] = wrong["lm_head.weight"]
    wrong["transformer.wte.weight"] = wrong["transformer.wte.weight"][:-1]
    wrong["transformer.visual.proj"] = np.ones((128, 128), np.int32)
    broken = wrong["transformer.h.1.mlp.w1.weight"].copy()
    broken[3, 4] = np.nan
    wrong["transformer.h.1.mlp.w1.weight"] = broken
    folder = make_folder(tmp_path / "hf", wrong, kind, 2)
    with pytest.raises(ValueError, match="5 problems") as error:
        read_parameters(folder, CONFIG)
    for sentence in (
        "transformer.ln_f.weight is missing",
        "transformer.lora.weight is unexpected",
        "transformer.wte.weight has shape [479, 128] instead of [480, 128]",
        "transformer.visual.proj has type int32",
        "transformer.h.1.mlp.w1.weight is not finite",
    ):
        assert sentence in str(error.value)


def test_not_finite_alone(tmp_path, tensors: Tensors) -> None:
    """Every tensor with an infinity or a NaN is named, also where nothing else is wrong."""
    wrong = {name: array.copy() for name, array in tensors.items()}
    for name, value in (("lm_head.weight", np.inf), ("transformer.visual.ln_pre.bias", np.nan)):
        wrong[name][-1] = value
    with pytest.raises(ValueError, match="2 problems") as error:
        read_parameters(make_folder(tmp_path / "hf", wrong), CONFIG)
    assert "lm_head.weight is not finite" in str(error.value)
    assert "transformer.visual.ln_pre.bias is not finite" in str(error.value)


def test_old_constants_are_left_out(tmp_path, tensors: Tensors) -> None:
    """Masks and rotary frequencies that old checkpoints carry are no parameters."""
    constants = {
        "transformer.h.0.attn.bias": np.ones((1, 1, 8, 8), np.bool_),
        "transformer.h.0.attn.masked_bias": np.array(-1e4, np.float32),
        "transformer.h.1.attn.rotary_emb.inv_freq": np.ones(32, np.float32),
    }
    folder = make_folder(tmp_path / "hf", tensors | constants, "bin")
    assert read_parameters(folder, CONFIG).keys() == from_original(tensors, layout_of(CONFIG)).keys()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/a.safetensors", "..\\a", "..", 7])
def test_an_index_cannot_leave_its_folder(tmp_path, tensors: Tensors, name: object) -> None:
    """Names of shards are plain file names."""
    folder = make_folder(tmp_path / "hf", tensors, shards=2)
    save(tmp_path / "outside.safetensors", tensors)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ValueError, match="names files outside its folder"):
        read_parameters(folder, CONFIG)


def test_missing_files(tmp_path, tensors: Tensors) -> None:
    """A shard that is not there, no weights at all, no vocabulary, no config.json: each is one sentence."""
    folder = make_folder(tmp_path / "hf", tensors, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 files of its index: model-00002-of-00003\.safetensors"):
        read_parameters(folder, CONFIG)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        read_parameters(folder, CONFIG)
    with pytest.raises(FileNotFoundError, match=r"holds no qwen\.tiktoken"):
        tokenizer_file(folder, CONFIG)
    (folder / "qwen.tiktoken").write_text("")
    assert tokenizer_file(folder, CONFIG) == folder / "qwen.tiktoken"
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        read_config(tmp_path)


def test_which_folders_are_hugging_face(tmp_path) -> None:
    """A folder of a run has a config.json too, and is none."""
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    (run / "config.json").write_text(to_json(Run("r", CONFIG, ())))
    other.mkdir()
    assert not is_hugging_face(run)
    assert not is_hugging_face(other)
    (other / "config.json").write_text("{")
    assert not is_hugging_face(other)
    (other / "config.json").write_text(json.dumps(FIELDS))
    assert is_hugging_face(other)
