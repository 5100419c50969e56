"""qwenvl_jax: training Qwen-VL on TPU and GPU meshes.

`model, processor = load(folder)` opens a checkpoint, `generate(model, processor, queries)` asks it, `stream` gives one
answer in pieces, `Chat(model, processor)` is a conversation.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    # name -> module. Loaded on demand: the loader's worker processes import qwenvl_jax.batch, and must not pay for JAX.
    "load": "qwenvl_jax.inference.loading",
    "generate": "qwenvl_jax.inference.generate",
    "stream": "qwenvl_jax.inference.generate",
    "Chat": "qwenvl_jax.inference.chat",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'qwenvl_jax' has no attribute {name!r}")
