"""Shards: what is written is read, damage is one record's matter, and the constructor reads no shard."""

import pickle

import pytest
from small_data import make_record

from data_pipelines.sources.array_record import OPEN_SHARDS, ArrayRecordSource, write_shards
from data_pipelines.sources.source import RecordError


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path / "source", map(make_record, range(10)), records_per_shard=4)
    return tmp_path / "source"


def test_records_come_back_in_order(folder):
    """Every record is read as it was written, across shards, and after pickling."""
    source = ArrayRecordSource(folder)
    assert [*source] == [make_record(n) for n in range(10)]
    assert pickle.loads(pickle.dumps(source))[9] == make_record(9)
    with pytest.raises(IndexError):
        source[10]


def test_shards_hold_the_asked_number(folder):
    """Reading cost grows with a shard's records, so the writer must keep to the number."""
    assert sorted(path.name for path in folder.glob("*.array_record")) == [
        f"shard-0000{n}.array_record" for n in range(3)
    ]


def test_sizes_without_opening_a_shard(folder):
    """Planning needs sizes only: they, length and fingerprint are there even if shards are unreadable."""
    fingerprint = ArrayRecordSource(folder).fingerprint
    for shard in folder.glob("*.array_record"):
        shard.write_bytes(b"")
    source = ArrayRecordSource(folder)
    sizes = source.sizes()
    assert len(source) == 10
    assert source.fingerprint == fingerprint
    assert sizes.images.tolist() == [1] * 10
    assert sizes.widths.tolist() == [20] * 10
    assert sizes.heights.tolist() == [16] * 10


def test_fingerprint_follows_the_content(tmp_path):
    """Same records, same fingerprint; one other record, another one."""
    for name, start in (("a", 0), ("b", 0), ("c", 1)):
        write_shards(tmp_path / name, map(make_record, range(start, start + 3)))
    a, b, c = (ArrayRecordSource(tmp_path / name).fingerprint for name in "abc")
    assert a == b != c


def test_damaged_record_is_named_and_alone(folder):
    """A flipped byte costs one record, and the error says file, index in it and reason."""
    path = folder / "shard-00001.array_record"
    data = bytearray(path.read_bytes())
    position = data.find(make_record(6).images[0].data)
    data[position + 50] ^= 255
    path.write_bytes(data)
    source = ArrayRecordSource(folder)
    with pytest.raises(RecordError, match=r"shard-00001.array_record: record 2: .*mismatch") as caught:
        source[6]
    assert (caught.value.index, pickle.loads(pickle.dumps(caught.value)).index) == (2, 2)
    assert [source[n] for n in (5, 7)] == [make_record(5), make_record(7)]


def test_few_shards_stay_open(tmp_path):
    """Open shards cost a descriptor each, so their number is bounded whatever the number of shards."""
    write_shards(tmp_path / "many", map(make_record, range(OPEN_SHARDS + 5)), records_per_shard=1)
    source = ArrayRecordSource(tmp_path / "many")
    assert len([*source]) == OPEN_SHARDS + 5
    assert len(source._readers) == OPEN_SHARDS


def test_stopped_writing_leaves_no_source(tmp_path):
    """A source appears when it is complete; writing again after a stop works, writing over one does not."""

    def broken():
        yield make_record(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path / "source", broken())
    assert not (tmp_path / "source").exists()
    write_shards(tmp_path / "source", [make_record(1)])
    assert [*ArrayRecordSource(tmp_path / "source")] == [make_record(1)]
    with pytest.raises(FileExistsError, match="remove it first"):
        write_shards(tmp_path / "source", [make_record(1)])


def test_incomplete_folders_are_refused(folder):
    """A missing shard or another schema is said when the source is opened."""
    (folder / "shard-00002.array_record").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of its shards, first shard-00002"):
        ArrayRecordSource(folder)
    (folder / "manifest.json").write_text('{"schema": 99, "shards": []}')
    with pytest.raises(ValueError, match="schema 99, known is 1"):
        ArrayRecordSource(folder)
    (folder / "manifest.json").write_text("[")
    with pytest.raises(ValueError, match=r"manifest.json cannot be read"):
        ArrayRecordSource(folder)
