"""Decode speed beside the same greedy loop in PyTorch, in one run: `python -m launch.benchmarks.decode`.

Random weights in float32, prompts of text, a KV cache in both. The two take turns, so that a busy machine slows both.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from launch.benchmarks.torch_qwen_vl import TorchQwenVL
from qwenvl_jax.config import PrecisionConfig, QwenVLConfig
from qwenvl_jax.conversion import original_config
from qwenvl_jax.inference.decode import advance, prefill
from qwenvl_jax.models.parameters import Parameters, build
from qwenvl_jax.models.qwen_vl.weights import layout
from qwenvl_jax.models.weights import to_original

PROMPT, NEW_TOKENS, REPEATS = 64, 64, 5
ROWS = (1, 8)

_COMMON = {
    "kv_channels": 128, "rotary_emb_base": 10000, "seq_length": 2048, "use_dynamic_ntk": True, "use_logn_attn": True,
    "layer_norm_epsilon": 1e-6, "no_bias": True, "tie_word_embeddings": False, "rotary_pct": 1.0,
}  # fmt: skip
_VISUAL = {"image_size": 448, "image_start_id": 400, "mlp_ratio": 4.9231, "patch_size": 14}
SIZES: dict[str, dict] = {
    # name -> config.json of the original
    "reference file": {
        **_COMMON, "vocab_size": 512, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1,
        "intermediate_size": 352, "visual": {**_VISUAL, "heads": 4, "layers": 2, "output_dim": 128, "width": 64},
    },
    "200 M": {
        **_COMMON, "vocab_size": 32000, "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8,
        "intermediate_size": 5632, "visual": {**_VISUAL, "heads": 8, "layers": 8, "output_dim": 1024, "width": 512},
    },
}  # fmt: skip


def random_parameters(shapes: dict[str, jax.ShapeDtypeStruct]) -> Parameters:
    """N(0, 0.05), around one for the scales of norms."""
    rng = np.random.default_rng(0)
    return {
        path: jnp.asarray(0.05 * rng.standard_normal(s.shape, np.float32) + path.endswith("scale"))
        for path, s in shapes.items()
    }


def ours(config: QwenVLConfig, parameters: Parameters) -> Callable[[np.ndarray], np.ndarray]:
    """Prompts [B, S] -> greedy tokens [B, NEW_TOKENS], compiled once per shape."""
    architecture = build(config, PrecisionConfig(compute="float32"))
    none, limit = jnp.zeros(0, jnp.int32), jnp.int32(NEW_TOKENS - 1)

    @partial(jax.jit, static_argnames="rows")
    def inputs(ids: jax.Array, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        positions = jnp.broadcast_to(jnp.arange(PROMPT), (rows, PROMPT))
        return architecture.assemble(parameters).language.embed(ids), positions, jnp.ones_like(positions)

    def greedy(ids: np.ndarray) -> np.ndarray:
        vocabulary = config.language.vocab_size
        state = prefill(
            architecture, parameters, *inputs(ids, len(ids)), None, new_tokens=NEW_TOKENS, vocabulary=vocabulary
        )
        first = np.asarray(state.token)[:, None]
        _, rest = advance(
            architecture, parameters, state, None, none, limit, steps=NEW_TOKENS - 1, vocabulary=vocabulary
        )
        return np.concatenate([first, np.asarray(rest)], axis=1)

    return greedy


def theirs(fields: dict, config: QwenVLConfig, parameters: Parameters) -> Callable[[np.ndarray], np.ndarray]:
    """The same in PyTorch, eager."""
    weights = {name: torch.tensor(np.asarray(array)) for name, array in to_original(parameters, layout(config)).items()}
    model = TorchQwenVL(weights, fields)

    def greedy(ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            prompt = torch.tensor(ids)
            return model.greedy(model.embed(prompt), torch.ones_like(prompt), NEW_TOKENS).numpy()

    return greedy


def seconds(run: Callable[[np.ndarray], np.ndarray], ids: np.ndarray) -> float:
    began = time.perf_counter()
    run(ids)
    return time.perf_counter() - began


def main() -> None:
    threads = torch.get_num_threads()
    print(f"prompts of {PROMPT} tokens, {NEW_TOKENS} new ones, float32, {threads} threads, median of {REPEATS}\n")
    print("| model | parameters | rows | ours, tokens/s | PyTorch, tokens/s | ratio | same tokens |")
    print("|---|---|---|---|---|---|---|")
    for name, fields in SIZES.items():
        config = original_config.from_original(fields, Path("config.json"))
        shapes = build(config, PrecisionConfig()).shapes
        parameters = random_parameters(shapes)
        both = ours(config, parameters), theirs(fields, config, parameters)
        for rows in ROWS:
            ids = np.random.default_rng(rows).integers(0, 400, (rows, PROMPT))
            same = np.mean(both[0](ids) == both[1](ids))  # and the first call compiles
            times = [[seconds(run, ids) for run in both] for _ in range(REPEATS)]
            speeds = [rows * NEW_TOKENS / statistics.median(column) for column in zip(*times)]
            size = sum(shape.size for shape in shapes.values())
            print(
                f"| {name} | {size / 1e6:.1f} M | {rows} | {speeds[0]:.0f} | {speeds[1]:.0f} | "
                f"{speeds[0] / speeds[1]:.2f} | {same:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
