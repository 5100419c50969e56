"""Promises of `qwenvl_jax.conversion.convert`: there and back is the same bytes; a destination is whole, or not there."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_folder import CONFIG, FIELDS, TYPES, Tensors, make_folder, random_tensors, save
from small_model import small_run, small_stage

from qwenvl_jax.config import MeshConfig, ParameterRule, PrecisionConfig, Run
from qwenvl_jax.config_json import from_json, to_json
from qwenvl_jax.conversion import destination, direct, export, qwen_vl_folder
from qwenvl_jax.conversion import pieces as pieces_module
from qwenvl_jax.conversion.checkpoint import open_checkpoint
from qwenvl_jax.conversion.convert import compute_type
from qwenvl_jax.conversion.original_config import from_original as from_original_config
from qwenvl_jax.conversion.pieces import original_shapes
from qwenvl_jax.models.parameters import build, layout_of
from qwenvl_jax.models.weights import from_original
from qwenvl_jax.parallel.mesh import make_mesh, parameter_shardings
from qwenvl_jax.processing.tokenizer import WORLD_FILE, load_tokenizer
from qwenvl_jax.training import checkpoints as checkpoints_module
from qwenvl_jax.training.checkpoints import Checkpoints, load_parameters, newest
from qwenvl_jax.training.loop import initial_state

GOLDEN = Path(__file__).parents[1] / "golden"


def loaded(folder: Path) -> Tensors:
    """All tensors of a folder, by the library, of the files that its index names."""
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    found = {file: load_file(folder / file) for file in set(names.values())}
    assert sum(map(len, found.values())) == len(names)
    return {name: found[file][name] for name, file in names.items()}


def same(first: Tensors, second: Tensors) -> bool:
    """Names, types, shapes and bytes."""
    return first.keys() == second.keys() and all(
        (a.dtype, a.shape, a.tobytes()) == (second[name].dtype, second[name].shape, second[name].tobytes())
        for name, a in first.items()
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind, shards", [("safetensors", 0), ("safetensors", 3), ("bin", 0), ("bin", 3)])
def test_there_and_back(tmp_path, converted, dtype: str, kind: str, shards: int) -> None:
    """Byte-identical tensors through our checkpoint, with the index and metadata that loaders ask for."""
    tensors = random_tensors(dtype)
    converted(make_folder(tmp_path / "hf", tensors, kind, shards), tmp_path / "ours")
    converted(tmp_path / "ours", tmp_path / "back")
    assert same(loaded(tmp_path / "back"), tensors)
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors.values())
    assert (tmp_path / "back" / "config.json").read_bytes() == (tmp_path / "hf" / "config.json").read_bytes()


def test_pieces_and_shards_of_a_large_model(tmp_path, monkeypatch, converted, tensors: Tensors) -> None:
    """Where tensors are cut into pieces, chunks have a smaller last one, and the model has many files: the same bytes."""
    monkeypatch.setattr(pieces_module, "PIECE_ELEMENTS", 3000)
    monkeypatch.setattr(export, "SHARD_BYTES", 100_000)
    converted(make_folder(tmp_path / "hf", tensors), tmp_path / "ours")
    converted(tmp_path / "ours", tmp_path / "back")
    assert same(loaded(tmp_path / "back"), tensors)
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 5
    chunks = [f.name for f in (tmp_path / "ours/checkpoints/converted/0/frozen/language/head/kernel").iterdir()]
    assert len(chunks) > 10
    parameters = load_parameters(tmp_path / "ours", "converted", 0)
    wanted = from_original(tensors, layout_of(CONFIG))
    assert all(np.array_equal(parameters[path], wanted[path]) for path in wanted)


def test_without_direct_access(tmp_path, monkeypatch, converted, tensors: Tensors) -> None:
    """A file system without O_DIRECT gives the same bytes."""
    monkeypatch.setattr("qwenvl_jax.conversion.direct.open_direct", lambda file, flags: None)
    converted(make_folder(tmp_path / "hf", tensors), tmp_path / "ours")
    converted(tmp_path / "ours", tmp_path / "back")
    assert same(loaded(tmp_path / "back"), tensors)


def test_large_pieces_go_directly(tmp_path, converted) -> None:
    """Tensors above the threshold of direct access, at offsets that are no whole blocks, and of odd sizes."""
    fields = {"vocab_size": 7001, "intermediate_size": 11002}
    shapes = original_shapes(from_original_config(FIELDS | fields, ""))
    tensors = random_tensors("bfloat16", shapes)
    converted(make_folder(tmp_path / "hf", tensors, "bin", **fields), tmp_path / "ours")
    converted(tmp_path / "ours", tmp_path / "back")
    assert sum(array.nbytes > direct.SMALLEST for array in tensors.values()) > 5
    assert same(loaded(tmp_path / "back"), tensors)


def test_orbax_restores_a_converted_checkpoint(tmp_path, converted, tensors: Tensors) -> None:
    """With the code that restores training's checkpoints: on one device, and placed on eight, each with its part."""
    converted(make_folder(tmp_path / "hf", tensors), tmp_path / "ours")
    assert newest(tmp_path / "ours", ("converted",)) == ("converted", 0)
    wanted = from_original(tensors, layout_of(CONFIG))
    whole = load_parameters(tmp_path / "ours", "converted", 0)
    architecture = build(CONFIG, PrecisionConfig())
    mesh = make_mesh(MeshConfig(1, 8, 1))
    shardings = parameter_shardings(architecture.axes, architecture.shapes, mesh)
    placed = load_parameters(tmp_path / "ours", "converted", 0, shardings)
    assert whole.keys() == placed.keys() == wanted.keys()
    for path, array in wanted.items():
        assert np.asarray(whole[path]).tobytes() == np.asarray(placed[path]).tobytes() == array.tobytes()
        assert placed[path].sharding == shardings[path]
    part = placed["language/blocks/up/kernel"].addressable_shards[0].data
    assert part.size * 8 == wanted["language/blocks/up/kernel"].size


def test_the_golden_weights(tmp_path, converted) -> None:
    """The original's own tensors, to ours and back; the run computes in the type that config.json asks for."""
    with np.load(GOLDEN / "qwen_vl_tiny.npz") as file:
        tensors = {name[2:]: file[name] for name in file.files if name.startswith("w/")}
    fields = {
        "vocab_size": 512, "num_attention_heads": 1, "kv_channels": 128, "intermediate_size": 352, "seq_length": 2048,
        "fp32": True,
        "visual": FIELDS["visual"] | {"width": 64, "heads": 4, "mlp_ratio": 4.9231, "image_size": 448},
    }  # fmt: skip
    converted(make_folder(tmp_path / "hf", tensors, **fields), tmp_path / "ours")
    run = from_json((tmp_path / "ours" / "config.json").read_text())
    assert (run.precision.compute, run.stages[0].resolution, run.stages[0].sequence_length) == ("float32", 448, 2048)
    assert run.model.language.training_length == 2048
    converted(tmp_path / "ours", tmp_path / "back")
    assert same(loaded(tmp_path / "back"), tensors)


@pytest.mark.parametrize(
    "flags, dtype, wanted, compute",
    [
        ({}, "bfloat16", None, "bfloat16"),
        ({}, "float32", None, "float32"),
        ({}, "float32", "bfloat16", "bfloat16"),
        ({}, "float16", None, "bfloat16"),
        ({"fp32": True}, "bfloat16", None, "float32"),
        ({"bf16": True}, "float32", None, "bfloat16"),
    ],
)
def test_what_a_converted_model_computes_in(flags, dtype: str, wanted: str | None, compute: str) -> None:
    """config.json's flags decide; without any, float32 weights that stay so, as the original does on a CPU."""
    tensors = {"a": random_tensors(dtype)["transformer.ln_f.weight"]}
    assert compute_type(qwen_vl_folder.compute_type(flags), tensors, {"a": TYPES[wanted or dtype]}) == compute


def test_small_files_travel(tmp_path, converted, tensors: Tensors) -> None:
    """Vocabulary, generation_config.json and code go there and back; weights, indexes and run files do not."""
    folder = make_folder(tmp_path / "hf", tensors, shards=2, torch_dtype="bfloat16", custom="kept")
    small = {"qwen.tiktoken": WORLD_FILE.read_text(), "generation_config.json": "{}", "modeling_qwen.py": "x = 1\n"}
    for name, text in small.items():
        (folder / name).write_text(text)
    said = converted(folder, tmp_path / "ours")
    assert "carried along: generation_config.json, modeling_qwen.py, qwen.tiktoken" in said
    run = from_json((tmp_path / "ours" / "config.json").read_text())
    assert load_tokenizer(run.data.tokenizer).size > 800
    assert not list((tmp_path / "ours").glob("*.index.json"))
    converted(tmp_path / "ours", tmp_path / "back")
    assert {name: (tmp_path / "back" / name).read_text() for name in small} == small
    assert json.loads((tmp_path / "back" / "config.json").read_text())["custom"] == "kept"
    converted(tmp_path / "ours", tmp_path / "wide", dtype="float32")
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["torch_dtype"] == "float32"
    assert not (tmp_path / "wide" / "original_config.json").exists()


def trained_run(folder: Path, rules: tuple[ParameterRule, ...], initial: dict, compute: str = "bfloat16") -> Run:
    """A run with a checkpoint of its first state, as training saves it."""
    stage = small_stage(name="sft", parameters=rules, resolution=224)
    run = small_run(stage, model=CONFIG, precision=PrecisionConfig(compute=compute))
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, tokenizer="world"))
    state, _ = initial_state(run, stage, build(CONFIG, run.precision), initial, make_mesh(MeshConfig(1, 8, 1)))
    with closing(Checkpoints(folder / "checkpoints" / "sft", keep=2)) as checkpoints:
        checkpoints.save(5, state, {})
    (folder / "config.json").write_text(to_json(run))
    return run


FINE_TUNING = (ParameterRule("vision/.*|adapter/position", frozen=True), ParameterRule(".*"))


def test_checkpoints_of_training(tmp_path, converted, tensors: Tensors, monkeypatch) -> None:
    """Trained float32 masters and frozen bfloat16 together: bfloat16 by default, said; what came as bfloat16 and was not
    changed goes back bit by bit. float32 keeps the masters. Orbax's chunks may cut arrays."""
    monkeypatch.setattr(checkpoints_module, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(pieces_module, "PIECE_ELEMENTS", 3000)
    parameters = jax.tree.map(jax.numpy.asarray, from_original(tensors, layout_of(CONFIG)))
    master = parameters["language/norm/scale"].astype("float32") + 1e-4
    trained_run(tmp_path / "run", FINE_TUNING, parameters | {"language/norm/scale": master})
    said = converted(tmp_path / "run", tmp_path / "back")
    assert any("rounded to bfloat16" in line for line in said)
    rounded = {"transformer.ln_f.weight": np.asarray(master.astype("bfloat16"))}
    assert same(loaded(tmp_path / "back"), tensors | rounded)
    assert (tmp_path / "back" / "qwen.tiktoken").read_bytes() == WORLD_FILE.read_bytes()
    assert (
        json.loads((tmp_path / "back" / "generation_config.json").read_text())["eos_token_id"]
        == load_tokenizer("world").eod_id
    )
    converted(tmp_path / "run" / "checkpoints" / "sft" / "5", tmp_path / "wide", dtype="float32")
    wide = {name: array.astype(np.float32) for name, array in tensors.items()}
    assert same(loaded(tmp_path / "wide"), wide | {"transformer.ln_f.weight": np.asarray(master)})
    stored, trained = open_checkpoint(tmp_path / "run" / "checkpoints" / "sft" / "5")
    assert trained
    assert stored["vision/blocks/up/kernel"].dtype == TYPES["bfloat16"]
    for parameter in stored.values():
        assert np.prod(parameter.chunk) * parameter.dtype.itemsize <= 20_000
    assert stored["language/blocks/up/kernel"].chunk[0] == 1


def test_float32_training_stays_float32(tmp_path, converted) -> None:
    """A run that computes in float32 is not rounded unless asked."""
    tensors = random_tensors("float32")
    parameters = jax.tree.map(jax.numpy.asarray, from_original(tensors, layout_of(CONFIG)))
    trained_run(tmp_path / "run", FINE_TUNING, parameters, compute="float32")
    converted(tmp_path / "run", tmp_path / "back")
    assert same(loaded(tmp_path / "back"), tensors)


def test_broken_checkpoints_are_refused_as_a_whole(tmp_path, converted, tensors: Tensors) -> None:
    """Not finite after training, or of another model: all names, and no folder."""
    parameters = from_original(tensors, layout_of(CONFIG))
    for path in ("language/norm/scale", "adapter/query"):
        parameters[path] = parameters[path].astype(np.float32)
        parameters[path][-1] = np.nan
    run = trained_run(tmp_path / "run", FINE_TUNING, jax.tree.map(jax.numpy.asarray, parameters))
    with pytest.raises(ValueError, match="2 problems") as error:
        converted(tmp_path / "run", tmp_path / "back")
    assert "transformer.ln_f.weight is not finite" in str(error.value)
    assert "transformer.visual.attn_pool.query is not finite" in str(error.value)
    other = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, vocab_size=500))
    (tmp_path / "run" / "config.json").write_text(to_json(dataclasses.replace(run, model=other)))
    with pytest.raises(ValueError, match=r"language/embedding has shape \[480, 128\] instead of \[500, 128\]"):
        converted(tmp_path / "run", tmp_path / "back")
    small = dataclasses.replace(CONFIG, vision=dataclasses.replace(CONFIG.vision, activation="relu2"))
    (tmp_path / "run" / "config.json").write_text(to_json(dataclasses.replace(run, model=small)))
    with pytest.raises(ValueError, match=r"knows no vision\.activation relu2"):
        converted(tmp_path / "run", tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_there_is_not_touched(tmp_path, converted, tensors: Tensors) -> None:
    """A destination with files is refused, an empty folder is taken; wrong tensors leave nothing behind."""
    folder = make_folder(tmp_path / "hf", tensors)
    (tmp_path / "ours").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(ValueError, match="full is there already"):
        converted(folder, tmp_path / "full")
    converted(folder, tmp_path / "ours")
    assert (tmp_path / "ours" / "config.json").is_file()
    broken = tensors["lm_head.weight"].copy()
    broken[0, 0] = np.inf
    save(folder / "model.safetensors", tensors | {"lm_head.weight": broken})
    with pytest.raises(ValueError, match=r"lm_head\.weight is not finite"):
        converted(folder, tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="gone is not there"):
        converted(tmp_path / "gone", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        converted(tmp_path / "full", tmp_path / "none")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        converted(folder, tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "hf", "ours"]


def test_a_full_disk_is_told_before(tmp_path, monkeypatch, converted, tensors: Tensors) -> None:
    """Bytes to be written are compared with what is free."""
    folder = make_folder(tmp_path / "hf", tensors)
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(ValueError, match="GB left"):
        converted(folder, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


SLOW = """
import sys, time
from pathlib import Path
from qwenvl_jax.conversion.convert import convert
def slow(name, size):
    print(name, flush=True)
    time.sleep(0.2)
convert([Path(sys.argv[1])], Path(sys.argv[2]), None, print, slow)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted(tmp_path, tensors: Tensors, number: signal.Signals) -> None:
    """Ctrl-C leaves nothing; a killed process leaves no folder by the destination's name."""
    folder = make_folder(tmp_path / "hf", tensors)
    command = [sys.executable, "-c", SLOW, str(folder), str(tmp_path / "ours")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        while "resblocks" not in process.stdout.readline():
            assert process.poll() is None
        os.kill(process.pid, number)
        began = time.monotonic()
        process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode != 0
    assert not (tmp_path / "ours").exists()
    if number == signal.SIGINT:
        assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_float16_is_said(tmp_path, converted) -> None:
    """float16 becomes float32, which holds every one of its numbers."""
    tensors = random_tensors("float16")
    said = converted(make_folder(tmp_path / "hf", tensors), tmp_path / "ours")
    assert any(line.startswith("float16 becomes float32") for line in said)
    converted(tmp_path / "ours", tmp_path / "back")
    assert same(loaded(tmp_path / "back"), {name: array.astype(np.float32) for name, array in tensors.items()})
