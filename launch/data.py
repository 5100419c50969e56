"""`qwenvl data VERB`: makes the worlds that the tiny recipes learn and their vocabularies; indexes, cleans, shows data."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import tyro
from rich.progress import Progress

from data_pipelines.synthetic.vocabulary import CORPORA, LEAST_COUNT, learn_merges, to_tiktoken
from data_pipelines.synthetic.world import make_native_world, make_world
from qwenvl_jax.processing.tokenizer import EMBEDDED


@dataclass(frozen=True)
class SyntheticOptions:
    """Makes the world of `tiny`; what is there already is kept."""

    folder: Path = Path("data/tiny")
    """Gets the sources and their held-out counterparts."""
    seed: int = 0
    scenes: int = 30_000
    documents: int = 16_000
    chats: int = 12_000
    texts: int = 20_000
    workers: int = 2
    """Processes; the world is the same for every number."""


@dataclass(frozen=True)
class NativeOptions:
    """Makes the native world of `tiny-qwen2`; what is there already is kept."""

    folder: Path = Path("data/tiny-qwen2")
    """Gets the sources and their held-out counterparts."""
    seed: int = 0
    scenes: int = 30_000
    small_print: int = 20_000
    videos: int = 16_000
    episodes: int = 8_000
    texts: int = 20_000
    workers: int = 2
    """Processes; the world is the same for every number."""


WORLDS: dict[str, tuple[type, Callable[..., None]]] = {
    "synthetic": (SyntheticOptions, make_world),
    "native": (NativeOptions, make_native_world),
}
"""World: the options of making it, and what makes it."""

VERBS = {
    # verb -> (module, what it does)
    "index": ("launch.index", "the index of a source and its samples' lengths, ahead of a run"),
    "clean": ("launch.clean", "tars of img2dataset, or PDFs, through the paper's rules into shards"),
    "inspect": ("launch.inspect", "one page on what a recipe or a path would train on"),
}


def data(arguments: list[str]) -> None:
    """Raises ValueError for an unknown verb, or what the verb raises."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb in VERBS:
        import_module(VERBS[verb][0]).main(rest)
    elif arguments == ["make", "vocabulary"]:
        for name, texts in CORPORA.items():
            EMBEDDED[name].write_text(to_tiktoken(learn_merges(texts(), LEAST_COUNT)))
            print(f"vocabulary: {EMBEDDED[name]}")
    elif verb == "make" and rest and rest[0] in WORLDS:
        make(*WORLDS[rest[0]], rest[1:])
    else:
        worlds = ", ".join(f"make {name}" for name in (*WORLDS, "vocabulary"))
        verbs = "".join(f"; {name}: {what}" for name, (_, what) in VERBS.items())
        raise ValueError(f"qwenvl data knows {worlds}{verbs}")


def make(kind: type, make_it: Callable[..., None], arguments: list[str]) -> None:
    """Raises ValueError where the folder holds another world."""
    options: Any = tyro.cli(kind, args=arguments, prog="qwenvl data make WORLD")
    with Progress() as progress:
        bars: dict = {}

        def show(source: str, done: int, total: int) -> None:
            if source not in bars:
                bars[source] = progress.add_task(source, total=total)
            progress.update(bars[source], completed=done)

        make_it(progress=show, **asdict(options))
    print(f"data: {options.folder}")
