"""`config.json` of a run: every field, written as it is and read with its type checked."""

import dataclasses
import json
from dataclasses import MISSING
from typing import Any, get_args, get_origin, get_type_hints

from qwenvl_jax.config import ARCHITECTURES, ModelConfig, Run
from qwenvl_jax.json_text import read_json


def to_json(run: Run) -> str:
    """The whole run as indented JSON; `model.architecture` tells which model it is."""
    fields = dataclasses.asdict(run)
    name = next(name for name, kind in ARCHITECTURES.items() if kind is type(run.model))
    fields["model"] = {"architecture": name, **fields["model"]}
    return json.dumps(fields, indent=1, ensure_ascii=False)


def from_json(text: str) -> Run:
    """The inverse of `to_json`.

    Raises:
      ValueError: a field without default is missing, one is unknown (a file of another version), or one holds a value of
        another type; the sentence names it.
    """
    try:
        content = read_json(text)
    except ValueError as error:
        raise ValueError(f"this is no configuration of a run: {error}") from error
    run: Run = _read(Run, content, "run")
    return run


PLAIN: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (float, int), str: (str,)}
"""Type of a field -> types of the JSON values that it takes."""


def _read(kind: Any, value: Any, place: str) -> Any:
    """A JSON value as the annotated type: dataclasses, tuples of one type, a model of any kind, and plain values."""
    accepted: tuple[type, ...] = PLAIN.get(kind, (list,) if get_origin(kind) is tuple else (dict,))
    if type(value) not in accepted:
        names = {
            bool: "true or false",
            int: "an integer",
            float: "a number",
            str: "a text",
            list: "a list",
            dict: "a group",
        }
        raise ValueError(f"{place} is {_shortened(value)} and should be {names[accepted[0]]}: correct it there")
    if kind == ModelConfig:
        name = value.get("architecture")
        if not isinstance(name, str) or name not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ValueError(
                f"{place}.architecture is {name!r}, none of {known}: the configuration is of another version"
            )
        return _read(ARCHITECTURES[name], {key: item for key, item in value.items() if key != "architecture"}, place)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        # A field that came later has a default that does what was done before; so older runs can be read.
        needed = {f.name for f in dataclasses.fields(kind) if f.default is MISSING and f.default_factory is MISSING}
        for name in sorted((value.keys() - hints.keys()) | (needed - value.keys())):
            problem = "is missing" if name in hints else "is unknown"
            raise ValueError(f"{place}.{name} {problem}: the configuration is of another version, write it again")
        return kind(**{name: _read(hints[name], item, f"{place}.{name}") for name, item in value.items()})  # type: ignore[operator]
    if get_origin(kind) is tuple:
        return tuple(_read(get_args(kind)[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    return value


def _shortened(value: Any) -> str:
    written = json.dumps(value)
    return written if len(written) <= 60 else f"{written[:57]}..."
