"""The way of a new user: train all stages, look at the report, ask, train on an own file; errors are sentences."""

import json
import math
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from PIL import Image

from data_pipelines.synthetic.world import make_world
from launch.chat import chat
from launch.train import train
from qwenvl_jax.training.json_lines import read_lines

STEPS = (
    "--vision.steps",
    "3",
    "--language.steps",
    "3",
    "--pretrain.steps",
    "3",
    "--multitask.steps",
    "3",
    "--sft.steps",
    "3",
    "--log-every",
    "1",
)
STAGES = ("vision", "language", "pretrain", "multitask", "sft")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A working directory with a small world in data/tiny and a trained run in runs/tiny."""
    folder = tmp_path_factory.mktemp("home")
    make_world(folder / "data" / "tiny", scenes=60, documents=30, chats=20, texts=40, held_out=(2, 2, 8), workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(["tiny", *STEPS])
    return folder


@pytest.fixture
def at_home(home, monkeypatch) -> Path:
    monkeypatch.chdir(home)
    return home


def test_all_stages_leave_a_report(home):
    """One command trains every stage and writes report.html, report.json with the promised scores, and metrics."""
    folder = home / "runs" / "tiny"
    scores = json.loads((folder / "report.json").read_text())["scores"]
    assert {"vqa_accuracy", "caption_exact", "refer_iou50", "ocr_exact", "chat_accuracy"} <= set(scores)
    assert "<html" in (folder / "report.html").read_text()
    lines = read_lines(folder / "metrics.jsonl")
    assert [(line["stage"], line["step"]) for line in lines] == [(s, n) for s in STAGES for n in (1, 2, 3)]
    assert all(line["loss"] > 0 and line["flops_per_second"] > 0 for line in lines)


def test_a_second_call_trains_nothing(at_home):
    """A finished run is left as it is."""
    before = (at_home / "runs/tiny/metrics.jsonl").read_text()
    train(["tiny", *STEPS])
    assert (at_home / "runs/tiny/metrics.jsonl").read_text() == before


def test_own_conversations_with_bad_entries(at_home, capsys):
    """A user's JSON trains at once; bad entries are named with file, index and reason, and left out. A trace that was asked
    for is there."""
    Image.new("RGB", (40, 30), "red").save(at_home / "red.jpg")
    good = [
        {"from": "user", "value": "Picture 1: <img>red.jpg</img>\nWhat color is this?"},
        {"from": "assistant", "value": "red"},
    ]
    missing = [{"from": "user", "value": "<img>gone.jpg</img>?"}, {"from": "assistant", "value": "no"}]
    role = [{"from": "robot", "value": "hi"}, {"from": "assistant", "value": "no"}]
    entries = [{"id": str(n), "conversations": c} for n, c in enumerate([good, missing, role, *[good] * 7])]
    (at_home / "own.json").write_text(json.dumps(entries))
    train(["tiny", "--stage", "sft", "--data", "own.json", "--profile", "2", "2", *STEPS])
    assert [*(at_home / "runs/tiny-own/profile/sft").rglob("*.xplane.pb")]
    shown = capsys.readouterr().out
    assert "gone.jpg" in shown
    assert "robot" in shown
    assert "8 of 10 records" in shown
    assert "starting from" in shown
    assert [line["step"] for line in read_lines(at_home / "runs/tiny-own/metrics.jsonl")] == [1, 2, 3]


def test_chat_answers_about_a_picture(at_home, capsys):
    """`qwenvl chat CHECKPOINT --image FILE QUESTION` prints an answer, from a run's folder or one checkpoint."""
    Image.new("RGB", (40, 30), "blue").save(at_home / "blue.png")
    for checkpoint in ("runs/tiny", "runs/tiny/checkpoints/multitask"):
        chat([checkpoint, "What is this?", "--image", "blue.png", "--max-new-tokens", "4"])
    assert capsys.readouterr().out.count("\n") >= 2


@pytest.mark.parametrize(
    "verb, arguments, sentence",
    [
        ("train", ["qwen2-vl-7b"], "GB on each device, which has 1.0: share them among more devices with --mesh.fsdp"),
        ("train", ["nothing"], "there is no recipe 'nothing'"),
        ("train", ["tiny", "--stage", "dessert"], "has no stage 'dessert'"),
        ("train", ["tiny", "--stage", "sft", "--data", "gone.json"], "gone.json: there is no such file or folder"),
        ("train", ["qwen-vl"], "qwenvl convert OPENCLIP QWEN7B checkpoints/qwen-vl-start"),
        ("train", ["qwen2-vl-2b"], "qwenvl convert QWEN2VL checkpoints/qwen2-vl-2b-start"),
        ("train", ["tiny", "--workdir", "runs/w", "--mesh.tensor", "7"], "does not cover"),
        ("train", ["tiny", "--workdir", "runs/x", "--data.root", "nowhere"], "there is no source nowhere/scenes"),
        ("chat", ["nowhere", "hello"], "no config.json"),
        ("chat", ["runs/tiny", "hello", "--image", "gone.png"], "there is no such file"),
        ("evaluate", ["nowhere"], "no config.json"),
        ("data", ["bake"], "make synthetic, make native, make vocabulary"),
    ],
)
def test_mistakes_end_with_a_sentence(at_home, monkeypatch, capsys, verb, arguments, sentence):
    """A user's mistake is one sentence on stderr and exit code 2, never a traceback."""
    from launch.main import main

    monkeypatch.setattr("qwenvl_jax.training.loop.memory_limit", lambda _: 1e9 if "GB" in sentence else math.inf)
    monkeypatch.setattr(sys, "argv", ["qwenvl", verb, *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_device_without_room_is_a_sentence(monkeypatch, capsys):
    """What XLA says when a program or an array does not fit is no traceback, and the remedy stands behind it."""
    from launch import main

    def ask_for_too_much(_):
        jax.block_until_ready(jnp.zeros((1 << 22, 1 << 22)))

    monkeypatch.setattr("launch.train.train", ask_for_too_much)
    monkeypatch.setattr(sys, "argv", ["qwenvl", "train", "tiny"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "too little memory on a device (RESOURCE_EXHAUSTED" in said
    assert "fewer --STAGE.rows" in said


def test_another_run_in_the_same_folder_is_refused(at_home):
    """A workdir is never silently continued with other settings."""
    with pytest.raises(ValueError, match="choose another --workdir"):
        train(["tiny", *STEPS, "--optimizer.b2", "0.9"])


def test_interrupted_and_continued_is_the_same_run(at_home):
    """Ctrl-C saves; the same command goes on, and its losses are those of the run that was never stopped."""
    command = [sys.executable, "-m", "launch.main", "train", "tiny", *STEPS, "--language.steps", "400"]
    command += ["--workdir", "runs/stopped", "--stage", "language"]
    metrics = at_home / "runs/stopped/metrics.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(read_lines(metrics)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from the last checkpoint" in complaint
    stopped_at = read_lines(metrics)[-1]["step"]
    assert 2 <= stopped_at < 400
    more = stopped_at + 3
    steps = [*STEPS, "--language.steps", "400", "--stage", "language"]
    reference = read_losses(steps, at_home / "runs/whole", more)
    continued = read_losses(steps, at_home / "runs/stopped", more)
    assert continued == reference


def read_losses(arguments: list[str], workdir: Path, until: int) -> dict[int, tuple[float, str]]:
    """step -> (loss, fingerprint) up to a step, of a run that is stopped soon after it."""
    command = [sys.executable, "-m", "launch.main", "train", "tiny", *arguments, "--workdir", str(workdir)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    lines: list[dict] = []
    while (not lines or lines[-1]["step"] < until) and time.monotonic() < deadline:
        time.sleep(0.2)
        lines = read_lines(workdir / "metrics.jsonl")
    process.send_signal(signal.SIGTERM)  # as a machine that is taken away gives notice
    assert process.wait(timeout=60) == 143
    return {line["step"]: (line["loss"], line["fingerprint"]) for line in lines if line["step"] <= until}


def test_pictures_of_any_kind_can_be_asked_about(at_home, capsys):
    """A grey PNG with an odd size is a picture too."""
    buffer = BytesIO()
    Image.new("L", (7, 91), 128).save(buffer, "PNG")
    (at_home / "grey.png").write_bytes(buffer.getvalue())
    chat(["runs/tiny", "Describe it.", "--image", "grey.png", "--max-new-tokens", "2"])
    assert capsys.readouterr().out
