"""Promises of `qwenvl_jax.config`: a run's JSON is all of it."""

import json

import pytest

from configs.recipes import RECIPES
from qwenvl_jax.config import from_json, to_json


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    """config.json in a workdir restores the run that wrote it, with tuples and nested dataclasses."""
    run = RECIPES[name]()
    assert from_json(to_json(run)) == run


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("{", "no configuration"),
        ("[]", "no configuration"),
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
