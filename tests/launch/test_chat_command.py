"""`qwenvl chat` as a user meets it: piped, on a terminal, interrupted, and with everything that can be wrong."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from small_model import CONFIG, PRECISION, RESOLUTION, TASKS, random_parameters, small_run, small_stage
from small_video import make_video

from launch.chat import chat
from qwenvl_jax.config import Component
from qwenvl_jax.config_json import to_json
from qwenvl_jax.inference import chat as conversation
from qwenvl_jax.models.parameters import build
from qwenvl_jax.training.checkpoints import Checkpoints
from qwenvl_jax.training.step import TrainState

BOX = "<ref>it</ref><box>(100,200),(500,600)</box>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of one checkpoint with random parameters, which writes noise until its limit, and two pictures."""
    folder = tmp_path_factory.mktemp("talk")
    stage = small_stage(resolution=RESOLUTION, mixture=(*TASKS, Component("chat", "chats", 1)), sequence_length=512)
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text(to_json(small_run(stage)))
    parameters = jax.tree.map(jax.numpy.asarray, random_parameters(build(CONFIG, PRECISION)))
    head = parameters["language/head/kernel"]
    parameters["language/head/kernel"] = head.at[:, 256:].set(0)  # bytes are likelier than the tokens that end
    checkpoints = Checkpoints(folder / "run" / "checkpoints" / stage.name, keep=1)
    checkpoints.save(5, TrainState(jax.numpy.int32(5), parameters, {}, {}), {})
    checkpoints.close()
    Image.new("RGB", (50, 40), "red").save(folder / "red.png")
    Image.new("RGB", (40, 50), "blue").save(folder / "blue one.png")
    return folder


@pytest.fixture
def here(folder, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def boxes(monkeypatch) -> list:
    """The model's answers are boxes; gives the prompts that it was asked."""
    prompts: list = []

    def stream(model, processor, prompt, *, seed):
        prompts.append(prompt)
        yield from BOX

    monkeypatch.setattr(conversation, "stream", stream)
    return prompts


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "launch.main", "chat", "run", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "utf-8"}


def test_a_conversation_through_a_pipe(folder) -> None:
    """Each line of stdin is a question or a command; answers alone go to stdout, notes and mistakes to stderr."""
    lines = "What is it?\n\n/image red.png\nAnd this?\n/image gone.png\n/shout\n/help\n/clear\nAgain?\n/quit\nnever\n"
    done = subprocess.run(
        command("--max-new-tokens", "6", "--image", "blue one.png"),
        input=lines.encode() + b"\xff", cwd=folder, env=environment(), capture_output=True, timeout=120,
    )  # fmt: skip
    said = done.stderr.decode()
    assert done.returncode == 0, said
    for sentence in ("Picture 2: red.png", "gone.png: there is no such file", "no command /shout", "/image FILE ...",
                     "the conversation is forgotten"):  # fmt: skip
        assert sentence in said
    assert "Traceback" not in said
    alone = subprocess.run(
        command("--max-new-tokens", "6", "Again?"), cwd=folder, env=environment(), capture_output=True, timeout=120
    )
    assert alone.returncode == 0
    assert alone.stdout.strip()
    assert done.stdout.endswith(alone.stdout)
    assert done.stdout.count(b"\n") >= 3


def read_until(terminal: int, wanted: str, more: int = 0, seconds: float = 90) -> str:
    """What the program writes on its terminal up to `wanted` and `more` characters behind it."""
    text, until = "", time.monotonic() + seconds
    while wanted not in text or len(text) < text.index(wanted) + len(wanted) + more:
        assert time.monotonic() < until, f"{wanted!r} did not come; there was {text!r}"
        if select.select([terminal], [], [], 0.2)[0]:
            text += os.read(terminal, 65536).decode(errors="replace")
    return text


def read_for(terminal: int, seconds: float) -> str:
    """What the program writes on its terminal in that time."""
    text, until = "", time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            text += os.read(terminal, 65536).decode(errors="replace")
    return text


def test_ctrl_c_stops_an_answer_and_ctrl_d_ends(folder) -> None:
    """On a terminal: an answer that would take long is stopped, the next question is answered, Ctrl-D ends with 0."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("--max-new-tokens", "20000"), stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder,
        env={**environment(), "TERM": "dumb"}, start_new_session=True, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        read_until(ours, "> ")
        os.write(ours, b"Tell me everything.\n")
        read_until(ours, "everything.", more=30)  # the answer has begun
        process.send_signal(signal.SIGINT)
        read_until(
            ours, "stopped", more=len("\r\n> ")
        )  # the answer itself, of random weights, may hold a prompt's "> "
        # A Ctrl-C between the prompt and readline's wait for a key is noticed with the next one: it is pressed again.
        said = ""
        for _ in range(30):
            process.send_signal(signal.SIGINT)
            said += read_for(ours, 2)
            if "Ctrl-D or /quit ends" in said:  # it listens again
                break
        assert "Ctrl-D or /quit ends" in said
        for _ in range(30):  # while the terminal changes between two lines a key may be lost: it is pressed again
            os.write(ours, b"\x04")
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
                break
        assert process.returncode == 0
    finally:
        process.kill()
        os.close(ours)


def test_boxes_go_to_files_of_their_own(here, boxes, capfd, tmp_path) -> None:
    """Every answer with a box has its picture, whose name is said; a file that is there is never overwritten."""
    wanted = tmp_path / "drawn.png"
    wanted.write_bytes(b"mine")
    for _ in range(2):
        chat(["run", "Where?", "--image", "red.png", "--image", "blue one.png", "--output", str(wanted)])
    out, said = capfd.readouterr()
    assert out == f"{BOX}\n" * 2
    assert wanted.read_bytes() == b"mine"
    for number in (2, 3):
        file = tmp_path / f"drawn-{number}.png"
        assert f"boxes drawn: {file}" in said
        drawn = np.asarray(Image.open(file))
        assert drawn.shape == (500, 400, 3)  # the latest picture, enlarged
        assert (drawn[250, 150] == (0, 0, 255)).all()
    assert len(boxes[0].images) == 2


def test_boxes_without_a_picture_are_said(here, boxes, capfd, tmp_path) -> None:
    """There is nothing to draw on, and no file."""
    chat(["run", "Where?", "--output", str(tmp_path / "x.png")])
    assert "no picture to draw them on" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_labels_that_no_font_writes_are_explained(here, monkeypatch, capfd, tmp_path) -> None:
    """A Chinese phrase without a Chinese font: a number in the picture, its meaning on the terminal."""
    from qwenvl_jax.inference import drawing

    monkeypatch.setattr(
        conversation, "stream", lambda *_, seed: iter(["<ref>红色的圆</ref><box>(1,2),(300,400)</box>"])
    )
    monkeypatch.setattr(drawing, "findSystemFonts", lambda: [])
    drawing.font_for.cache_clear()
    chat(["run", "Where?", "--image", "red.png", "--output", str(tmp_path / "x.png")])
    drawing.font_for.cache_clear()
    said = capfd.readouterr().err
    assert "no installed font writes these labels" in said
    assert "1: 红色的圆" in said


def test_what_steers_a_terminal_is_not_sent_to_it(here, monkeypatch, capfd) -> None:
    """Escape sequences that a model writes come out as replacement characters."""
    monkeypatch.setattr(conversation, "stream", lambda *_, seed: iter(["a\x1b[2Jb\r\x9b\tc\n[bold]d[/bold]"]))
    chat(["run", "?"])
    assert capfd.readouterr().out == "a\ufffd[2Jb\ufffd\ufffd\tc\n[bold]d[/bold]\n"


def test_settings_reach_the_model(here, monkeypatch) -> None:
    """Options that are not given leave the checkpoint's own; a nucleus alone means drawing."""
    asked = []

    def stream(model, processor, prompt, *, seed):
        asked.append((processor.generation, seed))
        yield "a"

    monkeypatch.setattr(conversation, "stream", stream)
    chat(["run", "?"])
    chat(["run", "?", "--top-p", "0.5", "--seed", "3", "--max-new-tokens", "7"])
    chat(["run", "?", "--temperature", "0.2"])
    settings = [(g.temperature, g.top_p, g.max_new_tokens, seed) for g, seed in asked]
    assert settings == [(0.0, 1.0, 512, 0), (1.0, 0.5, 7, 3), (0.2, 1.0, 512, 0)]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["nowhere", "?"], r"no config\.json"),
        (["run", "?", "--image", "gone.png"], r"gone\.png: there is no such file"),
        (["run", "?", "--image", "run"], "is a folder"),
        (["run", "?", "--image", "run/config.json"], "no readable picture"),
        (["run", "?", "--image", "http://localhost/a.png"], "--allow-urls"),
        (["run", "?", "--top-p", "2"], r"top_p 2\.0 is not in"),
        (["run", "?", "--seed", "-1"], "seed -1 is not in"),
        (["run", "?", "--dtype", "int4"], "none of float32, bfloat16"),
        (["run", "?", "--image", "red.png", "--output", "no/folder/x.png"], "boxes cannot be written to"),
    ],
)
def test_mistakes_are_a_sentence(here, boxes, arguments, sentence) -> None:
    """`launch.main` prints these; nothing else is raised."""
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as raised:
        chat(arguments)
    assert "\n" not in str(raised.value)


def test_a_video_that_a_model_cannot_see_is_a_sentence(here, tmp_path, monkeypatch, capsys) -> None:
    """Qwen-VL reads no videos: that is said, and the next question is asked without it."""
    (tmp_path / "a.mp4").write_bytes(make_video(4))
    with pytest.raises(ValueError, match="Qwen-VL reads no videos"):
        chat(["run", "?", "--video", str(tmp_path / "a.mp4")])
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(f"/video {tmp_path / 'a.mp4'}\nOne?\nTwo?\n".encode()))
    )
    chat(["run", "--max-new-tokens", "3"])
    out, said = capsys.readouterr()
    assert "Qwen-VL reads no videos" in said
    assert out.strip()
