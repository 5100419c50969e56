"""`qwenvl data VERB`: makes the worlds that the tiny recipes learn and their vocabularies; indexes, cleans, shows data."""

from importlib import import_module

VERBS = {
    # verb -> (module, what it does). Loaded on demand: cleaning with Beam has an environment without what the others need.
    "make": ("launch.make", "make synthetic, make native, make vocabulary: the worlds that the tiny recipes learn"),
    "index": ("launch.index", "the index of a source and its samples' lengths, ahead of a run"),
    "clean": ("launch.clean", "tars of img2dataset, or PDFs, through the paper's rules into shards"),
    "inspect": ("launch.inspect", "one page on what a recipe or a path would train on"),
}


def data(arguments: list[str]) -> None:
    """Raises ValueError for an unknown verb, or what the verb raises."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb not in VERBS:
        raise ValueError(f"qwenvl data knows {'; '.join(f'{name}: {what}' for name, (_, what) in VERBS.items())}")
    import_module(VERBS[verb][0]).main(rest)
