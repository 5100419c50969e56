"""Tensors of the PyTorch original and our parameters; `qwenvl_jax.models.weights` turns one into the other.

Original linear weights are [out, in]; the patch embedding is a convolution [out, channels, frames, rows, columns].

Axis letters: s fused slices, d width, e other width, f mlp width, n heads, k heads of keys and values, h head size,
v vocabulary; of the convolution c channels, t frames, p and q a patch's rows and columns.
Source: `model.safetensors.index.json` of the released checkpoints and the modules that hold the tensors.
"""

import re

from qwenvl_jax.config import Qwen2VLConfig
from qwenvl_jax.models.weights import Entry, Layout, norm_entries, qkv_paths

_BLOCK = "visual.blocks.{}"
_MERGER = "visual.merger"
_LAYER = "model.layers.{}"

TABLE: tuple[Entry, ...] = (
    Entry("visual.patch_embed.proj.weight", ("vision/patch_embedding/kernel",), "d c t p q -> (c t p q) d"),
    *norm_entries(f"{_BLOCK}.norm1", "vision/blocks/norm_1"),
    Entry(f"{_BLOCK}.attn.qkv.weight", qkv_paths("vision/blocks", "kernel"), "(s n h) d -> s d n h"),
    Entry(f"{_BLOCK}.attn.qkv.bias", qkv_paths("vision/blocks", "bias"), "(s n h) -> s n h"),
    Entry(f"{_BLOCK}.attn.proj.weight", ("vision/blocks/out/kernel",), "d (n h) -> n h d"),
    Entry(f"{_BLOCK}.attn.proj.bias", ("vision/blocks/out/bias",)),
    *norm_entries(f"{_BLOCK}.norm2", "vision/blocks/norm_2"),
    Entry(f"{_BLOCK}.mlp.fc1.weight", ("vision/blocks/up/kernel",), "f d -> d f"),
    Entry(f"{_BLOCK}.mlp.fc1.bias", ("vision/blocks/up/bias",)),
    Entry(f"{_BLOCK}.mlp.fc2.weight", ("vision/blocks/down/kernel",), "d f -> f d"),
    Entry(f"{_BLOCK}.mlp.fc2.bias", ("vision/blocks/down/bias",)),
    *norm_entries(f"{_MERGER}.ln_q", "merger/norm"),
    Entry(f"{_MERGER}.mlp.0.weight", ("merger/up/kernel",), "f d -> d f"),
    Entry(f"{_MERGER}.mlp.0.bias", ("merger/up/bias",)),
    Entry(f"{_MERGER}.mlp.2.weight", ("merger/down/kernel",), "d f -> f d"),
    Entry(f"{_MERGER}.mlp.2.bias", ("merger/down/bias",)),
    Entry("model.embed_tokens.weight", ("language/embedding",), "v d -> v d"),
    Entry(f"{_LAYER}.input_layernorm.weight", ("language/blocks/norm_1/scale",)),
    Entry(f"{_LAYER}.self_attn.q_proj.weight", ("language/blocks/q/kernel",), "(n h) d -> d n h"),
    Entry(f"{_LAYER}.self_attn.q_proj.bias", ("language/blocks/q/bias",), "(n h) -> n h"),
    Entry(f"{_LAYER}.self_attn.k_proj.weight", ("language/blocks/k/kernel",), "(k h) d -> d k h"),
    Entry(f"{_LAYER}.self_attn.k_proj.bias", ("language/blocks/k/bias",), "(k h) -> k h"),
    Entry(f"{_LAYER}.self_attn.v_proj.weight", ("language/blocks/v/kernel",), "(k h) d -> d k h"),
    Entry(f"{_LAYER}.self_attn.v_proj.bias", ("language/blocks/v/bias",), "(k h) -> k h"),
    Entry(f"{_LAYER}.self_attn.o_proj.weight", ("language/blocks/out/kernel",), "d (n h) -> n h d"),
    Entry(f"{_LAYER}.post_attention_layernorm.weight", ("language/blocks/norm_2/scale",)),
    Entry(f"{_LAYER}.mlp.gate_proj.weight", ("language/blocks/gate/kernel",), "f d -> d f"),
    Entry(f"{_LAYER}.mlp.up_proj.weight", ("language/blocks/up/kernel",), "f d -> d f"),
    Entry(f"{_LAYER}.mlp.down_proj.weight", ("language/blocks/down/kernel",), "d f -> f d"),
    Entry("model.norm.weight", ("language/norm/scale",)),
)
HEAD = Entry("lm_head.weight", ("language/head/kernel",), "v d -> d v")
"""Of models whose head is not the embedding."""


def layout(config: Qwen2VLConfig) -> Layout:
    """The table with the sizes of a configuration."""
    vision, language = config.vision, config.language
    patch = {"c": 3, "t": vision.temporal_patch, "p": vision.patch, "q": vision.patch}
    return Layout(
        TABLE if language.tied else (*TABLE, HEAD),
        layers={"vision": vision.layers, "language": language.layers},
        sizes={
            "vision": {"n": vision.heads, **patch},
            "merger": {},
            "language": {"n": language.heads, "k": language.kv_heads},
        },
    )


def released_name(name: str) -> str:
    """A tensor's name in released checkpoints, also where the file has the names of transformers 4.52 and later."""
    name = re.sub(r"^model\.visual\.", "visual.", name)
    return re.sub(r"^model\.language_model\.", "model.", name)
