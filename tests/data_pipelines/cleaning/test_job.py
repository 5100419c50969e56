"""A cleaning as a whole: the exact funnel, the same shards from every engine, and nothing lost by a stop."""

import json
import subprocess
from pathlib import Path

import pytest
from small_data import make_picture
from small_files import write_corpus

from data_pipelines.cleaning import job as module
from data_pipelines.cleaning.engines import beam, processes
from data_pipelines.cleaning.funnel import DAMAGED, NOT_FETCHED, SHORTER, UNREADABLE, funnel_svg, funnel_table
from data_pipelines.cleaning.job import clean, run_here
from data_pipelines.cleaning.thresholds import ASPECT, CLIP, EMOJI, HTML, LENGTH, LETTERS, SMALL, TAGS
from data_pipelines.sources.array_record import ArrayRecordSource
from qwenvl_jax.folder_lock import LOCK

ROOT = Path(__file__).parents[3]
BEAM_PYTHON = ROOT / ".venv-clean" / "bin" / "python"
SMOOTH = make_picture(0).data
"""A small picture: the metadata tells the size that it had on the web."""


def pair(caption, score=0.3, width=400, height=300, **known):
    return {
        "caption": caption, "similarity": score, "width": 20, "height": 16, "original_width": width,
        "original_height": height, "picture": SMOOTH, **known,
    }  # fmt: skip


GOLDEN = [
    pair("a dog on the grass"),
    pair("a very long house", width=1300),
    pair("a tiny house", width=150),
    pair("a cat that is far off", score=0.05),
    pair("фото собаки"),
    pair("a happy dog 🐕"),
    pair("dog"),
    pair("<b> </b> <br/>"),
    pair("a dog &amp; a cat", score=0.31),
    pair("never fetched", status="failed_to_download"),
    pair("the picture is damaged", picture=SMOOTH[:200]),
    pair("", score=0.4),
    pair("another dog on the grass", score=0.28),
]
EXPECTED = {NOT_FETCHED: 1, ASPECT: 1, SMALL: 1, LETTERS: 1, EMOJI: 1, LENGTH: 2, HTML: 1, UNREADABLE: 1}


@pytest.fixture
def source(tmp_path):
    write_corpus(tmp_path / "raw", GOLDEN)
    return tmp_path / "raw"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOCK}


def test_golden_funnel(source, tmp_path):
    """Every pair is counted once, under the rule that rejects it first; what is kept has its cleaned caption."""
    funnel = clean(source, tmp_path / "clean", "web")
    assert funnel.rejected == EXPECTED
    assert (funnel.kept, funnel.fetched) == (4, len(GOLDEN) - 1)
    records = [*ArrayRecordSource(tmp_path / "clean")]
    assert [record.captions[0].answer for record in records] == [
        "a dog on the grass", "a cat that is far off", "a dog & a cat", "another dog on the grass",
    ]  # fmt: skip
    assert records[0].images[0].data == SMOOTH
    stored = json.loads((tmp_path / "clean" / "funnel.json").read_text())
    assert stored["rejected"] == EXPECTED
    [line] = (tmp_path / "clean" / "quarantine.jsonl").read_text().splitlines()
    problem = json.loads(line)
    assert (problem["source"], problem["index"]) == ("00002.tar", 1)
    assert "cannot be decoded" in problem["reason"]


def test_cut_is_calibrated_to_the_keep_rate(source, tmp_path):
    """COYO keeps 28 %, so of 12 fetched pairs 3.36 and therefore 4 must pass the rules on metadata, of which five do:
    the lowest score goes. One of the four has a damaged picture."""
    funnel = clean(source, tmp_path / "clean", "coyo")
    assert (funnel.clip_cut, funnel.published) == (0.28, 0.28)
    assert funnel.rejected == {**EXPECTED, CLIP: 1}
    assert funnel.kept == 3


@pytest.mark.parametrize("corpus", ["web", "coyo", "cc12m"])
def test_engines_agree_to_the_byte(source, tmp_path, corpus):
    """Plain loop and two processes: the same shards, manifest, funnel and quarantine."""
    clean(source, tmp_path / "here", corpus, run_here, per_shard=2)
    clean(source, tmp_path / "two", corpus, processes(2), per_shard=2)
    assert files(tmp_path / "here") == files(tmp_path / "two")


@pytest.mark.skipif(not BEAM_PYTHON.exists(), reason="made from data_pipelines/cleaning/requirements.txt on demand")
@pytest.mark.parametrize("corpus", ["coyo", "cc12m"])
def test_beam_agrees_to_the_byte(source, tmp_path, corpus):
    """The same files as the plain loop's, from Apache Beam in the environment that it needs for itself."""
    clean(source, tmp_path / "here", corpus)
    command = [BEAM_PYTHON, "-m", "launch.main", "data", "clean", source, tmp_path / "beam", "--corpus", corpus]
    subprocess.run([*map(str, command), "--engine", "beam"], check=True, cwd=ROOT, timeout=300)
    assert files(tmp_path / "here") == files(tmp_path / "beam")


def test_missing_beam_is_a_sentence(monkeypatch):
    """It says how to get it."""
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(ValueError, match=r"pip install -r data_pipelines/cleaning/requirements.txt"):
        beam([])


def test_shards_are_full(source, tmp_path):
    """Exactly the asked number of records in every shard but the last, whatever the tars hold."""
    clean(source, tmp_path / "clean", "web", per_shard=3)
    manifest = json.loads((tmp_path / "clean" / "manifest.json").read_text())
    assert [shard["records"] for shard in manifest["shards"]] == [3, 1]


def test_stopped_anywhere_it_goes_on(source, tmp_path):
    """A stop in any step leaves no source; the same command ends with the same files and repeats no finished step."""
    clean(source, tmp_path / "whole", "coyo", per_shard=2)
    done = []

    class Stop(Exception):
        pass

    def one_more(what, function, numbers):
        function(numbers[0])
        done.append((what, numbers[0]))
        if len(numbers) > 1:
            raise Stop

    for _ in range(20):
        try:
            clean(source, tmp_path / "stopped", "coyo", one_more, per_shard=2)
            break
        except Stop:
            assert not (tmp_path / "stopped").exists()
    assert len(done) == len(set(done)) == 4 + 4 + 2
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_another_cleaning_is_not_mixed_in(source, tmp_path):
    """A stopped cleaning of another corpus in the same place is refused; so is a destination that exists."""

    def stop(what, function, numbers):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clean(source, tmp_path / "clean", "coyo", stop)
    with pytest.raises(ValueError, match="unfinished cleaning with other settings"):
        clean(source, tmp_path / "clean", "web")
    (tmp_path / "clean").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        clean(source, tmp_path / "clean", "coyo")


def test_longest_text_of_a_picture_stays(tmp_path):
    """Texts of one picture, in several tars: the longest is kept, of equals the first; tags are no candidates."""
    captions = ["a dog", "a dog on grass", "another", "a dog on <PERSON> grass", "a dog in mud!", "a dog on moss"]
    same = ["x", "x", "y", "x", "x", "x"]
    samples = [pair(caption, sha256=digest) for caption, digest in zip(captions, same)]
    write_corpus(tmp_path / "raw", samples, per_tar=2)
    funnel = clean(tmp_path / "raw", tmp_path / "clean", "sbu")
    assert funnel.rejected == {TAGS: 1, SHORTER: 3}
    kept = [record.captions[0].answer for record in ArrayRecordSource(tmp_path / "clean")]
    assert kept == ["a dog on grass", "another"]


def test_damaged_tars_cost_themselves(source, tmp_path):
    """A tar that is none and one that is cut are counted and listed; without Parquet nothing else changes."""
    (source / "00000.tar").write_bytes(b"not a tar at all")
    data = (source / "00001.tar").read_bytes()
    (source / "00001.tar").write_bytes(data[: len(data) // 2])
    funnel = clean(source, tmp_path / "clean", "web")
    assert funnel.rejected[DAMAGED] == 2
    lines = [json.loads(line) for line in (tmp_path / "clean" / "quarantine.jsonl").read_text().splitlines()]
    assert {line["source"] for line in lines} == {"00000.tar", "00001.tar", "00002.tar"}


@pytest.mark.parametrize(
    "corpus, captions, reason",
    [("moon", ["a dog on grass"], "no thresholds for corpus 'moon'"), ("web", ["фото"], "nothing passes the rules")],
)
def test_mistakes_are_sentences(tmp_path, corpus, captions, reason):
    """An unknown corpus, and one of which nothing is left, with its funnel."""
    write_corpus(tmp_path / "raw", [pair(caption) for caption in captions])
    with pytest.raises(ValueError, match=reason):
        clean(tmp_path / "raw", tmp_path / "clean", corpus)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no \.tar"):
        clean(tmp_path / "empty", tmp_path / "clean", "web")


def test_funnel_as_table_and_picture(source, tmp_path):
    """Numbers fall from all pairs to what is kept; the picture escapes what it shows and is well-formed."""
    import xml.etree.ElementTree as tree

    funnel = clean(source, tmp_path / "clean", "web")
    table = funnel_table(funnel)
    assert "| pairs | | 13 | |" in table
    assert f"| {UNREADABLE} | 1 | 4 | 33.3% |" in table
    assert "| **kept** | | **4** | **33.3%** |" in table
    tree.fromstring(funnel_svg([funnel]))
    assert module.FUNNEL_PICTURE in files(tmp_path / "clean")
