"""Promises of `qwenvl_jax.config_json`: a run's JSON is all of it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.recipes import RECIPES
from qwenvl_jax.config import Run
from qwenvl_jax.config_json import from_json, to_json


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    """config.json in a workdir restores the run that wrote it, with tuples and nested dataclasses."""
    run = RECIPES[name]()
    assert from_json(to_json(run)) == run


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("{", "no configuration"),
        ("[" * 100_000, "no configuration"),
        ("[]", r"run is \[\] and should be a group"),
        ('{"name": "x"}', r"run\.\w+ is missing"),
    ],
)
def test_other_files_are_refused_in_a_sentence(text: str, sentence: str) -> None:
    """Broken JSON, another JSON and a run without its fields are ValueErrors that say so."""
    with pytest.raises(ValueError, match=sentence):
        from_json(text)


def test_an_unknown_field_is_named_with_its_place() -> None:
    """A field of another version is named by its path."""
    run = json.loads(to_json(RECIPES["tiny"]()))
    run["stages"][1]["parameters"][0]["momentum"] = 1
    with pytest.raises(ValueError, match=r"run\.stages\[1\]\.parameters\[0\]\.momentum is unknown"):
        from_json(json.dumps(run))


def test_a_field_that_came_later_takes_its_default() -> None:
    """config.json of an older version, without a field that has a default, is read."""
    run = json.loads(to_json(RECIPES["tiny"]()))
    del run["optimizer"]["skip_above"], run["log_every"], run["stages"][0]["accumulation"]
    assert from_json(json.dumps(run)).optimizer == RECIPES["tiny"]().optimizer
    assert from_json(json.dumps(run)).stages[0].accumulation == 1


@pytest.mark.parametrize(
    "place, value, sentence",
    [
        (("model", "language", "width"), "wide", r'run\.model\.language\.width is "wide" and should be an integer'),
        (("stages", 0, "steps"), 1.5, r"run\.stages\[0\]\.steps is 1.5 and should be an integer"),
        (("stages",), "all", r'run\.stages is "all" and should be a list'),
        (("model", "architecture"), ["x"], r"architecture is \['x'\], none of"),
        (("log_every",), True, "should be an integer"),
        (("name",), None, "run.name is null and should be a text"),
    ],
)
def test_a_value_of_another_type_is_named(place: tuple, value: Any, sentence: str) -> None:
    """A config.json that was edited by hand is told where it is wrong, before anything is built from it."""
    run = json.loads(to_json(RECIPES["tiny"]()))
    changed(run, place, value)
    with pytest.raises(ValueError, match=sentence):
        from_json(json.dumps(run))


def changed(tree: Any, place: tuple, value: Any) -> None:
    """Sets a value in a tree of JSON."""
    for name in place[:-1]:
        tree = tree[name]
    tree[place[-1]] = value


def places(tree: Any, above: tuple = ()) -> list[tuple]:
    """All nodes below the root."""
    if not isinstance(tree, dict | list):
        return []
    named = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [place for name, item in named for place in ((*above, name), *places(item, (*above, name)))]


PLACES = places(json.loads(to_json(RECIPES["tiny-qwen2"]())))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_any_json_is_a_run_or_a_sentence(changes: list[tuple[tuple, Any]]) -> None:
    """Fuzz: whatever stands in a config.json, reading it gives a run, which is written as it was read, or a ValueError."""
    tree = json.loads(to_json(RECIPES["tiny-qwen2"]()))
    for place, value in sorted(changes, key=lambda change: -len(change[0])):
        changed(tree, place, value)
    try:
        run = from_json(json.dumps(tree))
    except ValueError:
        return
    assert isinstance(run, Run)
    assert to_json(from_json(to_json(run))) == to_json(run)
