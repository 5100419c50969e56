"""qwenvl_jax: training Qwen-VL on TPU and GPU meshes. `load(folder).answer(prompts, max_new_tokens)` talks to a model."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Loaded on demand: the loader's worker processes import qwenvl_jax.batch, and must not pay for JAX.
    if name == "load":
        from qwenvl_jax.inference.loading import load

        return load
    raise AttributeError(f"module 'qwenvl_jax' has no attribute {name!r}")
