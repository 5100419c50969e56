"""Qwen2-VL in transformers with random weights, for comparisons."""

from typing import NamedTuple

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from qwenvl_jax.config import Qwen2VLConfig as OurConfig


class SpecialIds(NamedTuple):
    """Ids that the original's configuration names."""

    pad: int
    vision_start: int
    vision_end: int
    image_pad: int
    video_pad: int


def original_config(ours: OurConfig, ids: SpecialIds) -> Qwen2VLConfig:
    """The original's configuration of a model of ours."""
    vision, language = ours.vision, ours.language
    return Qwen2VLConfig(
        vision_config={
            "depth": vision.layers, "embed_dim": vision.width, "num_heads": vision.heads,
            "mlp_ratio": vision.mlp_width / vision.width, "hidden_size": language.width, "spatial_patch_size": 14,
        },
        vocab_size=language.vocab_size, hidden_size=language.width, num_hidden_layers=language.layers,
        num_attention_heads=language.heads, num_key_value_heads=language.kv_heads,
        intermediate_size=language.mlp_width, rms_norm_eps=language.norm_eps, rope_theta=language.rope_base,
        rope_scaling={"type": "mrope", "mrope_section": list(language.mrope_sections)},
        tie_word_embeddings=language.tied, pad_token_id=ids.pad, vision_start_token_id=ids.vision_start,
        vision_end_token_id=ids.vision_end, image_token_id=ids.image_pad, video_token_id=ids.video_pad,
        attn_implementation="sdpa",
    )  # fmt: skip


def random_original(ours: OurConfig, ids: SpecialIds) -> Qwen2VLForConditionalGeneration:
    """Kernels N(0, 1 / fan-in), biases N(0, 0.2), scales of norms around one: activations and logits of order one."""
    torch.set_num_threads(1)
    model = Qwen2VLForConditionalGeneration(original_config(ours, ids)).float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            scale = (tensor.numel() / len(tensor)) ** -0.5 if tensor.ndim > 1 else 0.2
            centre = 1.0 if tensor.ndim == 1 and name.endswith("weight") else 0.0
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + centre)
    return model
