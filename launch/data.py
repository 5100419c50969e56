"""`qwenvl data make`: the small world that recipe `tiny` learns, and its vocabulary."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.progress import Progress

from data_pipelines.synthetic.vocabulary import LEAST_COUNT, learn_merges, scene_texts, to_tiktoken
from data_pipelines.synthetic.world import make_world
from qwenvl_jax.processing.tokenizer import WORLD_FILE


@dataclass(frozen=True)
class MakeOptions:
    """Makes data; what is there already is kept."""

    world: tyro.conf.Positional[Literal["synthetic"]]
    folder: Path = Path("data/tiny")
    """Gets the sources and their held-out counterparts."""
    seed: int = 0
    scenes: int = 20_000
    documents: int = 16_000
    chats: int = 5_000
    texts: int = 10_000
    workers: int = 2
    """Processes; the world is the same for every number."""


def data(arguments: list[str]) -> None:
    """Raises ValueError for an unknown verb, or a folder that holds another world."""
    if arguments == ["make", "vocabulary"]:
        WORLD_FILE.write_text(to_tiktoken(learn_merges(scene_texts(), LEAST_COUNT)))
        print(f"vocabulary: {WORLD_FILE}")
        return
    if arguments[:1] != ["make"]:
        raise ValueError("qwenvl data knows two verbs: make synthetic, make vocabulary")
    options = tyro.cli(MakeOptions, args=arguments[1:], prog="qwenvl data make")
    with Progress() as progress:
        bars: dict = {}

        def show(source: str, done: int, total: int) -> None:
            if source not in bars:
                bars[source] = progress.add_task(source, total=total)
            progress.update(bars[source], completed=done)

        make_world(
            options.folder,
            seed=options.seed,
            scenes=options.scenes,
            documents=options.documents,
            chats=options.chats,
            texts=options.texts,
            workers=options.workers,
            progress=show,
        )
    print(f"data: {options.folder}")
