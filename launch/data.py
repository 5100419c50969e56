"""`qwenvl data VERB`: makes the small world that recipe `tiny` learns and its vocabulary; cleans and shows data."""

from dataclasses import dataclass
from importlib import import_module
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
    scenes: int = 30_000
    documents: int = 16_000
    chats: int = 12_000
    texts: int = 20_000
    workers: int = 2
    """Processes; the world is the same for every number."""


VERBS = {
    # verb -> (module, what it does)
    "clean": ("launch.clean", "tars of img2dataset through the paper's rules into shards"),
    "inspect": ("launch.inspect", "one page on what a recipe or a path would train on"),
}


def data(arguments: list[str]) -> None:
    """Raises ValueError for an unknown verb, or what the verb raises."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb in VERBS:
        import_module(VERBS[verb][0]).main(rest)
    elif arguments == ["make", "vocabulary"]:
        WORLD_FILE.write_text(to_tiktoken(learn_merges(scene_texts(), LEAST_COUNT)))
        print(f"vocabulary: {WORLD_FILE}")
    elif verb == "make":
        make(rest)
    else:
        verbs = "".join(f"; {name}: {what}" for name, (_, what) in VERBS.items())
        raise ValueError(f"qwenvl data knows make synthetic, make vocabulary{verbs}")


def make(arguments: list[str]) -> None:
    """Raises ValueError where the folder holds another world."""
    options = tyro.cli(MakeOptions, args=arguments, prog="qwenvl data make")
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
