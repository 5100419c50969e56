"""The small Qwen2-VL in transformers, with random weights, and the same weights as our parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity_table import ParityTable
from small_qwen2_vl import CONFIG, IMAGE_PAD, PAD, PRECISION, VIDEO_PAD, VISION_END, VISION_START
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from qwenvl_jax.models.parameters import Architecture, build
from qwenvl_jax.models.qwen2_vl.weights import layout, released_name
from qwenvl_jax.models.weights import from_original


@pytest.fixture(scope="session", autouse=True)
def _exact_matmuls():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="session")
def table():
    """Collects every distance to the original and prints them in the end (`pytest -s`)."""
    table = ParityTable()
    yield table
    table.print()


@pytest.fixture(scope="session")
def original() -> Qwen2VLForConditionalGeneration:
    """Kernels N(0, 1 / fan-in), biases N(0, 0.2), scales of norms around one: activations and logits of order one."""
    vision, language = CONFIG.vision, CONFIG.language
    config = Qwen2VLConfig(
        vision_config={
            "depth": vision.layers, "embed_dim": vision.width, "num_heads": vision.heads,
            "mlp_ratio": vision.mlp_width / vision.width, "hidden_size": language.width, "spatial_patch_size": 14,
        },
        vocab_size=language.vocab_size, hidden_size=language.width, num_hidden_layers=language.layers,
        num_attention_heads=language.heads, num_key_value_heads=language.kv_heads,
        intermediate_size=language.mlp_width, rms_norm_eps=language.norm_eps, rope_theta=language.rope_base,
        rope_scaling={"type": "mrope", "mrope_section": list(language.mrope_sections)},
        tie_word_embeddings=language.tied, pad_token_id=PAD, vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END, image_token_id=IMAGE_PAD, video_token_id=VIDEO_PAD,
        attn_implementation="sdpa",
    )  # fmt: skip
    torch.set_num_threads(1)
    model = Qwen2VLForConditionalGeneration(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            scale = (tensor.numel() / len(tensor)) ** -0.5 if tensor.ndim > 1 else 0.2
            centre = 1.0 if tensor.ndim == 1 and name.endswith("weight") else 0.0
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + centre)
    return model


@pytest.fixture(scope="session")
def qwen2_architecture() -> Architecture:
    return build(CONFIG, PRECISION)


@pytest.fixture(scope="session")
def qwen2_parameters(original) -> dict[str, np.ndarray]:
    """The original's weights under our paths."""
    tensors = {released_name(name): tensor.numpy() for name, tensor in original.state_dict().items()}
    return jax.tree.map(jnp.asarray, from_original(tensors, layout(CONFIG)))
