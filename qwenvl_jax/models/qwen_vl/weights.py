"""Tensors of the PyTorch original and our parameters; `qwenvl_jax.models.weights` turns one into the other.

Original linear weights are [out, in], convolutions [out, in, rows, columns]; `proj` of the vision tower is [in, out].

Axis letters: s fused slices, d width, e other width, f mlp width, n heads, h head size, v vocabulary; of the
convolution c channels, p and q a patch's rows and columns (p alone: positions).
Source: `pytorch_model.bin.index.json` of the original and the modules that hold the tensors.
"""

from qwenvl_jax.config import QwenVLConfig
from qwenvl_jax.models.weights import Entry, Layout, norm_entries, qkv_paths

_VISUAL = "transformer.visual"
_VIT = f"{_VISUAL}.transformer.resblocks.{{}}"
_POOL = f"{_VISUAL}.attn_pool"
_LAYER = "transformer.h.{}"

TABLE: tuple[Entry, ...] = (
    Entry(f"{_VISUAL}.conv1.weight", ("vision/patch_embedding/kernel",), "d c p q -> (p q c) d"),
    Entry(f"{_VISUAL}.positional_embedding", ("vision/position",), "p d -> p d"),
    *norm_entries(f"{_VISUAL}.ln_pre", "vision/norm_pre"),
    *norm_entries(f"{_VIT}.ln_1", "vision/blocks/norm_1"),
    # Megatron's layout: rows ordered (head, q|k|v, head size), unlike every other fused projection here.
    Entry(f"{_VIT}.attn.in_proj.weight", qkv_paths("vision/blocks", "kernel"), "(n s h) d -> s d n h"),
    Entry(f"{_VIT}.attn.in_proj.bias", qkv_paths("vision/blocks", "bias"), "(n s h) -> s n h"),
    Entry(f"{_VIT}.attn.out_proj.weight", ("vision/blocks/out/kernel",), "d (n h) -> n h d"),
    Entry(f"{_VIT}.attn.out_proj.bias", ("vision/blocks/out/bias",)),
    *norm_entries(f"{_VIT}.ln_2", "vision/blocks/norm_2"),
    Entry(f"{_VIT}.mlp.c_fc.weight", ("vision/blocks/up/kernel",), "f d -> d f"),
    Entry(f"{_VIT}.mlp.c_fc.bias", ("vision/blocks/up/bias",)),
    Entry(f"{_VIT}.mlp.c_proj.weight", ("vision/blocks/down/kernel",), "d f -> f d"),
    Entry(f"{_VIT}.mlp.c_proj.bias", ("vision/blocks/down/bias",)),
    Entry(f"{_POOL}.query", ("adapter/query",), "p d -> p d"),
    Entry(f"{_POOL}.pos_embed", ("adapter/position",), "p d -> p d"),
    Entry(f"{_POOL}.kv_proj.weight", ("adapter/kv/kernel",), "e d -> d e"),
    *norm_entries(f"{_POOL}.ln_q", "adapter/norm_q"),
    *norm_entries(f"{_POOL}.ln_kv", "adapter/norm_kv"),
    Entry(f"{_POOL}.attn.in_proj_weight", qkv_paths("adapter", "kernel"), "(s n h) d -> s d n h"),
    Entry(f"{_POOL}.attn.in_proj_bias", qkv_paths("adapter", "bias"), "(s n h) -> s n h"),
    Entry(f"{_POOL}.attn.out_proj.weight", ("adapter/out/kernel",), "d (n h) -> n h d"),
    Entry(f"{_POOL}.attn.out_proj.bias", ("adapter/out/bias",)),
    *norm_entries(f"{_VISUAL}.ln_post", "adapter/norm_post"),
    Entry(f"{_VISUAL}.proj", ("adapter/projection/kernel",), "d e -> d e"),
    Entry("transformer.wte.weight", ("language/embedding",), "v d -> v d"),
    Entry(f"{_LAYER}.ln_1.weight", ("language/blocks/norm_1/scale",)),
    Entry(f"{_LAYER}.attn.c_attn.weight", qkv_paths("language/blocks", "kernel"), "(s n h) d -> s d n h"),
    Entry(f"{_LAYER}.attn.c_attn.bias", qkv_paths("language/blocks", "bias"), "(s n h) -> s n h"),
    Entry(f"{_LAYER}.attn.c_proj.weight", ("language/blocks/out/kernel",), "d (n h) -> n h d"),
    Entry(f"{_LAYER}.ln_2.weight", ("language/blocks/norm_2/scale",)),
    Entry(f"{_LAYER}.mlp.w1.weight", ("language/blocks/up/kernel",), "f d -> d f"),
    Entry(f"{_LAYER}.mlp.w2.weight", ("language/blocks/gate/kernel",), "f d -> d f"),
    Entry(f"{_LAYER}.mlp.c_proj.weight", ("language/blocks/down/kernel",), "d f -> f d"),
    Entry("transformer.ln_f.weight", ("language/norm/scale",)),
    Entry("lm_head.weight", ("language/head/kernel",), "v d -> d v"),
)


def layout(config: QwenVLConfig) -> Layout:
    """The table with the sizes of a configuration."""
    vision, language = config.vision, config.language
    return Layout(
        TABLE,
        layers={"vision": vision.layers, "language": language.layers},
        sizes={
            "vision": {"n": vision.heads, "p": vision.patch, "q": vision.patch},
            "adapter": {"n": config.adapter.heads},
            "language": {"n": language.heads},
        },
    )
