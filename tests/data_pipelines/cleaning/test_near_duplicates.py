"""Near-duplicates: pictures that are the same to the eye have near hashes, and no pair is missed or depends on the work."""

import io
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_files import write_corpus
from test_job import BEAM_PYTHON, ROOT, files, pair

from data_pipelines.cleaning import job as module
from data_pipelines.cleaning.engines import processes
from data_pipelines.cleaning.funnel import NEAR_DUPLICATE
from data_pipelines.cleaning.job import clean
from data_pipelines.cleaning.near_duplicates import (
    COLOUR_STEPS,
    MOST_BITS,
    SIGNATURE,
    alike,
    alike_to_earlier,
    part_of,
    signature,
    tables,
)
from data_pipelines.sources.array_record import ArrayRecordSource


def smooth(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """A picture of soft blots, like a photograph out of focus."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def of(picture: Image.Image) -> np.ndarray:
    return signature(np.asarray(picture))


def distance(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.bitwise_count(first["hash"] ^ second["hash"]))


@pytest.mark.parametrize("seed", range(5))
def test_the_same_picture_stored_otherwise_is_alike(seed):
    """Smaller, as a JPEG of low quality, or brighter: at most four bits. Another picture is far off: about half of 64."""
    picture = smooth(seed)
    stored = Image.open(io.BytesIO(jpeg(picture.resize((160, 120)), 50)))
    brighter = Image.fromarray((np.asarray(picture) * 0.8 + 40).astype(np.uint8))
    for other in (stored, brighter):
        assert bool(alike(of(picture), of(other), 4))
    assert distance(of(picture), of(smooth(seed + 100))) > 16


def test_a_picture_of_other_colours_is_another():
    """The hash alone, which sees grey, would take a red and a blue one of the same shades for one."""
    grey = np.asarray(smooth(1).convert("L"), np.uint8)
    red = Image.merge("YCbCr", [Image.fromarray(np.full_like(grey, v) if v else grey) for v in (0, 110, 160)])
    blue = Image.merge("YCbCr", [Image.fromarray(np.full_like(grey, v) if v else grey) for v in (0, 160, 110)])
    first, second = (of(picture.convert("RGB")) for picture in (red, blue))
    assert np.abs(first["colour"].astype(int) - second["colour"]).max() > COLOUR_STEPS
    assert not alike(first, second, 64)


def test_blank_pictures_are_not_compared():
    """All of them would be one."""
    white, near_white = (of(Image.new("RGB", (64, 64), (255, 255, blue))) for blue in (255, 250))
    assert white["hash"] == near_white["hash"] == 0
    both = np.stack([white, near_white])
    assert not any(alike_to_earlier(both, mask, 4).any() for mask in tables(4))


def test_hashes_have_half_of_their_bits():
    """So none of a picture that is compared is 0, and any two differ in an even number."""
    assert {int(np.bitwise_count(of(smooth(seed))["hash"])) for seed in range(20)} == {32}


@pytest.mark.parametrize("bits", range(MOST_BITS + 1))
def test_tables_meet_in_every_near_pair(bits):
    """Of hashes that differ in so many bits, wherever these are, one table at least sees no difference."""
    masks = tables(bits)
    assert all(mask.bit_count() >= 2 * (64 // (bits + 2)) for mask in masks)
    rng = np.random.default_rng(bits)
    for _ in range(200):
        difference = sum(1 << int(bit) for bit in rng.choice(64, bits, replace=False))
        assert any(difference & mask == 0 for mask in masks)


@pytest.mark.parametrize("bits", [-1, MOST_BITS + 1])
def test_too_many_bits_are_refused(bits):
    """With a sentence."""
    with pytest.raises(ValueError, match=f"0 to {MOST_BITS} bits"):
        tables(bits)


# Few bits differ, so that near pairs and chains of them are common.
HASHES = st.lists(st.tuples(st.lists(st.integers(0, 63), max_size=4), st.integers(0, 12)), max_size=24)


@settings(deadline=None)
@given(HASHES, st.integers(0, 4), st.integers(1, 3))
def test_exactly_those_alike_to_an_earlier_one_are_found(drawn, bits, parts):
    """All tables, in any number of parts, find what comparing all pairs finds."""
    signatures = np.zeros(len(drawn), SIGNATURE)
    base = 0x0123456789ABCDEF
    for row, (flipped, colour) in zip(signatures, drawn):
        row["hash"] = base ^ sum(1 << bit for bit in set(flipped))
        row["colour"] = (128, colour)
    found = np.zeros(len(drawn), bool)
    for mask in tables(bits):
        part = part_of(signatures["hash"], mask, parts)
        for number in range(parts):
            here = np.flatnonzero(part == number)
            found[here] |= alike_to_earlier(signatures[here], mask, bits)
    expected = {
        second
        for first, second in combinations(range(len(drawn)), 2)
        if alike(signatures[first], signatures[second], bits)
    }
    assert set(np.flatnonzero(found).tolist()) == expected


@pytest.fixture
def source(tmp_path):
    """Ten pairs in tars of four: pictures 0 .. 3, three of which come again, smaller or worse, in this and other tars."""
    shown = [0, 1, 0, 2, 1, 3, 2, 4, 0, 5]
    samples = []
    for number, seed in enumerate(shown):
        again = seed in shown[:number]
        picture = smooth(seed).resize((200, 150)) if again else smooth(seed)
        data = jpeg(picture, 60 if again else 90)
        samples.append(pair(f"the picture number {number}", picture=data, width=picture.width, height=picture.height))
    write_corpus(tmp_path / "raw", samples)
    return tmp_path / "raw"


def captions(folder):
    return [record.captions[0].answer for record in ArrayRecordSource(folder)]


def test_the_first_of_alike_pictures_stays(source, tmp_path):
    """In the order of the tars; the funnel counts the others behind all rules. Not asked for, nothing is compared."""
    small = clean(source, tmp_path / "all", "cc3m")
    assert (small.kept, small.rejected) == (10, {})
    funnel = clean(source, tmp_path / "less", "cc3m", per_shard=4, near_duplicate_bits=2)
    assert (funnel.kept, funnel.rejected) == (6, {NEAR_DUPLICATE: 4})
    assert captions(tmp_path / "less") == [f"the picture number {n}" for n in (0, 1, 3, 5, 7, 9)]


def test_result_does_not_depend_on_the_work(source, tmp_path, monkeypatch):
    """Two processes, and more parts and shorter reads, give the same bytes as the plain loop."""
    clean(source, tmp_path / "here", "web", near_duplicate_bits=2)
    clean(source, tmp_path / "two", "web", processes(2), near_duplicate_bits=2)
    monkeypatch.setattr(module, "COMPARED_AT_ONCE", 3)
    monkeypatch.setattr(module, "READ_AT_ONCE", 2)
    clean(source, tmp_path / "parts", "web", near_duplicate_bits=2)
    assert files(tmp_path / "here") == files(tmp_path / "two") == files(tmp_path / "parts")


@pytest.mark.skipif(not BEAM_PYTHON.exists(), reason="made from data_pipelines/cleaning/requirements.txt on demand")
def test_beam_leaves_out_the_same(source, tmp_path):
    """The same files as the plain loop's, from Apache Beam in the environment that it needs for itself."""
    import subprocess

    clean(source, tmp_path / "here", "web", near_duplicate_bits=4)
    command = [BEAM_PYTHON, "-m", "launch.main", "data", "clean", source, tmp_path / "beam", "--near-duplicates", "4"]
    subprocess.run([*map(str, command), "--engine", "beam"], check=True, cwd=ROOT, timeout=300)
    assert files(tmp_path / "here") == files(tmp_path / "beam")


def test_stopped_while_comparing_it_goes_on(source, tmp_path):
    """Parts that are compared are not compared again, and the result is the same."""
    clean(source, tmp_path / "whole", "web", near_duplicate_bits=2)
    done = []

    def one_more(what, function, numbers):
        function(numbers[0])
        done.append((what, numbers[0]))
        if len(numbers) > 1:
            raise InterruptedError

    for _ in range(20):
        try:
            clean(source, tmp_path / "stopped", "web", one_more, near_duplicate_bits=2)
            break
        except InterruptedError:
            continue
    assert len(done) == len(set(done)) == 3 + len(tables(2)) + 1
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_nothing_is_left_to_compare(tmp_path):
    """The sentence on an empty funnel, not an error of arrays."""
    write_corpus(tmp_path / "raw", [pair("фото")])
    with pytest.raises(ValueError, match="nothing passes the rules"):
        clean(tmp_path / "raw", tmp_path / "clean", "web", near_duplicate_bits=4)
