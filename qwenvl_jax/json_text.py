"""Reading of JSON that others wrote."""

import json
from typing import Any


def read_json(text: str | bytes) -> Any:
    """What `json.loads` gives, with one kind of error.

    Raises:
      ValueError: this is no JSON, no UTF-8, or nested more deeply than Python reads (some 1,000 levels; the standard
        library's RecursionError is none of the errors that callers expect of bad data).
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
