"""Qwen2-VL as published: one vision tower, three language models."""

from qwenvl_jax.config import Qwen2LanguageConfig, Qwen2VisionConfig, Qwen2VLConfig

VISION = Qwen2VisionConfig(width=1280, layers=32, heads=16, mlp_width=5120)

MODEL_2B = Qwen2VLConfig(
    VISION,
    Qwen2LanguageConfig(vocab_size=151936, width=1536, layers=28, heads=12, kv_heads=2, mlp_width=8960, tied=True),
)
MODEL_7B = Qwen2VLConfig(
    VISION,
    Qwen2LanguageConfig(vocab_size=152064, width=3584, layers=28, heads=28, kv_heads=4, mlp_width=18944, tied=False),
)
MODEL_72B = Qwen2VLConfig(
    VISION,
    Qwen2LanguageConfig(vocab_size=152064, width=8192, layers=80, heads=64, kv_heads=8, mlp_width=29568, tied=False),
)
