"""Promises of `qwenvl_jax.load`: either format gives the same model, and the folder says how it is asked."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from small_model import TASKS, small_run, small_stage

import qwenvl_jax
from qwenvl_jax.config import Component, Stage
from qwenvl_jax.config_json import to_json
from qwenvl_jax.inference.generation_config import GenerationConfig, stage_generation_config
from qwenvl_jax.models.parameters import build
from qwenvl_jax.models.qwen_vl.weights import layout
from qwenvl_jax.models.weights import to_original
from qwenvl_jax.training.checkpoints import Checkpoints
from qwenvl_jax.training.step import TrainState

FIELDS = {
    "model_type": "qwen",
    "architectures": ["QWenLMHeadModel"],
    "vocab_size": 480,
    "hidden_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "kv_channels": 64,
    "intermediate_size": 128,
    "seq_length": 2048,
    "max_position_embeddings": 8192,
    "visual": {
        "heads": 2, "image_size": 28, "image_start_id": 151857, "layers": 1, "mlp_ratio": 2.0, "output_dim": 128,
        "patch_size": 14, "width": 16,
    },
}  # fmt: skip
GENERATION = {"chat_format": "chatml", "do_sample": True, "top_p": 0.3, "top_k": 0, "max_new_tokens": 3}
QUERIES = [[{"image": np.full((20, 30, 3), 90, np.uint8)}, {"text": "What?"}], "Why?"]


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory) -> Path:
    """A folder of the original's files at a small size, with a vocabulary of single bytes."""
    from qwenvl_jax.conversion.hugging_face import read_config

    folder = tmp_path_factory.mktemp("hugging_face")
    (folder / "config.json").write_text(json.dumps(FIELDS))
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    lines = (f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256))
    (folder / "qwen.tiktoken").write_text("".join(lines))
    config = read_config(folder)
    rng = np.random.default_rng(0)
    shapes = build(config, small_run(small_stage()).precision).shapes
    parameters = {path: rng.normal(0, 0.2, s.shape).astype(np.float32) for path, s in shapes.items()}
    tensors = {name: np.ascontiguousarray(array) for name, array in to_original(parameters, layout(config)).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def run(hugging_face, tmp_path_factory) -> Path:
    """The same parameters as a checkpoint of a run's stage."""
    from qwenvl_jax.conversion.hugging_face import read_config, read_parameters

    folder = tmp_path_factory.mktemp("run")
    config = read_config(hugging_face)
    stage = small_stage(resolution=28, mixture=(*TASKS, Component("chat", "chats", 1)))
    written = replace(small_run(stage), model=config)
    (folder / "config.json").write_text(to_json(written))
    parameters = jax.tree.map(jax.numpy.asarray, read_parameters(hugging_face, config))
    checkpoints = Checkpoints(folder / "checkpoints" / stage.name, keep=1)
    checkpoints.save(5, TrainState(jax.numpy.int32(5), parameters, {}, {}), {})
    checkpoints.close()
    return folder


def test_either_format_gives_the_same_model(hugging_face, run) -> None:
    """Logits and answers of a Hugging Face folder and of the same parameters in a checkpoint are equal, bit for bit."""
    loaded = [qwenvl_jax.load(folder) for folder in (hugging_face, run, run / "checkpoints/multitask/5")]
    logits = [np.asarray(model(processor(QUERIES))) for model, processor in loaded]
    assert logits[0].shape == (2, loaded[0][1](QUERIES).tokens.shape[1], 480)
    assert np.isfinite(logits[0]).all()
    answers = [qwenvl_jax.generate(*pair, QUERIES, max_new_tokens=5, temperature=0) for pair in loaded]
    assert all(answers[0])
    for other, answer in zip(logits[1:], answers[1:]):
        np.testing.assert_array_equal(other, logits[0])
        assert answer == answers[0]
    model, processor = loaded[0]
    assert "".join(qwenvl_jax.stream(model, processor, QUERIES[0], max_new_tokens=5, temperature=0)) == answers[0][0]


def test_the_folder_says_how_it_is_asked(hugging_face) -> None:
    """generation_config.json gives the defaults, config.json the resolution, and a type can be chosen."""
    model, processor = qwenvl_jax.load(hugging_face, dtype="bfloat16")
    assert processor.generation == GenerationConfig("chatml", 3, 6144, temperature=1.0, top_p=0.3)
    assert (processor.encoder.resolution, processor.encoder.queries) == (28, 256)
    assert model(processor(QUERIES)).dtype == jax.numpy.bfloat16


def test_a_converted_folder_is_asked_as_its_origin(hugging_face, tmp_path) -> None:
    """Its stage has trained nothing, so generation_config.json, which was carried along, decides."""
    from qwenvl_jax.conversion.convert import convert

    convert([hugging_face], tmp_path / "ours", None, lambda line: None, lambda *_: None)
    ours, theirs = (qwenvl_jax.load(folder, dtype="float32") for folder in (tmp_path / "ours", hugging_face))
    assert ours[1].generation == theirs[1].generation
    assert qwenvl_jax.generate(*ours, QUERIES, seed=1) == qwenvl_jax.generate(*theirs, QUERIES, seed=1)


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"chat_format": "raw", "do_sample": False}, GenerationConfig("raw", stop=("Human:",))),
        ({"chat_format": "raw", "do_sample": False, "top_p": 0.5}, GenerationConfig("raw", stop=("Human:",))),
        ({"do_sample": True, "temperature": 0.7}, GenerationConfig(temperature=0.7)),
    ],
)
def test_generation_config(tmp_path, fields, expected) -> None:
    """A base model reads its query as is and ends at "Human:"; without do_sample decoding is greedy."""
    from qwenvl_jax.inference.generation_config import read_generation_config

    (tmp_path / "generation_config.json").write_text(json.dumps(fields))
    assert read_generation_config(tmp_path) == expected


def test_what_is_left_out_is_said(tmp_path) -> None:
    """A missing file, and top_k, which is not done here; a broken file is an error with its name."""
    from qwenvl_jax.inference.generation_config import read_generation_config

    with pytest.warns(UserWarning, match=r"has no generation_config\.json"):
        assert read_generation_config(tmp_path) == GenerationConfig()
    file = tmp_path / "generation_config.json"
    file.write_text('{"do_sample": true, "top_k": 50}')
    with pytest.warns(UserWarning, match="top_k 50 is left out"):
        read_generation_config(tmp_path)
    for content in ("{", "[]", '{"chat_format": "chat"}', '{"max_new_tokens": "many"}', '{"max_new_tokens": null}'):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"generation_config\.json"):
            read_generation_config(tmp_path)


def test_a_stage_is_asked_as_it_was_trained() -> None:
    """Only a stage with conversations has learned ChatML; histories keep to the length of its rows."""

    def asked(stage: Stage) -> tuple[str, int]:
        config = stage_generation_config(stage)
        return config.chat_format, config.max_window_size

    assert asked(small_stage()) == ("raw", 48)
    chats = (*TASKS, Component("chat", "own.json", 1))
    assert asked(small_stage(mixture=chats, sequence_length=10_000)) == ("chatml", 6144)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_an_unknown_type_is_refused(hugging_face, dtype) -> None:
    """The types of the compute are named."""
    with pytest.raises(ValueError, match="none of float32, bfloat16"):
        qwenvl_jax.load(hugging_face, dtype=dtype)


def test_a_folder_of_nothing_is_refused(tmp_path) -> None:
    """Neither a run nor Hugging Face's: the sentence names what is missing."""
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        qwenvl_jax.load(tmp_path)


def test_a_vocabulary_that_is_too_large_is_refused(hugging_face, tmp_path) -> None:
    """Ids beyond the embedding would read other rows silently."""
    for file in hugging_face.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "qwen.tiktoken").unlink()
    more = "".join(f"{base64.b64encode(bytes([i, 0])).decode()} {256 + i}\n" for i in range(100))
    (tmp_path / "qwen.tiktoken").write_text((hugging_face / "qwen.tiktoken").read_text() + more)
    with pytest.raises(ValueError, match="has 573 ids and the model's embedding 480 rows"):
        qwenvl_jax.load(tmp_path)
