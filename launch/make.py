"""`qwenvl data make WORLD`: the worlds that the tiny recipes learn; `make vocabulary`: the vocabularies of their texts."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.progress import Progress

from data_pipelines.synthetic.vocabulary import CORPORA, LEAST_COUNT, learn_merges, to_tiktoken
from data_pipelines.synthetic.world import make_native_world, make_world
from qwenvl_jax.processing.tokenizer import EMBEDDED


@dataclass(frozen=True)
class WorldOptions:
    """What any world is made with."""

    seed: int = 0
    scenes: int = 30_000
    texts: int = 20_000
    workers: int = 2
    """Processes; the world is the same for every number."""


@dataclass(frozen=True)
class SyntheticOptions(WorldOptions):
    """Makes the world of `tiny`; what is there already is kept."""

    folder: Path = Path("data/tiny")
    """Gets the sources and their held-out counterparts."""
    documents: int = 16_000
    chats: int = 12_000


@dataclass(frozen=True)
class NativeOptions(WorldOptions):
    """Makes the native world of `tiny-qwen2`; what is there already is kept."""

    folder: Path = Path("data/tiny-qwen2")
    """Gets the sources and their held-out counterparts."""
    small_print: int = 20_000
    videos: int = 16_000
    episodes: int = 8_000


WORLDS: dict[str, tuple[type[WorldOptions], Callable[..., None]]] = {
    "synthetic": (SyntheticOptions, make_world),
    "native": (NativeOptions, make_native_world),
}
"""World: the options of making it, and what makes it."""


def main(arguments: list[str]) -> None:
    """Raises ValueError for an unknown world, or where the folder holds another one."""
    if arguments == ["vocabulary"]:
        for name, texts in CORPORA.items():
            EMBEDDED[name].write_text(to_tiktoken(learn_merges(texts(), LEAST_COUNT)))
            print(f"vocabulary: {EMBEDDED[name]}")
    elif arguments and arguments[0] in WORLDS:
        make(*WORLDS[arguments[0]], arguments[1:])
    else:
        raise ValueError(f"qwenvl data make knows {', '.join((*WORLDS, 'vocabulary'))}")


def make(kind: type[WorldOptions], make_it: Callable[..., None], arguments: list[str]) -> None:
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
