"""A training step of `tiny` beside the same in PyTorch, in one run: `python -m launch.benchmarks.tiny_step`.

The same samples of its stage `multitask`: ours packed and padded one to a row, in PyTorch eager
(`launch/benchmarks/torch_qwen_vl.py`) padded one to a row; forward, backward, clipping and AdamW of all that learns, in
float32, in turns. The ViT has the published activation, and pixels are decoded before. The losses show that all compute one
thing.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from torch.nn.functional import cross_entropy

from configs.tiny import MODEL, tiny
from launch.benchmarks.compared_steps import Prepared, StepOptions, compare, text_inputs, torch_step
from launch.benchmarks.torch_qwen_vl import TorchQwenVL
from qwenvl_jax.config import ParameterRule, QwenVLConfig
from qwenvl_jax.models.parameters import Parameters
from qwenvl_jax.models.qwen_vl.weights import layout
from qwenvl_jax.models.weights import to_original
from qwenvl_jax.processing.encoders import Encoder
from qwenvl_jax.processing.images import normalize

LEARNED = (ParameterRule(r"adapter/position", frozen=True), ParameterRule(".*"))
"""The adapter's positions are fixed in the original too."""
FIXED = "visual.attn_pool.pos_embed"


def theirs(
    model: QwenVLConfig, encoder: Encoder, parameters: Parameters, samples: list[Prepared]
) -> Callable[[], float]:
    """The same in PyTorch: rows padded to the longest; gives the loss."""
    weights = {name: torch.tensor(np.asarray(array)) for name, array in to_original(parameters, layout(model)).items()}
    fields = {
        "num_attention_heads": model.language.heads, "num_hidden_layers": model.language.layers,
        "rotary_emb_base": model.language.rope_base,
        "visual": {
            "heads": model.vision.heads, "layers": model.vision.layers, "image_start_id": encoder.tokenizer.image_start_id,
        },
    }  # fmt: skip
    net = TorchQwenVL(weights, fields)
    learned = [weight.requires_grad_() for name, weight in net.weights.items() if name != FIXED]
    ids, mask, labels = text_inputs(samples, encoder.tokenizer.eod_id)
    pixels = np.stack([normalize(picture) for sample in samples for picture in sample.pixels])
    images = torch.as_tensor(pixels).permute(0, 3, 1, 2)

    def loss() -> torch.Tensor:
        logits, _ = net(net.embed(ids, net.encode_images(images)), mask)
        return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    return torch_step(learned, loss)


def main() -> None:
    options = tyro.cli(StepOptions, default=StepOptions(Path("data/tiny")))
    model = dataclasses.replace(MODEL, vision=dataclasses.replace(MODEL.vision, activation="gelu"))
    run = dataclasses.replace(tiny(), model=model)
    compare(run, LEARNED, "PyTorch eager, one to a row", partial(theirs, model), options)


if __name__ == "__main__":
    main()
