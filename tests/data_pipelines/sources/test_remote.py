"""Sources elsewhere: the same records as here, through a small cache; what fails or hangs is a sentence in bounded time."""

import os
import pickle
import shutil
import threading

import pytest
from file_server import serving
from small_data import make_record
from small_files import write_corpus

from data_pipelines.sources import remote, transfer
from data_pipelines.sources.array_record import ArrayRecordSource, write_shards
from data_pipelines.sources.opening import index_source, open_source
from data_pipelines.sources.shard_cache import ShardCache
from data_pipelines.sources.source import LostShard

RECORDS, PER_SHARD = 12, 3


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(remote, "_failed", {})


@pytest.fixture
def web(tmp_path):
    """A server of `shards`, with four shards of three records each."""
    write_shards(tmp_path / "web" / "shards", map(make_record, range(RECORDS)), records_per_shard=PER_SHARD)
    with serving(tmp_path / "web") as server:
        yield server


@pytest.fixture
def cache(tmp_path):
    """Room for two of these shards, which have 128 KiB each."""
    return ShardCache(tmp_path / "cache", 300_000)


def shard(number: int) -> str:
    return f"shard-{number:05d}.array_record"


def test_shards_over_http_are_those_on_disk(web, cache):
    """Records, fingerprint and sizes; each shard is fetched once in a pass, more of them than the cache holds."""
    here = ArrayRecordSource(web.folder / "shards")
    there = open_source(web.address, "shards", cache)
    assert (there.fingerprint, len(there), there.sizes().widths.tolist()) == (here.fingerprint, 12, [20] * 12)
    assert [*pickle.loads(pickle.dumps(there))] == [*here]
    assert [name for name in web.asked if name.startswith("shard-")] == [shard(n) for n in range(4)]
    assert sum(path.stat().st_size for path in (cache.folder / "files").rglob("*") if path.is_file()) <= cache.limit


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_other_protocols(tmp_path, cache, protocol):
    """`file://` stands for file systems that are mounted, `memory://` for object stores: no folders, any bytes."""
    write_shards(tmp_path / "shards", map(make_record, range(4)), records_per_shard=2)
    address = f"file://{tmp_path}/shards"
    if protocol == "memory":
        address = f"memory://{tmp_path.name}/shards"
        transfer.file_system("memory").put(str(tmp_path / "shards"), address, recursive=True)
    assert [*open_source("data", address, cache)] == [make_record(n) for n in range(4)]


@pytest.mark.parametrize(
    "fault, sentence",
    [
        (404, "there is no such file"),
        (500, r"the server answered 500 \(attempt 3 of 3\)"),
        (403, "the server answered 403"),
        ("cut", "the connection failed"),
    ],
)
def test_a_shard_that_cannot_be_had_is_lost_alone(web, cache, fault, sentence):
    """The records of the others are read; the sentence has the address and the reason; it is not asked for at every
    record."""
    source = open_source(web.address, "shards", cache)
    web.faults[shard(1)] = fault
    with pytest.raises(LostShard, match=sentence) as caught:
        source[4]
    assert (caught.value.file, caught.value.index) == (f"{web.address}/shards/{shard(1)}", 1)
    asked = len(web.asked)
    if fault != 404:
        with pytest.raises(LostShard, match=sentence):
            source[5]
        assert len(web.asked) == asked
    assert source[7] == make_record(7)
    assert not [path for path in cache.folder.rglob(".*") if path.name != ".lock"]


def test_what_fails_once_is_tried_again(web, cache):
    """A connection that breaks costs an attempt and no record."""
    source = open_source(web.address, "shards", cache)
    web.faults[shard(2)], web.times[shard(2)] = "cut", 2
    assert source[6] == make_record(6)
    assert web.asked.count(shard(2)) == 3


def test_a_server_that_hangs_is_given_up(web, cache, monkeypatch):
    """After the time without a byte, for every attempt; the next shard is read."""
    source = open_source(web.address, "shards", cache)
    web.faults[shard(1)] = "hang"
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "STALL_SECONDS", 0.2)
        with pytest.raises(LostShard, match=r"nothing came for 0\.2 seconds \(attempt 3 of 3\)"):
            source[3]
    assert source[6] == make_record(6)


def test_no_server_is_one_sentence(tmp_path, cache):
    """The source is not opened, and the address is named."""
    with serving(tmp_path) as server:
        address = server.address
    with pytest.raises(ValueError, match=rf"{address}/x/manifest.json: could not be fetched: Connection refused"):
        open_source(address, "x", cache)


@pytest.mark.parametrize(
    "address, sentence",
    [
        ("https://me:secret@host/x", "a user, a password or a query"),
        ("https://host/x?X-Amz-Signature=secret", "a user, a password or a query"),
        ("ftp://host/x", "the protocol is not one of gs://"),
        ("gs://bucket/x", r"gcsfs, which is missing: pip install -r data_pipelines/sources/remote-requirements\.txt"),
    ],
)
def test_addresses_that_cannot_be_used(cache, address, sentence, monkeypatch):
    """Refused before anything is fetched; what is secret is not repeated."""
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(ValueError, match=sentence) as caught:
        open_source("data", address, cache)
    assert "secret" not in str(caught.value)


def test_errors_of_libraries_are_not_passed_on():
    """They may hold addresses with signatures."""

    class HttpError(Exception):
        status = 403

    for error in (HttpError("https://x?secret"), PermissionError(13, "https://x?secret"), OSError("https://x?secret")):
        assert "secret" not in transfer.reason(error)


def test_tars_are_indexed_once_and_fetched_whole(tmp_path, cache, monkeypatch):
    """The index lies beside the tars, and what is rejected keeps its address; then a source elsewhere has the records
    that it has here, and a new tar is all that indexing again fetches."""
    samples = [{"caption": caption} for caption in ("a dog", "a cat", "", "a cow", "a fox")]
    write_corpus(tmp_path / "tars", samples, per_tar=2)
    here = open_source(tmp_path, "tars")
    shutil.copytree(tmp_path / "tars", tmp_path / "far" / "tars", ignore=shutil.ignore_patterns(".index"))
    address = f"file://{tmp_path}/far/tars"
    cache = ShardCache(cache.folder, 1 << 20)
    with pytest.raises(ValueError, match=rf"no manifest.json and no index.*qwenvl data index {address}"):
        open_source("data", address, cache)
    there = index_source("data", address, cache)
    assert [there[n] for n in range(4)] == [here[n] for n in range(4)]
    assert there.fingerprint == here.fingerprint
    [problem] = there.problems
    assert (problem.file, problem.reason) == (f"{address}/00001.tar", "the caption is empty")
    fetched = []
    local = remote.RemoteFolder.local
    monkeypatch.setattr(
        remote.RemoteFolder, "local", lambda self, file, size=None: fetched.append(file) or local(self, file, size)
    )
    write_corpus(tmp_path / "far" / "more", [{"caption": "a new one"}])
    (tmp_path / "far/more/00000.tar").rename(tmp_path / "far/tars/00009.tar")
    assert len(index_source("data", address, cache)) == 5
    assert fetched == ["00009.tar"]


def test_tars_over_http_need_the_index_that_was_made_here(tmp_path, cache):
    """A folder cannot be listed; with its `.index` it is a source like any other, and a tar of another size is noticed."""
    write_corpus(tmp_path / "web" / "tars", [{"caption": "a dog"}, {"caption": "a cat"}], per_tar=1)
    cache = ShardCache(cache.folder, 1 << 20)
    with serving(tmp_path / "web") as server:
        with pytest.raises(ValueError, match=r"before the folder is copied there with its \.index"):
            index_source(server.address, "tars", cache)
        here = open_source(tmp_path / "web", "tars")
        there = index_source(server.address, "tars", cache)
        assert there[0] == here[0]
        with (tmp_path / "web/tars/00001.tar").open("ab") as file:
            file.write(b"\0" * 512)
        with pytest.raises(LostShard, match="its index says"):
            there[1]


def test_nothing_outside_the_folder_is_read(tmp_path, web, cache):
    """Neither what a manifest names, nor what an index names."""
    (tmp_path / "web/shards/manifest.json").write_text(
        '{"schema": 1, "shards": [{"file": "../secret", "records": 1, "sha256": ""}]}'
    )
    with pytest.raises(ValueError, match=r"names \.\./secret, which is no file of its folder"):
        open_source(web.address, "shards", cache)
    write_corpus(tmp_path / "web" / "tars", [{"caption": "a dog"}])
    open_source(tmp_path / "web", "tars")
    [summary] = (tmp_path / "web/tars").rglob("files.json")
    summary.write_text(summary.read_text().replace("00000.tar", "../00000.tar"))
    with pytest.raises(ValueError, match="is damaged or of another version"):
        open_source(web.address, "tars", cache)


def test_shards_are_fetched_ahead(web, cache):
    """In threads, without a read; a shard that cannot be had is said when it is read."""
    source = open_source(web.address, "shards", cache)
    web.faults[shard(3)] = 404
    source.remote.fetch_ahead([1, 3])
    folder = source.remote.folder
    waited = threading.Event()
    for _ in range(600):
        if folder.is_cached(shard(1)) and shard(3) not in {file for _, file in remote._fetchers()._waiting}:
            break
        waited.wait(0.1)
    assert source[3] == make_record(3)
    assert web.asked.count(shard(1)) == 1
    with pytest.raises(LostShard, match="no such file"):
        source[9]


def test_handles_do_not_grow_with_the_shards(tmp_path):
    """200 shards through a cache of ten, which a worker reads one after the other: descriptors, threads and open shards
    stay few."""
    folder = tmp_path / "shards"
    write_shards(folder, [make_record(0), make_record(1)], records_per_shard=1)
    text = (folder / "manifest.json").read_text()
    entry = text[text.index("{", 1) : text.index("}") + 1]
    entries = [entry.replace(shard(0), f"copy-{n}") for n in range(200)]
    for n in range(200):
        os.link(folder / shard(0), folder / f"copy-{n}")
    (folder / "manifest.json").write_text(f'{{"schema": 1, "shards": [{", ".join(entries)}]}}')
    size = (folder / shard(0)).stat().st_size
    source = open_source("data", f"file://{folder}", ShardCache(tmp_path / "cache", 10 * size))
    assert source[0] == make_record(0)
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for n in range(200):
        source[n]
    after = len(os.listdir("/proc/self/fd")), threading.active_count()
    assert after[0] <= before[0] + 12
    assert after[1] <= before[1] + 4
    assert len(source._readers) <= 11
