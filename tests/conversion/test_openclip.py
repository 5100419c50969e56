"""Promises of `qwenvl_jax.conversion.openclip`: stage 1 starts from the numbers of both towers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_folder import CONFIG, FIELDS, SHAPES, Tensors, make_folder, random_tensors, save

from qwenvl_jax.config import PrecisionConfig
from qwenvl_jax.config_json import from_json
from qwenvl_jax.conversion.openclip import expected_shapes
from qwenvl_jax.models.parameters import initialize, layout_of
from qwenvl_jax.models.weights import from_original, to_original
from qwenvl_jax.training.checkpoints import load_parameters

CLIP_SHAPES = expected_shapes(SHAPES) | {
    "visual.class_embedding": (32,),
    "visual.ln_post.weight": (32,),
    "visual.ln_post.bias": (32,),
    "visual.proj": (32, 24),
    "positional_embedding": (77, 24),
    "token_embedding.weight": (100, 24),
    "transformer.resblocks.0.attn.in_proj_weight": (72, 24),
    "logit_scale": (),
}
CLIP_CONFIG = {"model_cfg": {"embed_dim": 24, "vision_cfg": {"width": 32, "head_width": 16, "layers": 2}}}


@pytest.fixture
def clip() -> Tensors:
    return random_tensors("float32", CLIP_SHAPES)


@pytest.fixture
def towers(tmp_path, clip: Tensors, tensors: Tensors) -> tuple[Path, Path]:
    """Folders of an OpenCLIP model and of a Qwen-7B."""
    vision = tmp_path / "clip"
    vision.mkdir()
    save(vision / "open_clip_pytorch_model.bin", clip)
    (vision / "open_clip_config.json").write_text(json.dumps(CLIP_CONFIG))
    words = {name: array for name, array in tensors.items() if ".visual." not in name}
    language = make_folder(tmp_path / "qwen", words, shards=2)
    (language / "config.json").write_text(json.dumps({k: v for k, v in FIELDS.items() if k != "visual"}))
    return vision, language


def test_both_towers_and_a_new_adapter(tmp_path, converted, towers, tensors: Tensors) -> None:
    """Language: the same bits. Vision: OpenCLIP's in float32. Adapter: what a new model of seed 0 has. All is said."""
    said = "\n".join(converted(*towers, tmp_path / "start"))
    run = from_json((tmp_path / "start" / "config.json").read_text())
    assert run.model == CONFIG
    assert run.stages[0].resolution == 224
    found = load_parameters(tmp_path / "start", "converted", 0)
    wanted = from_original(tensors, layout_of(CONFIG))
    fresh = initialize(CONFIG, PrecisionConfig(), 0)
    assert found.keys() == wanted.keys()
    for path, array in found.items():
        if path.startswith("language/"):
            assert np.asarray(array).tobytes() == wanted[path].tobytes()
        elif path.startswith("adapter/"):
            # A compiler may round once less than another.
            np.testing.assert_allclose(array, fresh[path], rtol=1e-5, atol=1e-7)
        assert array.dtype == ("bfloat16" if path.startswith("language/") else "float32")
    assert "left out of" in said
    for name in ("visual.class_embedding", "transformer.visual.attn_pool.query"):
        assert name in said


def test_the_trunk_computes_what_openclip_computes(tmp_path, converted, towers, clip: Tensors) -> None:
    """torch's MultiheadAttention with OpenCLIP's weights equals ours, written out, with the converted ones."""
    converted(*towers, tmp_path / "start")
    found = {path: np.asarray(a) for path, a in load_parameters(tmp_path / "start", "converted", 0).items()}
    x = np.random.default_rng(1).normal(size=(1, 9, 32)).astype(np.float32)
    for layer in range(2):
        name = f"visual.transformer.resblocks.{layer}.attn"
        attention = torch.nn.MultiheadAttention(32, 2, batch_first=True)
        state = {part: torch.from_numpy(clip[f"{name}.{part}"]) for part in attention.state_dict()}
        attention.load_state_dict(state)
        theirs = attention(*[torch.from_numpy(x)] * 3, need_weights=False)[0].detach().numpy()
        kernel = {part: found[f"vision/blocks/{part}/kernel"][layer] for part in ("q", "k", "v", "out")}
        bias = {part: found[f"vision/blocks/{part}/bias"][layer] for part in ("q", "k", "v", "out")}
        q, k, v = (np.einsum("bpd,dnh->bpnh", x, kernel[part]) + bias[part] for part in "qkv")
        scores = np.einsum("bpnh,btnh->bnpt", q, k) / 16**0.5
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        ours = np.einsum("bnpt,btnh,nhd->bpd", weights, v, kernel["out"]) + bias["out"]
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    positions = clip["visual.positional_embedding"]
    np.testing.assert_array_equal(found["vision/position"], positions[1:])
    np.testing.assert_array_equal(found["vision/norm_pre/scale"], clip["visual.ln_pre.weight"])
    back = to_original(found, layout_of(CONFIG))
    for part in ("mlp.c_fc.weight", "mlp.c_proj.bias", "ln_2.weight"):
        name = f"transformer.resblocks.1.{part}"
        np.testing.assert_array_equal(back[f"transformer.visual.{name}"], clip[f"visual.{name}"])
    np.testing.assert_array_equal(back["transformer.visual.conv1.weight"], clip["visual.conv1.weight"])


def test_what_is_wrong_in_both_is_named_at_once(tmp_path, converted, towers, clip: Tensors, tensors: Tensors) -> None:
    """By the names of the files that they stand in; nothing is written."""
    vision, language = towers
    del clip["visual.transformer.resblocks.1.mlp.c_fc.bias"]
    clip["visual.ln_pre.weight"][0] = np.nan
    save(vision / "open_clip_pytorch_model.bin", clip)
    words = {n: a for n, a in tensors.items() if ".visual." not in n and n != "transformer.ln_f.weight"}
    (language / "model.safetensors.index.json").unlink()
    save(language / "model.safetensors", words)
    with pytest.raises(ValueError, match="3 problems") as error:
        converted(vision, language, tmp_path / "start")
    assert "visual.transformer.resblocks.1.mlp.c_fc.bias is missing" in str(error.value)
    assert "transformer.ln_f.weight is missing" in str(error.value)
    assert "visual.ln_pre.weight is not finite" in str(error.value)
    assert not (tmp_path / "start").exists()


def test_sources_that_do_not_fit(tmp_path, converted, towers, tensors: Tensors) -> None:
    """An unknown head size, a Qwen-VL in place of Qwen-7B, one tower alone: one sentence each."""
    vision, language = towers
    with pytest.raises(ValueError, match="Qwen-7B is needed as second source"):
        converted(vision, tmp_path / "start")
    with pytest.raises(ValueError, match="qwenvl convert OPENCLIP QWEN7B DST"):
        converted(language, tmp_path / "start")
    with pytest.raises(ValueError, match="is a Qwen-VL, not a Qwen-7B"):
        converted(vision, make_folder(tmp_path / "vl", tensors), tmp_path / "start")
    with pytest.raises(ValueError, match="holds no ViT of OpenCLIP"):
        converted(language / "model-00001-of-00002.safetensors", language, tmp_path / "start")
    (vision / "open_clip_config.json").unlink()
    with pytest.raises(
        ValueError, match=r"head size of a ViT of width 32 is not known: put its open_clip_config\.json"
    ):
        converted(vision / "open_clip_pytorch_model.bin", language, tmp_path / "start")
