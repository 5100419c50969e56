"""Qwen-VL in plain PyTorch, in the original's order and types: what conversions are loaded into and speed is compared with.

Weights are a dictionary by the original's names, so a converted folder needs no other code to run. Nothing of the package
computes here; `tests/golden` holds it to the original's own outputs.

Shape legend: B rows, S tokens, T cached and new tokens, P patches, Q queries, D width, N heads, H head size.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import gelu, interpolate, layer_norm, linear, silu, softmax

EPS = 1e-6

Weights = dict[str, Tensor]
Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [B, T, N, H]."""


def load_folder(folder: Path) -> tuple[Weights, dict]:
    """All tensors of a folder of safetensors, and its config.json."""
    weights: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    return weights, json.loads((folder / "config.json").read_text())


class TorchQwenVL:
    """The model of a `config.json` of the original, with its weights."""

    def __init__(self, weights: Weights, config: dict):
        self.weights = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
        self.config, self.visual = config, config["visual"]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale = self.weights[f"{name}.weight"]
        return layer_norm(x, scale.shape, scale, self.weights[f"{name}.bias"], EPS)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def encode_images(self, pixels: Tensor) -> Tensor:
        """[B, 3, R, R] normalised pixels -> [B, Q, D] vision tokens (`VisionTransformer.forward`)."""
        w, heads = self.weights, self.visual["heads"]
        kernel = w["visual.conv1.weight"]
        x = torch.nn.functional.conv2d(pixels.to(kernel.dtype), kernel, stride=kernel.shape[-1])
        x = x.flatten(2).transpose(1, 2)
        x = self._norm(x + _resized(w["visual.positional_embedding"], x.shape[1]), "visual.ln_pre")
        for layer in range(self.visual["layers"]):
            name = f"visual.transformer.resblocks.{layer}"
            fused = self._linear(self._norm(x, f"{name}.ln_1"), f"{name}.attn.in_proj")
            q, k, v = fused.unflatten(-1, (heads, -1)).chunk(3, dim=-1)
            x = x + self._linear(_mix(q / math.sqrt(q.shape[-1]), k, v), f"{name}.attn.out_proj")
            y = gelu(self._linear(self._norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"))
            x = x + self._linear(y, f"{name}.mlp.c_proj")
        return self._norm(self._resample(x), "visual.ln_post") @ w["visual.proj"]

    def _resample(self, x: Tensor) -> Tensor:
        """The adapter: [B, P, C] -> [B, Q, D] (`Resampler.forward`, one `nn.MultiheadAttention`)."""
        w, name = self.weights, "visual.attn_pool"
        position = w[f"{name}.pos_embed"]
        kv = self._norm(self._linear(x, f"{name}.kv_proj"), f"{name}.ln_kv")
        query = self._norm(w[f"{name}.query"], f"{name}.ln_q") + position
        kernels = w[f"{name}.attn.in_proj_weight"].chunk(3)
        biases = w[f"{name}.attn.in_proj_bias"].chunk(3)
        inputs = (query.expand(len(x), -1, -1), kv + _resized(position, kv.shape[1]), kv)
        heads = kv.shape[-1] // 128
        q, k, v = (linear(*one).unflatten(-1, (heads, -1)) for one in zip(inputs, kernels, biases))
        return self._linear(_mix(q * q.shape[-1] ** -0.5, k, v), f"{name}.attn.out_proj")

    def embed(self, ids: Tensor, images: Tensor | None = None) -> Tensor:
        """[B, S] ids -> [B, S, D]; the k-th `<img>` of the batch is followed by row k of the images [K, Q, D]."""
        x = self.weights["wte.weight"][ids]
        if images is not None:
            starts = (ids == self.visual["image_start_id"]).nonzero().tolist()
            for (row, start), image in zip(starts, images, strict=True):
                x[row, start + 1 : start + 1 + len(image)] = image
        return x

    def __call__(self, x: Tensor, mask: Tensor, cache: Layers | None = None) -> tuple[Tensor, Layers]:
        """Embeddings [B, S, D] of the tokens behind the cache -> logits [B, S, V] and the longer cache; T up to seq_length.

        `mask` [B, T] is 0 for padding. Positions count padding, as the original's do.
        """
        size, heads = x.shape[1], self.config["num_attention_heads"]
        total = mask.shape[1]
        seen = mask[:, None, :].bool() & torch.ones(total, total).tril()[total - size :].bool()
        lowest = torch.where(seen, 0.0, torch.finfo(x.dtype).min).to(x.dtype)[:, None]
        h = x.shape[-1] // heads
        frequencies = 1.0 / self.config["rotary_emb_base"] ** (torch.arange(0, h, 2).float() / h)
        angles = torch.arange(total)[total - size :, None, None] * frequencies.repeat(2)
        longer: Layers = []
        for layer in range(self.config["num_hidden_layers"]):
            name = f"h.{layer}"
            fused = self._linear(self._rms(x, f"{name}.ln_1"), f"{name}.attn.c_attn")
            q, k, v = (part.unflatten(-1, (heads, h)) for part in fused.chunk(3, dim=-1))
            q, k = _rotated(q, angles), _rotated(k, angles)
            if cache is not None:
                k, v = (torch.cat(pair, dim=1) for pair in zip(cache[layer], (k, v)))
            longer.append((k, v))
            x = x + self._linear(_mix(q / math.sqrt(h), k, v, lowest), f"{name}.attn.c_proj")
            y = self._rms(x, f"{name}.ln_2")
            y = self._linear(y, f"{name}.mlp.w1") * silu(self._linear(y, f"{name}.mlp.w2"))
            x = x + self._linear(y, f"{name}.mlp.c_proj")
        return self._linear(self._rms(x, "ln_f"), "lm_head"), longer

    def _rms(self, x: Tensor, name: str) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
        return normed.to(x.dtype) * self.weights[f"{name}.weight"]

    def greedy(self, x: Tensor, mask: Tensor, new_tokens: int) -> Tensor:
        """[B, new_tokens] ids that follow left-padded prompts [B, S, D]."""
        chosen: list[Tensor] = []
        logits, cache = self(x, mask)
        for _ in range(new_tokens):
            chosen.append(logits[:, -1:].argmax(-1))
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            logits, cache = self(self.embed(chosen[-1]), mask, cache)
        return torch.cat(chosen, dim=1)


def _mix(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None = None) -> Tensor:
    """[B, S, N, H] scaled queries, keys and values -> [B, S, N * H]; softmax in the working type."""
    scores = torch.einsum("bsnh,btnh->bnst", q, k)
    weights = softmax(scores if added is None else scores + added, dim=-1)
    return torch.einsum("bnst,btnh->bsnh", weights, v).flatten(2)


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.float().chunk(2, dim=-1)
    return (x.float() * angles.cos() + torch.cat([-b, a], dim=-1) * angles.sin()).to(x.dtype)


def _resized(table: Tensor, positions: int) -> Tensor:
    """A table [g * g, D] for another square grid (`get_abs_pos`)."""
    stored, wanted = math.isqrt(len(table)), math.isqrt(positions)
    if stored == wanted:
        return table
    square = table.float().T.unflatten(1, (stored, stored))[None]
    wide = interpolate(square, (wanted, wanted), mode="bicubic", align_corners=False)
    return wide[0].flatten(1).T.to(table.dtype)
