"""The way of someone with a PyTorch checkpoint: convert, train ten steps of stage 3, convert back, load in PyTorch."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from configs.recipes import recipe
from launch.benchmarks.torch_qwen_vl import TorchQwenVL, load_folder
from launch.main import main
from launch.train import starting_point, with_model_of
from qwenvl_jax.config import PrecisionConfig
from qwenvl_jax.config_json import from_json
from qwenvl_jax.conversion.original_config import from_original, to_original
from qwenvl_jax.conversion.pieces import original_shapes
from qwenvl_jax.models.parameters import build, layout_of
from qwenvl_jax.models.weights import from_original as from_tensors
from qwenvl_jax.parallel.mesh import make_mesh, parameter_shardings
from qwenvl_jax.processing.tokenizer import WORLD_FILE, load_tokenizer
from qwenvl_jax.training.checkpoints import load_parameters
from qwenvl_jax.training.json_lines import read_lines

FIELDS = {
    "vocab_size": 896,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "kv_channels": 64,
    "intermediate_size": 192,
    "seq_length": 2048,
    "visual": {
        "width": 32, "layers": 2, "heads": 2, "mlp_ratio": 4.9231, "patch_size": 14, "image_size": 448,
        "image_start_id": load_tokenizer("world").image_start_id, "output_dim": 128,
    },
}  # fmt: skip
CONFIG = from_original(FIELDS, "FIELDS")
STAGE = "--stage sft --sft.steps 10 --sft.rows 1 --sft.resolution 224 --sft.schedule.warmup 1 --sft.schedule.peak 1e-3"
SMALL = "--sft.images-per-row 2 --sft.sequence-length 640 --data.workers 0 --log-every 1"


def qwenvl(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["qwenvl", *map(str, arguments)])
    main()


def make_folder(folder: Path) -> Path:
    """Random bfloat16 weights from the list of tensors, in two shards, as a user has them."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**to_original(CONFIG, 448, 0), **FIELDS}))
    (folder / "qwen.tiktoken").write_bytes(WORLD_FILE.read_bytes())
    rng = np.random.default_rng(0)
    names = original_shapes(CONFIG)
    weight_map = {name: f"model-{1 + number % 2:05d}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file(
            {
                name: (rng.normal(size=shape) * 0.05 + name.endswith(("ln_1.weight", "ln_f.weight"))).astype(
                    jnp.bfloat16
                )
                for name, shape in names.items()
                if weight_map[name] == file
            },
            folder / file,
        )
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def make_conversations(folder: Path) -> Path:
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    turns = [
        {"from": "user", "value": "Picture 1: <img>red.png</img>\nWhat color is this?"},
        {"from": "assistant", "value": "red"},
    ]
    (folder / "own.json").write_text(json.dumps([{"id": str(n), "conversations": turns} for n in range(4)]))
    return folder / "own.json"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """hf -> ours -> runs/own, ten steps -> back (bfloat16), wide (float32)."""
    folder = tmp_path_factory.mktemp("convert")
    source, own = make_folder(folder / "hf"), make_conversations(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        qwenvl(patch, "convert", source, "ours")
        train = f"train qwen-vl --start ours --workdir runs/own --data {own.name} {STAGE} {SMALL}"
        qwenvl(patch, *train.split())
        qwenvl(patch, "convert", "runs/own", "back")
        qwenvl(patch, "convert", "runs/own", "wide", "--dtype", "float32")
    return folder


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    return {name: array for file in folder.glob("*.safetensors") for name, array in load_file(file).items()}


def test_ten_steps_of_stage_3(home: Path) -> None:
    """The recipe takes model and tokenizer from the converted folder, trains, and the loss falls."""
    losses = [line["loss"] for line in read_lines(home / "runs/own/metrics.jsonl")]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    run = from_json((home / "runs/own/config.json").read_text())
    assert run.model == CONFIG
    assert run.data.tokenizer == str(home / "ours" / "qwen.tiktoken")


def test_what_was_frozen_comes_back_bit_by_bit(home: Path) -> None:
    """The vision trunk and the adapter's positions; the rest has moved. The small files came along."""
    before, after = tensors_of(home / "hf"), tensors_of(home / "back")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        trunk = ".visual." in name and not any(part in name for part in ("attn_pool", "ln_post", "visual.proj"))
        assert after[name].dtype == tensor.dtype
        if trunk or name.endswith("pos_embed"):
            assert after[name].tobytes() == tensor.tobytes(), name
    assert (after["lm_head.weight"] != before["lm_head.weight"]).any()
    assert (home / "back" / "qwen.tiktoken").read_bytes() == WORLD_FILE.read_bytes()
    assert json.loads((home / "back" / "generation_config.json").read_text())["chat_format"] == "chatml"
    fields = json.loads((home / "back" / "config.json").read_text())
    assert fields["visual"]["image_size"] == 224
    assert from_original(fields, "back") == CONFIG


def test_pytorch_computes_the_same(home: Path) -> None:
    """The float32 folder in plain PyTorch gives the logits of our trained parameters."""
    weights, fields = load_folder(home / "wide")
    ids = np.random.default_rng(0).integers(0, 800, (2, 40))
    theirs = TorchQwenVL(weights, fields)
    embedded = theirs.embed(torch.from_numpy(ids))
    logits, _ = theirs(embedded, torch.ones(2, 40))
    architecture = build(CONFIG, PrecisionConfig(compute="float32"))
    module = architecture.assemble(load_parameters(home / "runs/own", "sft", 10))
    with jax.default_matmul_precision("highest"):
        ones = jnp.ones(ids.shape, jnp.int32)
        hidden = module.language(module.language.embed(ids), jnp.arange(40) * ones, ones)
        ours = module.language.head(hidden)
    # float32 on both sides; sums in another order.
    np.testing.assert_allclose(np.asarray(ours), logits.numpy(), atol=5e-5, rtol=1e-4)


def test_a_recipe_can_name_its_start(home: Path, monkeypatch) -> None:
    """`--initial` is what `--start` is, for a run's first stage; every array lies where the mesh wants it."""
    monkeypatch.chdir(home)
    run = with_model_of(Path("ours"), dataclasses.replace(recipe("qwen-vl"), initial="ours"))
    architecture = build(run.model, run.precision)
    shardings = parameter_shardings(architecture.axes, architecture.shapes, make_mesh(run.mesh, jax.devices()[:1]))
    parameters = starting_point(run, run.stages[0], None, home / "runs" / "new", shardings)
    assert {path: array.sharding for path, array in parameters.items()} == shardings
    before = from_tensors(tensors_of(home / "hf"), layout_of(CONFIG))
    assert all(np.asarray(parameters[path]).tobytes() == array.tobytes() for path, array in before.items())


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["ours"], "give SRC DST, or OPENCLIP QWEN7B DST"),
        (["gone", "there"], "gone is not there"),
        (["ours", "back"], "back is there already"),
        (["own.json", "there"], "Qwen-7B is needed"),
    ],
)
def test_mistakes_end_with_a_sentence(home: Path, monkeypatch, capsys, arguments, sentence) -> None:
    """On stderr, exit code 2, and nothing is made."""
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit) as ended:
        qwenvl(monkeypatch, "convert", *arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (home / "there").exists()


def test_another_model_is_refused(home: Path, monkeypatch, capsys) -> None:
    """Sizes from the command line that are not the checkpoint's are named."""
    monkeypatch.chdir(home)
    command = f"train qwen-vl --start ours --workdir runs/other --data own.json {STAGE} {SMALL} --model.vision.layers 3"
    with pytest.raises(SystemExit):
        qwenvl(monkeypatch, *command.split())
    assert "vision.layers 2 there, 3 here" in capsys.readouterr().err
