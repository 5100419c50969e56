"""A run of a Qwen2-VL as a user meets it: evaluated after a stage, asked on the command line about pictures and videos."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest
from PIL import Image
from small_model import random_parameters
from small_qwen2_vl import CONFIG, PRECISION
from small_video import make_video

from configs.tiny import tiny
from data_pipelines.held_out import asked_of
from data_pipelines.synthetic.world import make_native_world, make_world
from launch.chat import chat
from launch.convert import main as convert
from launch.evaluate import evaluate_stage, report
from launch.evaluate import main as evaluate
from launch.train import with_model_of
from qwenvl_jax.config import Component, DataConfig, ParameterRule, PixelLimits, Run, Schedule, Stage, VideoLimits
from qwenvl_jax.config_json import to_json
from qwenvl_jax.evaluation.benchmarks import BENCHMARKS
from qwenvl_jax.inference import chat as conversation
from qwenvl_jax.models.parameters import build
from qwenvl_jax.processing.qwen2_tokens import QWEN2_VL
from qwenvl_jax.processing.sample import Image as Shown
from qwenvl_jax.processing.sample import Text, Video
from qwenvl_jax.processing.tokenizer import load_tokenizer
from qwenvl_jax.training.checkpoints import Checkpoints
from qwenvl_jax.training.step import TrainState

SIZE = load_tokenizer("world", QWEN2_VL).size
MODEL = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, vocab_size=SIZE))
STAGE = Stage(
    name="sft", steps=5, mixture=(Component("chat", "chats", 1),), rows=1, sequence_length=512,
    schedule=Schedule(0.0, 0.0, 0), parameters=(ParameterRule(".*"),), patches_per_row=256,
    image_limits=PixelLimits(784, 784 * 6),
    video_limits=VideoLimits(2.0, 2, 8, PixelLimits(784, 784), 784 * 8, round_down=False),
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with held-out records of the embedded world, a run of one checkpoint, a picture and a video."""
    folder = tmp_path_factory.mktemp("native")
    make_world(folder / "data", scenes=1, documents=1, chats=1, texts=1, held_out=(2, 2, 8), workers=1)
    run = Run("small", MODEL, (STAGE,), DataConfig(str(folder / "data"), "world"), precision=PRECISION)
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text(to_json(run))
    parameters = jax.tree.map(jax.numpy.asarray, random_parameters(build(MODEL, PRECISION)))
    checkpoints = Checkpoints(folder / "run" / "checkpoints" / STAGE.name, keep=1)
    checkpoints.save(5, TrainState(jax.numpy.int32(5), parameters, {}, {}), {})
    checkpoints.close()
    evaluate_stage(run, STAGE, build(MODEL, PRECISION), parameters, folder / "run")
    Image.new("RGB", (50, 40), "red").save(folder / "red.png")
    (folder / "moving.mp4").write_bytes(make_video(6))
    return folder


def test_a_stage_is_evaluated(home) -> None:
    """Every benchmark whose records are there has its score; the gallery shows the answers."""
    written = json.loads((home / "run" / "evaluation" / "sft.json").read_text())
    there = {name for name, asked in asked_of(MODEL).items() if (home / "data" / "held_out" / asked.source).is_dir()}
    assert {answer["benchmark"] for answer in written["gallery"]} == there
    assert set(asked_of(MODEL)) == set(BENCHMARKS)
    assert {"vqa_accuracy", "caption_exact", "refer_iou50", "ocr_exact", "chat_accuracy"} <= set(written["scores"])


def test_an_early_stage_is_asked_what_was_taught(home, tmp_path) -> None:
    """Before the last stage benchmarks are asked whose task a mixture had by then; with none, the report still stands."""
    named = ("interleaved", "text"), ("captions", "caption"), ("chats", "chat")
    stages = tuple(
        dataclasses.replace(STAGE, name=name, mixture=(Component(task, "scenes", 1),)) for name, task in named
    )
    run = Run("small", MODEL, stages, DataConfig(str(home / "data"), "world"), precision=PRECISION)
    architecture = build(MODEL, PRECISION)
    for stage in stages[:2]:
        evaluate_stage(run, stage, architecture, random_parameters(architecture), tmp_path)
    written = [json.loads((tmp_path / "evaluation" / f"{stage.name}.json").read_text()) for stage in stages[:2]]
    assert [set(stage["scores"]) for stage in written] == [set(), {"caption_exact"}]
    (tmp_path / "metrics.jsonl").write_text("")
    assert report(run, tmp_path).is_file()
    assert (tmp_path / "report.png").is_file()
    (tmp_path / "evaluation" / "captions.json").unlink()
    assert report(run, tmp_path).is_file()


def test_the_command_gives_the_same_scores(home, capsys) -> None:
    """`qwenvl evaluate RUN` loads the checkpoint and asks the same."""
    evaluate([str(home / "run")])
    printed = capsys.readouterr().out
    scores = json.loads(printed[printed.index("{") :])
    assert scores == json.loads((home / "run" / "evaluation" / "sft.json").read_text())["scores"]


def test_the_native_world_gives_its_scores(home, capsys) -> None:
    """Small print at both resolutions, videos, boxes, and whole tasks of an agent, played by the model itself."""
    counts = {"scenes": 1, "small_print": 1, "videos": 1, "episodes": 1, "texts": 1}
    make_native_world(home / "native", held_out=(2, 2, 2, 2), workers=1, **counts)
    evaluate([str(home / "run"), "--data", str(home / "native")])
    printed = capsys.readouterr().out
    scores = json.loads(printed[printed.index("{") :])
    promised = {"vqa_accuracy", "small_print_exact", "small_print_low_exact", "video_accuracy", "agent_success"}
    assert {*promised, "refer_iou50"} <= set(scores)
    assert scores["agent_success"] == 0  # random weights


def test_pictures_and_videos_are_asked_about(home, monkeypatch, capsys) -> None:
    """On the command line and in a conversation; numbered as conversations to train on are."""
    monkeypatch.chdir(home)
    chat(["run", "What?", "--image", "red.png", "--video", "moving.mp4", "--max-new-tokens", "3"])
    lines = iter(["/video moving.mp4", "What moves?", "/image red.png", "/video moving.mp4", "And now?"])

    def line(_: str) -> str:
        try:
            return next(lines)
        except StopIteration as end:
            raise EOFError from end

    prompts = []

    def stream(model, processor, prompt, *, seed):
        prompts.append(prompt)
        yield "it"

    monkeypatch.setattr("builtins.input", line)
    monkeypatch.setattr(conversation, "stream", stream)
    chat(["run"])
    assert "Video 2: moving.mp4" in capsys.readouterr().err
    names = {Shown: "[image {}]", Video: "[video {}]"}
    spelled = "".join(p.text if isinstance(p, Text) else names[type(p)].format(p.index) for p in prompts[1].parts)
    assert spelled == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nVideo 1: [video 0]\nWhat moves?<|im_end|>\n<|im_start|>assistant\nit<|im_end|>\n"
        "<|im_start|>user\nPicture 1: [image 0]\nVideo 2: [video 1]\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_what_is_converted_is_the_same_model(home, monkeypatch, capsys) -> None:
    """`qwenvl convert` to Hugging Face's format and back: both folders give one answer, and the checkpoint is a start."""
    monkeypatch.chdir(home)
    question = ["What?", "--image", "red.png", "--max-new-tokens", "5", "--dtype", "float32"]
    convert(["run", "hf"])
    convert(["hf", "ours"])
    capsys.readouterr()
    answers = []
    for folder in ("hf", "ours"):
        chat([folder, *question])
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != "\n"
    assert with_model_of(Path("ours"), tiny()).model == MODEL


def test_mistakes_are_a_sentence(home, monkeypatch) -> None:
    """A file that is no video, or is missing."""
    monkeypatch.chdir(home)
    with pytest.raises(ValueError, match=r"red\.png: .* are no readable video"):
        chat(["run", "?", "--video", "red.png"])
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4: there is no such file"):
        chat(["run", "?", "--video", "gone.mp4"])
