"""The cache of fetched files: bounded at any time, never without a file that is read, whole files only, for many users."""

import multiprocessing
import os
import threading
import time

import pytest

from data_pipelines.sources.shard_cache import FILES, PermanentError, ShardCache


def content(name: str, size: int = 100) -> bytes:
    return (name * size).encode()[:size]


def fetch(name: str, size: int = 100, fetched: list | None = None):
    """As a source gives it: the size, and the bytes in two chunks."""

    def begin():
        if fetched is not None:
            fetched.append(name)
        data = content(name, size)
        return size, iter([data[: size // 2], data[size // 2 :]])

    return begin


def read(cache: ShardCache, name: str, size: int = 100, fetched: list | None = None) -> bytes:
    with cache.acquire(name, fetch(name, size, fetched), time.monotonic() + 60) as file:
        return file.read()


def names(cache: ShardCache) -> list[str]:
    return sorted(name for _, _, files in os.walk(cache.folder / FILES) for name in files)


def test_the_least_recently_used_goes_first(tmp_path):
    """A file is fetched once while it is there; what has been read last stays."""
    cache, fetched = ShardCache(tmp_path, 300), []
    for name in ("a", "b", "c", "a", "d", "a", "b"):
        assert read(cache, name, fetched=fetched) == content(name)
    assert fetched == ["a", "b", "c", "d", "b"]
    assert names(cache) == ["a", "b", "d"]


def test_a_file_that_is_read_stays(tmp_path):
    """The oldest is kept while it is open; where all are, the wait for room has an end and says what to do."""
    cache = ShardCache(tmp_path, 200)
    held = cache.acquire("a", fetch("a"), time.monotonic() + 60)
    read(cache, "b")
    read(cache, "c")
    assert names(cache) == ["a", "c"]
    with cache.acquire("c", fetch("c"), time.monotonic() + 60), pytest.raises(TimeoutError, match=r"raise data\.cache"):
        cache.acquire("d", fetch("d"), time.monotonic() + 0.1)
    assert names(cache) == ["a", "c"]
    held.close()
    read(cache, "d")
    assert names(cache) == ["c", "d"]


def test_a_file_larger_than_the_cache_is_refused(tmp_path):
    """Nothing is removed for it."""
    cache = ShardCache(tmp_path, 150)
    read(cache, "a")
    with pytest.raises(PermanentError, match=r"200 bytes, and the cache 150: raise data\.cache-bytes"):
        read(cache, "b", 200)
    assert names(cache) == ["a"]


@pytest.mark.parametrize("chunks, error", [([b"x" * 60], "60 of 100 bytes"), ([b"x" * 60] * 2, "120 of 100 bytes")])
def test_other_bytes_than_announced_leave_nothing(tmp_path, chunks, error):
    """A file that is cut or too long never gets its name, and its room is free again."""
    cache = ShardCache(tmp_path, 100)
    with pytest.raises(OSError, match=error):
        cache.acquire("a", lambda: (100, iter(chunks)), time.monotonic() + 60)
    assert names(cache) == []
    assert read(cache, "a") == content("a")


def test_what_a_killed_process_left_is_removed(tmp_path):
    """A part of a file, and its room: it is fetched anew, or makes room for others."""
    cache = ShardCache(tmp_path, 250)
    read(cache, "a")
    for name in (".a", ".b"):
        (tmp_path / FILES / name).write_bytes(b"part" * 20)
    assert read(cache, "b") == content("b")
    read(cache, "c")
    assert names(cache) == ["b", "c"]


def test_threads_that_want_the_same_file_fetch_it_once(tmp_path):
    """The others wait for it; one that cannot wait says so."""
    cache, fetched, begun, go_on = ShardCache(tmp_path, 300), [], threading.Event(), threading.Event()

    def slow():
        size, chunks = fetch("a", fetched=fetched)()
        begun.set()
        go_on.wait()
        return size, chunks

    found: list[bytes] = []

    def use():
        with cache.acquire("a", slow, time.monotonic() + 60) as file:
            found.append(file.read())

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait()
    with pytest.raises(TimeoutError, match="has not fetched it yet"):
        cache.acquire("a", fetch("a"), time.monotonic())
    go_on.set()
    for thread in threads:
        thread.join()
    assert fetched == ["a"]
    assert found == [content("a")] * 4


def use_many(folder, limit, seed, wrong, most) -> None:
    """A process that reads files of 10 names in an order of its own; counts wrong ones, and the largest sum of sizes."""
    cache = ShardCache(folder, limit)
    for n in range(60):
        name = str((n * seed) % 10)
        wrong.value += read(cache, name) != content(name)
        sizes = []
        for file in names(cache):
            try:
                sizes.append(os.stat(folder / FILES / file).st_size)
            except FileNotFoundError:
                continue
        most.value = max(most.value, sum(sizes))


def test_processes_share_it(tmp_path):
    """Three processes that fetch, read and remove at the same time: every read is whole, and the bound holds."""
    context = multiprocessing.get_context("fork")
    wrong, most = context.Value("i", 0), context.Value("i", 0)
    users = [context.Process(target=use_many, args=(tmp_path, 500, seed, wrong, most)) for seed in (1, 3, 7)]
    for user in users:
        user.start()
    for user in users:
        user.join()
        assert user.exitcode == 0
    assert wrong.value == 0
    # A file may change its name between listing and looking, and be counted twice.
    assert 0 < most.value <= 600
