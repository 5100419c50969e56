"""Parity at sizes that the reference files lack: several heads everywhere, and a head size that is no power of two.

Against `launch.benchmarks.torch_qwen_vl`, which a test here holds to the original's outputs first: with a single head the
reference file cannot tell (head, size) from (size, head).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from reference_outputs import Reference, embed, text_of
from small_model import random_parameters

from launch.benchmarks.torch_qwen_vl import TorchQwenVL
from qwenvl_jax.config import PrecisionConfig
from qwenvl_jax.conversion import original_config
from qwenvl_jax.models.parameters import build
from qwenvl_jax.models.qwen_vl.weights import layout
from qwenvl_jax.models.weights import to_original

TOLERANCE = 5e-5
"""Absolute, as for the reference files."""


@pytest.fixture(autouse=True)
def _exact_matmuls():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield


def outputs_of(model: TorchQwenVL, pixels, ids, mask) -> tuple[np.ndarray, np.ndarray]:
    """(vision tokens [K, Q, D], logits [B, S, V])."""
    vision = model.encode_images(torch.tensor(pixels))
    logits, _ = model(model.embed(torch.as_tensor(ids), vision), torch.tensor(mask))
    return vision.numpy(), logits.numpy()


def test_the_torch_model_is_the_original(golden) -> None:
    """Vision tokens, logits and greedy tokens of the reference files."""
    weights = {name: torch.tensor(array) for name, array in golden.below("w/").items()}
    model = TorchQwenVL(weights, golden.hf_config)
    pixels = golden["pixels_448_i8"].astype(np.float32) / 32
    ids, mask = torch.tensor(golden["ids_batch"]), golden["mask_batch"]
    vision, logits = outputs_of(model, pixels, ids, mask)
    assert np.abs(vision - golden["vis_448"]).max() <= TOLERANCE
    assert np.abs(logits - golden["logits_batch"])[mask == 1].max() <= TOLERANCE
    x = model.embed(ids, torch.tensor(vision))
    tokens = model.greedy(x, torch.tensor(mask), golden["greedy_tokens"].shape[1])
    assert np.array_equal(tokens, golden["greedy_tokens"])


def test_several_heads(golden) -> None:
    """Two heads in the adapter and in the language model, three of 20 in the encoder, patches of 28 pixels."""
    visual = golden.hf_config["visual"] | {"width": 60, "heads": 3, "output_dim": 256, "patch_size": 28, "layers": 1}
    sizes = {"hidden_size": 256, "num_attention_heads": 2, "intermediate_size": 96, "num_hidden_layers": 3}
    hf_config = golden.hf_config | sizes | {"visual": visual}
    config = original_config.from_original(hf_config, Path("config.json"))
    architecture = build(config, PrecisionConfig(compute="float32"))
    # A quarter of the small model's spread: at these widths outputs are then of order one, as the reference files' are.
    parameters = {
        path: array if path.endswith("scale") else array / 4 for path, array in random_parameters(architecture).items()
    }
    weights = {name: torch.tensor(array) for name, array in to_original(parameters, layout(config)).items()}
    pixels = np.random.default_rng(0).normal(size=(3, 3, 448, 448)).astype(np.float32)
    vision, logits = outputs_of(TorchQwenVL(weights, hf_config), pixels, golden["ids_batch"], golden["mask_batch"])

    text = text_of(Reference(golden.arrays, hf_config, config))
    module = architecture.assemble(jax.tree.map(jnp.asarray, parameters))

    @jax.jit
    def ours(pixels):
        hidden = module.language(embed(module, pixels, text), text.positions, text.segments)
        return module.adapter(module.vision(pixels)), module.language.head(hidden)

    our_vision, our_logits = ours(pixels.transpose(0, 2, 3, 1))
    assert np.abs(our_vision - vision).max() <= TOLERANCE
    assert np.abs(our_logits - logits)[text.segments == 1].max() <= TOLERANCE
