"""Fuzz: whatever has happened to the bytes of a user's files, opening and reading them ends in records or in sentences.

Files of every format are cut, changed, lengthened and mixed. Opening may refuse with a ValueError, reading a record with a
RecordError; any other error, or a process that dies, is a bug.
"""

import json
from collections.abc import Callable
from pathlib import Path

import msgpack
import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_data import make_picture, make_record
from small_files import write_corpus

from data_pipelines.records import Record, pack_record, unpack_record
from data_pipelines.sources.array_record import write_shards
from data_pipelines.sources.opening import open_source
from data_pipelines.sources.source import RecordError, RecordSource

RECORDS = 4


def write_own_shards(folder: Path) -> None:
    write_shards(folder, map(make_record, range(RECORDS)), records_per_shard=3)


def write_tars(folder: Path) -> None:
    write_corpus(folder, [{"caption": f"picture {n}"} for n in range(RECORDS)])


def write_parquet(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = [{"image": {"bytes": make_picture(n).data, "path": None}, "caption": f"picture {n}"} for n in range(RECORDS)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pictures.parquet")


def write_conversations(folder: Path, name: str = "talks.json") -> None:
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(make_picture().data)
    turns = [
        {"from": "user", "value": "<img>a.png</img>Where is <ref>it</ref>?"},
        {"from": "assistant", "value": "<ref>it</ref><box>(1,2),(3,4)</box>"},
    ]
    entries = [{"id": str(n), "conversations": turns} for n in range(RECORDS)]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / name).write_text(json.dumps(entries) if name.endswith(".json") else lines)


def write_folder(folder: Path) -> None:
    folder.mkdir(parents=True)
    for n in range(RECORDS):
        (folder / f"{n}.png").write_bytes(make_picture(n).data)
        (folder / f"{n}.txt").write_text(f"picture {n}")


FORMATS: dict[str, tuple[Callable[[Path], None], str]] = {
    # what writes a valid source, and what of its folder is opened
    "own shards": (write_own_shards, ""),
    "tars": (write_tars, ""),
    "parquet": (write_parquet, "pictures.parquet"),
    "json": (write_conversations, "talks.json"),
    "json lines": (lambda folder: write_conversations(folder, "talks.jsonl"), "talks.jsonl"),
    "pictures": (write_folder, ""),
}

PLACE = st.floats(0, 1)
"""A place in a file, as a share of its bytes."""
BYTES = st.binary(min_size=1, max_size=16) | st.sampled_from(
    [b"\0" * 512, b"{", b"[" * 3000, b"\xff\xfe", b'"', b"1e999"]
)
CHANGES = st.one_of(
    st.tuples(st.just("cut"), PLACE, st.just(b"")),
    st.tuples(st.just("overwrite"), PLACE, BYTES),
    st.tuples(st.just("insert"), PLACE, BYTES),
    st.tuples(st.just("delete"), PLACE, BYTES),
)


def damaged(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """The bytes after these changes, one behind the other."""
    for kind, share, new in changes:
        at = round(share * len(data))
        behind = {"cut": len(data), "insert": at, "overwrite": at + len(new), "delete": at + len(new)}[kind]
        data = data[:at] + (b"" if kind == "delete" else new) + data[behind:]
    return data


def read_all(source: RecordSource) -> int:
    """Reads every record; the number of those that can be read."""
    read = 0
    for index in range(len(source)):
        try:
            assert isinstance(source.outline(index), Record)
            assert isinstance(source[index], Record)
            read += 1
        except RecordError:
            continue
    return read


class Files(dict[str, bytes]):
    """Files by their names below a folder. Without their bytes where a failing example is shown."""

    def __repr__(self) -> str:
        return f"Files({', '.join(self)})"


@pytest.fixture(scope="module", params=FORMATS)
def valid(request, tmp_path_factory) -> tuple[Files, str]:
    """The files of a valid source, and what of it is opened."""
    write, opened = FORMATS[request.param]
    folder = tmp_path_factory.mktemp("valid") / "source"
    write(folder)
    assert read_all(open_source(folder.parent, f"source/{opened}".rstrip("/"))) == RECORDS
    files = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
    return Files({name: data for name, data in files.items() if not name.startswith(".")}), opened


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_give_records_or_sentences(valid, tmp_path_factory, data) -> None:
    """One file of a source is damaged in one to three places; what is left of the source is read to its end."""
    files, opened = valid
    name = data.draw(st.sampled_from(sorted(files)))
    changes = data.draw(st.lists(CHANGES, min_size=1, max_size=3))
    folder = tmp_path_factory.mktemp("damaged") / "source"
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(damaged(content, changes) if file == name else content)
    try:
        source = open_source(folder.parent, f"source/{opened}".rstrip("/"))
    except ValueError:
        return
    assert read_all(source) <= len(source)


@given(changes=st.lists(CHANGES, min_size=1, max_size=4), number=st.integers(0, 6))
@settings(max_examples=200, deadline=None)
def test_damaged_records_are_records_or_sentences(changes, number) -> None:
    """The bytes of a record, as one would have them whose writer was broken: no other error than a ValueError."""
    try:
        record = unpack_record(damaged(pack_record(make_record(number)), changes))
    except ValueError:
        return
    assert unpack_record(pack_record(record)) == record


@pytest.mark.parametrize(
    "changed",
    [
        {"text": 5},
        {"key": None},
        {"images": ({"data": "x", "width": 1, "height": 1},)},
        {"regions": ({"phrase": "x", "boxes": ((1, 2, 3),)},)},
        {"lines": ({"text": "x", "quad": ((0, 0), (1, 0), (1, 1), "x")},)},
    ],
)
def test_values_of_another_type_are_no_record(changed) -> None:
    """What the tasks would stumble over is refused where it is read."""
    with pytest.raises(ValueError, match=r"another type|not a record"):
        unpack_record(msgpack.packb({"key": "k", **changed}))
