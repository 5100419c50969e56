"""Qwen2-VL as published: one vision tower, three language models, the paper's three stages.

The paper (section 2.2) tells what each stage trains, on which kinds of data and on how many tokens. It tells no learning
rates, batches or shares of the data: those here are ours, and said to be. Its ViT of 675 M parameters counts the merger.
"""

from collections.abc import Callable
from functools import partial

from configs.qwen_vl import PRETRAIN_MIXTURE
from qwenvl_jax.config import (
    CheckpointConfig,
    Component,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    ParameterRule,
    PrecisionConfig,
    Qwen2LanguageConfig,
    Qwen2VisionConfig,
    Qwen2VLConfig,
    Run,
    Schedule,
    Stage,
)

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

WEIGHT_DECAY = 0.1
VISION_RATE = 0.2
"""Learning rate of the ViT over that of the rest, where both learn: what fine-tuners of the released models use."""

# Stage 1: "image-text pairs, optical character recognition data, and image classification tasks".
PRETRAIN_SOURCES = (
    *PRETRAIN_MIXTURE,
    Component("ocr", "ocr", 100),
    Component("vqa", "classification", 60),
)

# Stage 2: mixed image-text content, visual question answering, multitask datasets, videos and pure text.
MULTITASK_SOURCES = (
    Component("interleaved", "interleaved", 20),
    Component("caption", "captioning", 20),
    Component("vqa", "vqa", 12),
    Component("ocr_vqa", "documents", 8),
    Component("ocr", "ocr", 12),
    Component("caption_with_grounding", "grit", 6),
    Component("referring_grounding", "referring", 6),
    Component("grounded_captioning", "referring", 6),
    Component("video_vqa", "videos", 10),
    Component("text", "pure_text", 20),
)

# Stage 3: ChatML of text dialogue, image question answering, documents, several images, videos and agents.
SFT_SOURCES = (
    Component("chat", "instructions", 8),
    Component("video_vqa", "videos", 2),
)

TOKENS, PATCHES = 20_480, 65_536
"""Of a row. A video of the paper's 16,384 tokens, with 4,096 of text, has room in a row; so has the largest image."""


def trained(part: str, learning_rate: float = 1.0) -> tuple[ParameterRule, ...]:
    """Rules for a part that learns: no weight decay for biases and scales of norms."""
    return (
        ParameterRule(rf"{part}/.*(bias|scale)", learning_rate=learning_rate),
        ParameterRule(rf"{part}/.*", learning_rate=learning_rate, weight_decay=WEIGHT_DECAY),
    )


def frozen(part: str) -> tuple[ParameterRule, ...]:
    return (ParameterRule(rf"{part}/.*", frozen=True),)


PARAMETER_TABLES: dict[str, tuple[ParameterRule, ...]] = {
    "pretrain": trained("vision") + trained("merger") + frozen("language"),
    "multitask": trained("vision", VISION_RATE) + trained("merger") + trained("language"),
    "sft": frozen("vision") + frozen("merger") + trained("language"),
}
"""Stage 1 trains the ViT alone, stage 2 everything, stage 3 the LLM alone (paper section 2.2)."""


def qwen2_vl(name: str, model: Qwen2VLConfig, rows: int, peak: float) -> Run:
    """The stages at a size.

    Args:
      rows: of a global batch in the two stages of pre-training; 600 B tokens are seen in the first, 800 B in the second.
      peak: learning rate of stage 2; stage 1 has twice, stage 3 a tenth of it.
    """
    return Run(
        name=name,
        model=model,
        stages=(
            Stage(
                name="pretrain", steps=round(600e9 / rows / TOKENS), mixture=PRETRAIN_SOURCES, rows=rows,
                sequence_length=TOKENS, patches_per_row=PATCHES,
                schedule=Schedule(peak=2 * peak, end=peak / 10, warmup=2_000),
                parameters=PARAMETER_TABLES["pretrain"],
            ),
            Stage(
                name="multitask", steps=round(800e9 / rows / TOKENS), mixture=MULTITASK_SOURCES, rows=rows,
                sequence_length=TOKENS, patches_per_row=PATCHES,
                schedule=Schedule(peak=peak, end=peak / 10, warmup=2_000),
                parameters=PARAMETER_TABLES["multitask"],
                pack_within_task=False,
            ),
            Stage(
                name="sft", steps=5_000, mixture=SFT_SOURCES, rows=64,
                sequence_length=TOKENS, patches_per_row=PATCHES,
                schedule=Schedule(peak=peak / 10, end=peak / 100, warmup=150),
                parameters=PARAMETER_TABLES["sft"],
                pack_within_task=False,
            ),
        ),
        data=DataConfig(tokenizer="vocab.json", workers=16),
        optimizer=OptimizerConfig(b1=0.9, b2=0.95, eps=1e-8),
        mesh=MeshConfig(data=1, fsdp=-1),
        precision=PrecisionConfig(compute="bfloat16", remat="nothing", loss_chunks=8),
        checkpoint=CheckpointConfig(every=500, keep=3),
        initial=f"checkpoints/{name}-start",
    )  # fmt: skip


SIZES: dict[str, Callable[[], Run]] = {
    "qwen2-vl-2b": partial(qwen2_vl, "qwen2-vl-2b", MODEL_2B, 256, 2e-4),
    "qwen2-vl-7b": partial(qwen2_vl, "qwen2-vl-7b", MODEL_7B, 256, 1e-4),
    "qwen2-vl-72b": partial(qwen2_vl, "qwen2-vl-72b", MODEL_72B, 512, 5e-5),
}
"""The recipes by name."""
