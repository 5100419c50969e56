"""Makes the small worlds: sources of records in shards, training and held-out, from one seed.

There are two: that of `tiny`, and the native one of `tiny-qwen2`, with pictures of many sizes, videos and screens.

Record number i of a source is a pure function of (seed, source, i): the number of worker processes changes
nothing. A source's folder appears only when it is complete, so making can be stopped at any time and started
again.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.ordered_map import ordered_map
from data_pipelines.records import Record
from data_pipelines.sources.array_record import write_shards
from data_pipelines.synthetic.chats import chat_record
from data_pipelines.synthetic.documents import document_questions, sample_document
from data_pipelines.synthetic.native import (
    episode_record,
    native_size,
    native_text_record,
    small_print_record,
    video_record,
)
from data_pipelines.synthetic.scene_records import scene_record
from data_pipelines.synthetic.screens import Screen, sample_screen
from data_pipelines.synthetic.texts import KINDS, sample_text
from data_pipelines.synthetic.wording import ASKED_HARD, caption, caption_with_places, caption_zh
from qwenvl_jax.folder_lock import only_writer

WORLD_VERSION = 9
NATIVE_VERSION = 7
"""They count up when the same seed begins to mean another world."""
SETTINGS = "world.json"
RECORDS_PER_JOB = 64


class Source(NamedTuple):
    """A source of the world: its folder below the world's, what it holds, how many, and its number among the
    seeds.
    """

    folder: str
    kind: str
    held_out: bool
    records: int
    stream: int


def document_record(rng: np.random.Generator, key: str, held_out: bool) -> Record:
    """A document with its lines and questions on them."""
    image, lines = sample_document(rng, held_out)
    asked = document_questions(tuple(line.text for line in lines), rng)
    return Record(key, images=(image,), questions=asked, lines=lines)


def text_record(rng: np.random.Generator, key: str, held_out: bool) -> Record:
    """A text without a picture; there are no held-out ones."""
    return Record(key, text=sample_text(rng, KINDS))


MAKERS: dict[str, Callable[[np.random.Generator, str, bool], Record]] = {
    "scenes": scene_record,
    "documents": document_record,
    "chats": chat_record,
    "texts": text_record,
    "native scenes": partial(
        scene_record,
        size_of=native_size,
        framed=True,
        captions=(caption, caption_zh, caption_with_places),
        asked_in_training=ASKED_HARD,
    ),
    "small print": small_print_record,
    "videos": video_record,
    "episodes": episode_record,
    "native texts": native_text_record,
}


def make_record(seed: int, source: Source, index: int) -> Record:
    """Record number `index` of a source."""
    rng = np.random.default_rng([seed, source.stream, index])
    return MAKERS[source.kind](rng, f"{source.folder}/{index:06d}", source.held_out)


def _make_records(seed: int, source: Source, indices: range) -> list[Record]:
    return [make_record(seed, source, index) for index in indices]


def _sources(scenes: int, documents: int, chats: int, texts: int, held_out: tuple[int, int, int]) -> list[Source]:
    planned = (
        ("scenes", "scenes", False, scenes),
        ("documents", "documents", False, documents),
        ("chats", "chats", False, chats),
        ("texts", "texts", False, texts),
        ("held_out/scenes", "scenes", True, held_out[0]),
        ("held_out/documents", "documents", True, held_out[1]),
        ("held_out/chats", "chats", True, held_out[2]),
    )
    return [Source(*source, stream) for stream, source in enumerate(planned)]


Progress = Callable[[str, int, int], None]
"""Called with a source's name, its records made so far, and their number."""


def _silent(source: str, done: int, total: int) -> None:
    pass


def make_world(
    folder: Path,
    *,
    scenes: int,
    documents: int,
    chats: int,
    texts: int,
    seed: int = 0,
    held_out: tuple[int, int, int] = (300, 300, 200),
    workers: int = 2,
    progress: Progress = _silent,
) -> None:
    """Makes the world of `tiny` in `folder`; what is there already is kept, so a second call returns at once.

    Args:
      folder: gets the sources `scenes`, `documents`, `chats`, `texts` and
        `held_out/{scenes,documents,chats}`. seed: of all random choices. scenes, documents, chats, texts:
        records of the training sources. held_out: records of the held-out scenes, documents and chats.
        workers: processes; the world is the same for every number.

    Raises:
      ValueError: the folder holds a world of other settings, or another process makes one there.
    """
    _make_sources(
        Path(folder), _sources(scenes, documents, chats, texts, held_out), WORLD_VERSION, seed, workers, progress
    )


def make_native_world(
    folder: Path,
    *,
    scenes: int,
    small_print: int,
    videos: int,
    episodes: int,
    texts: int,
    seed: int = 0,
    held_out: tuple[int, int, int, int] = (300, 200, 200, 80),
    workers: int = 2,
    progress: Progress = _silent,
) -> None:
    """Makes the native world of `tiny-qwen2` in `folder`; as `make_world`.

    Args:
      scenes, small_print, videos, episodes, texts: records of the training sources of these names. held_out: records of
        the held-out ones, all but texts.

    Raises:
      ValueError: the folder holds a world of other settings, or another process makes one there.
    """
    counts = {"scenes": scenes, "small_print": small_print, "videos": videos, "episodes": episodes, "texts": texts}
    kinds = ("native scenes", "small print", "videos", "episodes", "native texts")
    planned = [(name, kind, False, count) for (name, count), kind in zip(counts.items(), kinds)]
    planned += [(f"held_out/{name}", kind, True, count) for name, kind, count in zip(counts, kinds, held_out)]
    sources = [Source(*source, stream) for stream, source in enumerate(planned)]
    _make_sources(Path(folder), sources, NATIVE_VERSION, seed, workers, progress)


HELD_OUT_EPISODES = "held_out/episodes"


def held_out_screens(folder: Path, share: float = 1.0) -> dict[str, Screen]:
    """The first screens of a share of the held-out episodes of the world in `folder`, by the keys of their records; none
    where it has no such episodes. They are made again from the seed: what is stored are the expert's ways.
    """
    path = Path(folder) / SETTINGS
    settings = json.loads(path.read_text()) if path.is_file() else {"records": {}}
    if HELD_OUT_EPISODES not in settings["records"]:
        return {}
    stream, count = list(settings["records"]).index(HELD_OUT_EPISODES), settings["records"][HELD_OUT_EPISODES]
    return {
        f"{HELD_OUT_EPISODES}/{index:06d}": sample_screen(
            np.random.default_rng([settings["seed"], stream, index]), True
        )
        for index in range(round(share * count))
    }


def _make_sources(
    folder: Path, sources: list[Source], version: int, seed: int, workers: int, progress: Progress
) -> None:
    settings = {"version": version, "seed": seed, "records": {s.folder: s.records for s in sources}}
    _check_settings(folder, settings)
    if _complete(folder, sources):
        return  # also where the folder cannot be written
    with only_writer(folder), ordered_map(workers) as over:
        _check_settings(folder, settings)
        written = folder / f"{SETTINGS}.partial"
        written.write_text(json.dumps(settings, indent=1))
        written.replace(folder / SETTINGS)
        for source in sources:
            if not (folder / source.folder).exists():
                every = range(source.records)
                jobs = [every[start : start + RECORDS_PER_JOB] for start in every[::RECORDS_PER_JOB]]
                made = over(partial(_make_records, seed, source), jobs)
                write_shards(folder / source.folder, _reported(source, made, progress))


def _complete(folder: Path, sources: list[Source]) -> bool:
    return (folder / SETTINGS).exists() and all((folder / source.folder).exists() for source in sources)


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / SETTINGS
    if path.exists() and (found := json.loads(path.read_text())) != settings:
        raise ValueError(
            f"{folder} holds a world of other settings ({found}, asked for {settings}): "
            "remove the folder, or choose another one"
        )


def _reported(source: Source, made: Iterator[list[Record]], progress: Progress) -> Iterator[Record]:
    done = 0
    for records in made:
        yield from records
        done += len(records)
        progress(source.folder, done, source.records)
