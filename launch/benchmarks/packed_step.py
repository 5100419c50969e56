"""Training steps of Qwen2-VL on the same samples: packed, padded one to a row, and by transformers in PyTorch.

`python -m launch.benchmarks.packed_step [--data DIR] [--rows N] [--repeats N]` prints samples/s of each, measured in turns
in one process, so that a busy machine slows all of them: forward, backward, clipping and AdamW of all parameters in float32,
for the model of `tiny-qwen2` with the published activation. Pixels are decoded before. The losses show that all compute one
thing.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from transformers import Qwen2VLConfig as TheirConfig
from transformers import Qwen2VLForConditionalGeneration

from configs.tiny_qwen2 import MODEL, tiny_qwen2
from launch.benchmarks.compared_steps import Prepared, StepOptions, compare, text_inputs, torch_step
from qwenvl_jax.config import ParameterRule, Qwen2VLConfig
from qwenvl_jax.models.parameters import Parameters
from qwenvl_jax.models.qwen2_vl.weights import layout
from qwenvl_jax.models.weights import to_original
from qwenvl_jax.processing.encoders import Encoder
from qwenvl_jax.processing.patches import normalize_patches, patchify
from qwenvl_jax.processing.qwen2_tokens import VIDEO_PAD


def theirs(
    model: Qwen2VLConfig, encoder: Encoder, parameters: Parameters, samples: list[Prepared]
) -> Callable[[], float]:
    """The same in PyTorch with transformers: rows padded to the longest, patches behind each other; gives the loss."""
    special = encoder.tokenizer.special_tokens
    vision, language = model.vision, model.language
    config = TheirConfig(
        vision_config={
            "depth": vision.layers, "embed_dim": vision.width, "num_heads": vision.heads,
            "mlp_ratio": vision.mlp_width / vision.width, "hidden_size": language.width,
            "spatial_patch_size": vision.patch, "patch_size": vision.patch,
        },
        vocab_size=language.vocab_size, hidden_size=language.width, num_hidden_layers=language.layers,
        num_attention_heads=language.heads, num_key_value_heads=language.kv_heads,
        intermediate_size=language.mlp_width, rms_norm_eps=language.norm_eps, rope_theta=language.rope_base,
        rope_scaling={"type": "mrope", "mrope_section": list(language.mrope_sections)},
        tie_word_embeddings=language.tied, pad_token_id=encoder.tokenizer.eod_id,
        vision_start_token_id=encoder.tokenizer.image_start_id, vision_end_token_id=encoder.tokenizer.image_end_id,
        image_token_id=encoder.tokenizer.image_pad_id, video_token_id=special[VIDEO_PAD],
        attn_implementation="sdpa",
    )  # fmt: skip
    net = Qwen2VLForConditionalGeneration(config).float().train()
    tensors = {name: torch.tensor(np.asarray(array)) for name, array in to_original(parameters, layout(model)).items()}
    moved = {
        f"model.{name}" if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in tensors.items()
    }
    net.load_state_dict(moved)
    inputs = padded_inputs(samples, encoder.tokenizer.eod_id)
    return torch_step([*net.parameters()], lambda: net(**inputs, use_cache=False).loss)


def padded_inputs(samples: list[Prepared], pad: int) -> dict[str, torch.Tensor]:
    """What the original is called with, its labels too."""
    ids, mask, labels = text_inputs(samples, pad)
    found: dict[str, list] = {"pixel_values": [], "image_grid_thw": [], "pixel_values_videos": [], "video_grid_thw": []}
    for encoded, visuals in samples:
        for grid, frames in zip(encoded.grids, visuals):
            kind = ("pixel_values", "image_grid_thw") if grid.frames == 1 else ("pixel_values_videos", "video_grid_thw")
            found[kind[0]].append(normalize_patches(patchify(frames)))
            found[kind[1]].append([grid])
    arrays = {name: torch.as_tensor(np.concatenate(parts)) for name, parts in found.items() if parts}
    return arrays | {"input_ids": ids, "attention_mask": mask, "labels": labels}


def main() -> None:
    options = tyro.cli(StepOptions, default=StepOptions(Path("data/tiny-qwen2")))
    model = dataclasses.replace(MODEL, vision=dataclasses.replace(MODEL.vision, activation="quick_gelu"))
    run = dataclasses.replace(tiny_qwen2(), model=model)
    compare(run, (ParameterRule(".*"),), "transformers, PyTorch eager", partial(theirs, model), options)


if __name__ == "__main__":
    main()
