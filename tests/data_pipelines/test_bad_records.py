"""Bad input on the way to a batch: replaced by a rule, counted, listed, and never more than the set share."""

import io
import json
import pickle
import struct
import threading
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_data import make_record, make_run

from data_pipelines import rows
from data_pipelines.loader import open_loader
from data_pipelines.quarantine import Quarantine, read_quarantine
from data_pipelines.reading import HungRead, read_ahead, read_record
from data_pipelines.records import Record
from data_pipelines.sources.array_record import ArrayRecordSource, write_shards
from data_pipelines.sources.source import Problem, RecordError
from data_pipelines.tasks import TASKS
from qwenvl_jax.config import Component
from qwenvl_jax.processing.encoders import ImageSlotEncoder
from qwenvl_jax.processing.images import decode_image
from qwenvl_jax.processing.tokenizer import load_tokenizer

DAMAGED = 5
"""No divisor of 7, the number of different lengths: else all records of one length are bad."""
CAPTIONS = (Component("caption", "pictures", 1),)


def spoiled(number: int, every: int) -> Record:
    """Every so many a record whose picture has a header and no pixels."""
    record = make_record(number)
    if number % every:
        return record
    image = record.images[0]
    return replace(record, images=(replace(image, data=image.data[:60]),))


def run_of(tmp_path, every, **data):
    write_shards(tmp_path / "pictures", (spoiled(n, every) for n in range(42)))
    run = make_run(str(tmp_path), mixture=CAPTIONS)
    return replace(run, data=replace(run.data, **data))


def test_replacements_are_the_same_every_time_and_listed(tmp_path):
    """Counted in the batch's info with file, index and reason; whatever the number of workers."""
    run = run_of(tmp_path, DAMAGED)
    found = []
    for workers in (0, 1):
        with open_loader(replace(run, data=replace(run.data, workers=workers)), run.stages[0]) as loader:
            found.append([info for _, info in loader])
    assert found[0] == found[1]
    problems = [problem for info in found[0] for problem in info.problems]
    assert sum(info.replaced for info in found[0]) > 0
    assert {problem.index % DAMAGED for problem in problems} == {0}
    assert {problem.file for problem in problems} == {"pictures"}
    assert all("cannot be decoded" in problem.reason for problem in problems)


def test_a_run_stops_when_too_much_is_bad(tmp_path):
    """The sentence names the share, the option and the last record."""
    run = run_of(tmp_path, 2, max_bad_share=0.3)
    stage = replace(run.stages[0], steps=40)
    with (
        open_loader(run, stage) as loader,
        pytest.raises(ValueError, match=r"samples could not be read, more than data.max-bad-share \(0.3\).*pictures"),
    ):
        list(loader)
    with open_loader(replace(run, data=replace(run.data, max_bad_share=1.0)), stage) as loader:
        assert len(list(loader)) == 40


def test_a_source_that_is_mostly_bad_is_refused(tmp_path):
    """Before the first step, with the most frequent reasons."""
    turns = [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]
    (tmp_path / "own.json").write_text(json.dumps([{"conversations": turns}, *[{"conversations": []}] * 3]))
    run = make_run(str(tmp_path), mixture=(Component("chat", "own.json", 1),))
    with pytest.raises(ValueError, match=r"3 of 4 records of own.json cannot be used.*3 times: no assistant turn"):
        open_loader(run, run.stages[0])


class Hanging:
    """A source whose record 1 is never there."""

    name, remote = "mount", None

    def __init__(self) -> None:
        self.released = threading.Event()
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> Record:
        self.asked.append(index)
        if index == 1:
            self.released.wait()
        if index == 2:
            raise RecordError("file", 2, "damaged")
        return Record(str(index))


def test_a_read_that_hangs_is_given_up():
    """After the set time, with the source and the index; the reads behind it go on, and errors pass through."""
    source = Hanging()
    with pytest.raises(HungRead, match=r"mount: record 1: reading it took longer than 0\.05 seconds"):
        read_record(source, 1, 0.05)
    assert read_record(source, 0, 5).key == "0"
    with pytest.raises(RecordError, match="damaged"):
        read_record(source, 2, 5)
    source.released.set()
    assert read_record(source, 3, 5).key == "3"


def test_records_are_read_ahead():
    """Each is read once, and what cannot be read says so in its turn; where one hangs, all are read by themselves."""
    source = Hanging()
    read_ahead([(source, index) for index in (3, 2, 0)])
    assert read_record(source, 3).key == "3"
    with pytest.raises(RecordError, match="damaged"):
        read_record(source, 2)
    assert (read_record(source, 0).key, source.asked) == ("0", [3, 2, 0])
    assert (read_record(source, 0).key, source.asked) == ("0", [3, 2, 0, 0])
    read_ahead([(source, index) for index in (4, 1, 5)], seconds=0.05)
    assert [read_record(source, index).key for index in (4, 5)] == ["4", "5"]
    with pytest.raises(HungRead, match="record 1"):
        read_record(source, 1, 0.05)
    source.released.set()


def test_the_following_row_is_read_meanwhile():
    """Without being asked for again, and whatever is read beside it; a row that was not named, and one behind a read that
    hangs, are read when they are due."""
    source = Hanging()
    first, second, third = ([(source, index) for index in row] for row in ((3, 4), (5, 6), (7, 8)))
    read_ahead(first, second)
    deadline = time.monotonic() + 30
    while source.asked != [3, 4, 5, 6]:
        assert time.monotonic() < deadline, source.asked
        time.sleep(0.001)
    assert read_record(source, 9).key == "9"
    assert [read_record(source, index).key for index in (3, 4)] == ["3", "4"]
    read_ahead(second, first)
    assert [read_record(source, index).key for index in (5, 6)] == ["5", "6"]
    assert source.asked[:5] == [3, 4, 5, 6, 9]
    read_ahead(third, [(source, 1)])
    assert [read_record(source, index).key for index in (7, 8)] == ["7", "8"]
    read_ahead([(source, 1)], third, seconds=0.05)
    read_ahead(third, seconds=5)
    assert [read_record(source, index).key for index in (7, 8)] == ["7", "8"]
    source.released.set()


def test_a_loader_reads_every_record_once(tmp_path, monkeypatch):
    """The rows that are read ahead are those that come next, over the borders of batches too, and behind a resume."""
    write_shards(tmp_path / "pictures", map(make_record, range(42)))
    run = make_run(str(tmp_path), mixture=CAPTIONS)
    asked = []
    read = ArrayRecordSource.__getitem__
    for start in (0, 2):
        with open_loader(run, run.stages[0], start) as loader:
            asked.clear()
            monkeypatch.setattr(ArrayRecordSource, "__getitem__", lambda source, n: asked.append(n) or read(source, n))
            infos = [info for _, info in loader]
        assert asked == [record for info in infos for _, record in info.records]
        assert len(infos) == run.stages[0].steps - start > 1


def test_lost_storage_does_not_take_all_replacements(tmp_path, monkeypatch):
    """Where reads hang one after the other, a sample is left out after two of them."""
    run = run_of(tmp_path, DAMAGED)
    asked = []

    def hang(source, index):
        asked.append(index)
        raise HungRead(source.name, index, "hung")

    monkeypatch.setattr(rows, "read_record", hang)
    with open_loader(run, run.stages[0]) as loader:
        row = loader.plan.row(0)
    encoder = ImageSlotEncoder(load_tokenizer("bytes"), queries=4, resolution=8)
    maker = rows.RowMaker(loader.components, TASKS, encoder, 160, 3)
    _, [info] = maker.make_rows([row])
    assert info.dropped == len(row)
    assert len(asked) == 2 * len(row)


def test_quarantine_of_a_resumed_run_reads_like_that_of_one_never_stopped(tmp_path):
    """Lines of steps that come again are taken out; other stages' lines stay; a cut last line is dropped."""
    first = Quarantine(tmp_path, "pretrain", 0)
    assert not first.path.exists()
    first.add(-1, [Problem("a.tar", 3, "no caption")])
    first.add(0, [Problem("a.tar", 4, "damaged 中")])
    first.add(5, [Problem("a.tar", 5, "damaged")])
    Quarantine(tmp_path, "sft", 0).add(5, [Problem("b.json", 1, "damaged")])
    with first.path.open("a") as file:
        file.write('{"stage": "sft"')
    Quarantine(tmp_path, "pretrain", 5).add(5, [Problem("a.tar", 5, "damaged")])
    lines = [(line["stage"], line["step"], line["source"], line["index"]) for line in read_quarantine(first.path)]
    assert sorted(lines) == [
        ("pretrain", -1, "a.tar", 3), ("pretrain", 0, "a.tar", 4), ("pretrain", 5, "a.tar", 5), ("sft", 5, "b.json", 1),
    ]  # fmt: skip
    Quarantine(tmp_path, "pretrain", 0)
    assert [line["stage"] for line in read_quarantine(first.path)] == ["sft"]
    assert Quarantine(tmp_path, "sft", 0, process=3).path.name == "quarantine-3.jsonl"


def test_lists_of_processes_that_are_no_more_are_taken_care_of(tmp_path):
    """Four processes, then two: what the last two had listed of steps that come again goes, the rest stays."""
    four = [Quarantine(tmp_path, "sft", 0, process, 4) for process in range(4)]
    for quarantine in four:
        for step in (2, 5):
            quarantine.add(step, [Problem("a.tar", step, "damaged")])
    for process in range(2):
        Quarantine(tmp_path, "sft", 4, process, 2)
    assert [[line["step"] for line in read_quarantine(quarantine.path)] for quarantine in four] == [[2]] * 4


def test_a_list_that_cannot_be_written_is_told(tmp_path, capsys):
    """Training goes on; the records stand on stderr."""
    Quarantine(tmp_path / "gone", "sft", 0).add(3, [Problem("a.tar", 5, "damaged")])
    assert '"source": "a.tar", "index": 5' in capsys.readouterr().err


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8))
ROTATED = Image.Exif()
ROTATED[0x0112] = 6


def bomb() -> bytes:
    """A PNG header of 30,000 x 30,000 pixels with the pixels of a small picture."""
    data = bytearray(encoded(NOISE, "PNG"))
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.parametrize(
    "data, shape",
    [
        (encoded(NOISE, "JPEG")[:300], None),
        (bomb(), None),
        (b"", None),
        (b"<html>not found</html>", None),
        (encoded(NOISE, "PNG"), (16, 20, 3)),
        (encoded(NOISE.convert("CMYK"), "JPEG"), (16, 20, 3)),
        (encoded(NOISE.convert("P"), "PNG"), (16, 20, 3)),
        (encoded(NOISE.convert("LA"), "PNG"), (16, 20, 3)),
        (encoded(Image.fromarray(np.full((16, 20), 40_000, np.uint16)), "PNG"), (16, 20, 3)),
        (encoded(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)]), (16, 20, 3)),
        (encoded(NOISE, "JPEG", exif=ROTATED), (16, 20, 3)),
        (encoded(NOISE.resize((1, 1)), "PNG"), (1, 1, 3)),
    ],
    ids=[
        "truncated",
        "bomb",
        "empty",
        "html",
        "png",
        "cmyk",
        "palette",
        "grey-alpha",
        "16bit",
        "animated",
        "exif",
        "1x1",
    ],
)
def test_pictures_of_every_kind_decode_or_are_refused(data, shape):
    """Never a crash: three channels of the header's size (no EXIF rotation, as the original), or a sentence."""
    if shape is None:
        with pytest.raises(ValueError, match=r"pixels; store|no readable picture|cannot be decoded"):
            decode_image(data)
    else:
        assert decode_image(data).shape == shape


def test_hung_reads_survive_pickling():
    """Workers send their errors to the training process."""
    error = pickle.loads(pickle.dumps(HungRead("mount", 3, "hung")))
    assert (type(error), error.index) == (HungRead, 3)
