"""The parts of a step, and which of them an operation belongs to."""

import re

PARTS = ("vision", "adapter", "merger", "language", "loss", "optimizer")
"""Names that models and the step give with `jax.named_scope`."""
OTHER = "other"
_PART = re.compile(r"(?:^|[/(])(" + "|".join(PARTS) + r")(?=[/)]|$)")


def part_of(scope: str) -> str:
    """The outermost part named in a scope such as `jit(step)/transpose(jvp(language))/while/body`."""
    found = _PART.search(scope)
    return found.group(1) if found else OTHER
