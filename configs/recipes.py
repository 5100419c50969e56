"""The recipes by name."""

from collections.abc import Callable

from configs import qwen2_vl
from configs.qwen_7b import qwen_7b
from configs.qwen_vl import qwen_vl
from configs.tiny import tiny
from configs.tiny_qwen2 import tiny_qwen2
from qwenvl_jax.config import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "tiny": tiny,
    "tiny-qwen2": tiny_qwen2,
    "qwen-vl": qwen_vl,
    **qwen2_vl.SIZES,
    "qwen-7b": qwen_7b,
}


def recipe(name: str) -> Run:
    """The run of that name.

    Raises:
      ValueError: there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; recipes: {', '.join(RECIPES)}")
    return RECIPES[name]()
