"""`qwenvl data clean` and `inspect`: from tars as img2dataset writes them to shards, a page, and a training run."""

import inspect
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from small_pdf import text_at, write_pdf

from data_pipelines.sources.opening import open_source
from data_pipelines.sources.source import Problem
from launch.data import data
from launch.index import reasons
from launch.make import WORLDS
from launch.train import train
from qwenvl_jax.training.json_lines import read_lines

PATH = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])


def jpeg(colour: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (240, 220), colour).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """`web/` with one tar of twelve pairs, of which one has no English caption; `parquet/` with an address."""
    import tarfile

    folder = tmp_path_factory.mktemp("home")
    (folder / "web").mkdir()
    rows = []
    with tarfile.open(folder / "web" / "00000.tar", "w") as tar:
        for n in range(12):
            caption = "картина" if n == 5 else f"a picture with the number {n}"
            for extension, content in (("jpg", jpeg("red")), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{n:09d}.{extension}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
            rows.append({"key": f"{n:09d}", "caption": caption, "status": "success", "width": 240, "height": 220})
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "web" / "00000.parquet")
    (folder / "parquet").mkdir()
    parquet.write_table(pyarrow.table({"url": ["http://x"], "caption": ["a dog"]}), folder / "parquet" / "a.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data(["clean", "web", "data/clean"])
    return folder


def test_clean_inspect_train(home, monkeypatch, capsys):
    """The shards are a source that a stage of `tiny` trains on; the page tells what it will see."""
    monkeypatch.chdir(home)
    assert len(open_source("data", "clean")) == 11
    assert json.loads((home / "data/clean/funnel.json").read_text())["kept"] == 11
    data(["inspect", "data/clean", "--output", "page.html"])
    assert "11 samples" in capsys.readouterr().out
    assert "a picture with the number" in (home / "page.html").read_text()
    train(["tiny", "--stage", "pretrain", "--data", "data/clean", "--pretrain.steps", "2", "--log-every", "1"])
    lines = read_lines(home / "runs/tiny-clean/metrics.jsonl")
    assert [(line["step"], line["replaced"], line["dropped"]) for line in lines] == [(1, 0, 0), (2, 0, 0)]
    assert all("loss/caption" in line for line in lines)


def test_index_says_what_a_source_holds(home, monkeypatch, capsys):
    """Records, entries left out with their reasons, and samples of each task, for which lengths lie there afterwards."""
    monkeypatch.chdir(home)
    data(["index", "web"])
    said = capsys.readouterr().out
    assert "web: 12 records in 1 files" in said
    assert "caption: 12 samples as stage sft of tiny" in said
    assert len([*(home / "web").rglob("lengths-caption-*.npz")]) == 1
    found = tuple(Problem("a.tar", n, "cut off" if n % 3 else f"odd {n}") for n in range(45))
    assert reasons(found)[0] == "  30 left out: cut off"
    assert reasons(found)[-1] == "  6 left out for other reasons"


def test_near_duplicates(home, monkeypatch, capsys):
    """All pictures of `web/` are one red square, but blank pictures are not compared, so none is left out."""
    monkeypatch.chdir(home)
    data(["clean", "web", "data/fewer", "--near-duplicates", "2"])
    assert "kept 11 of 12 pairs" in capsys.readouterr().out


def test_cleaning_needs_neither_jax_nor_video(home):
    """Beam's environment (data_pipelines/cleaning/requirements.txt) has neither, and the command must run there."""
    program = "import sys; sys.modules.update(jax=None, av=None); from launch.main import main; main()"

    def run(*arguments):
        command = [sys.executable, "-c", program, "data", "clean", *arguments]
        return subprocess.run(command, cwd=home, env={**os.environ, "PYTHONPATH": PATH}, capture_output=True, text=True)

    assert "kept 11 of 12 pairs" in run("web", "data/apart").stdout
    mistake = run("nowhere", "x")
    assert (mistake.returncode, mistake.stderr) == (2, "qwenvl data: nowhere: there is no such folder\n")


LINES = "".join(text_at(20, 350 - 30 * n, f"line {n} of the lines of a page", 10) for n in range(4))


def test_pages_of_pdfs(tmp_path, monkeypatch, capsys):
    """`--corpus pdf` makes a source of a folder of PDFs, and says how many pages became of it."""
    monkeypatch.chdir(tmp_path)
    write_pdf(tmp_path / "papers" / "a.pdf", [LINES, LINES])
    data(["clean", "papers", "data/papers", "--corpus", "pdf"])
    said = capsys.readouterr().out
    assert "kept 2 of 2 pages\nshards: data/papers" in said
    assert len(open_source("data", "papers")) == 2


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["clean", "nowhere", "x"], "nowhere: there is no such folder"),
        (["clean", "web", "data/clean"], "exists already"),
        (["clean", "web", "x", "--corpus", "moon"], "no thresholds for corpus 'moon'"),
        (["clean", "web", "x", "--runner", "Prism"], "only --engine beam takes options"),
        (["clean", "web", "x", "--corpus", "pdf"], "web holds no .pdf"),
        (["clean", "web", "x", "--corpus", "pdf", "--near-duplicates", "2"], "pages of text all look alike"),
        (["clean", "parquet", "x", "--near-duplicates", "2"], "give it when their tars are cleaned"),
        (["clean", "web", "x", "--near-duplicates", "9"], "may differ in 0 to 8 bits of 64, not in 9"),
        (["make", "bread"], "qwenvl data make knows synthetic, native, vocabulary"),
        (["inspect", "nowhere"], "there is no source"),
        (["index", "nowhere"], "there is no source"),
        (["index", "web", "--stage", "dessert"], "has no stage 'dessert'"),
        (["index", "ftp://host/x"], "the protocol is not one of"),
        (["inspect", "tiny", "--stage", "dessert"], "has no stage 'dessert'"),
    ],
)
def test_mistakes_end_with_a_sentence(home, monkeypatch, capsys, arguments, sentence):
    """One sentence on stderr and exit code 2."""
    from launch.main import main

    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["qwenvl", "data", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("world", WORLDS)
def test_make_hands_its_options_on(world, monkeypatch, capsys):
    """Every option of `qwenvl data make WORLD` is one of what makes that world, and gets there."""
    kind, make_it = WORLDS[world]
    given = {}
    monkeypatch.setitem(WORLDS, world, (kind, lambda **options: given.update(options)))
    data(["make", world, "--folder", "elsewhere", "--scenes", "7"])
    inspect.signature(make_it).bind(**given)
    assert (given["folder"], given["scenes"]) == (Path("elsewhere"), 7)
    assert "data: elsewhere" in capsys.readouterr().out
