"""Qwen-VL as published: 9.6 B parameters, the paper's three stages (Table 8) and mixtures (Tables 2 and 3)."""

from qwenvl_jax.config import (
    AdapterConfig,
    CheckpointConfig,
    Component,
    DataConfig,
    LanguageConfig,
    MeshConfig,
    ParameterRule,
    PrecisionConfig,
    QwenVLConfig,
    Run,
    Schedule,
    Stage,
    VisionConfig,
)

MODEL = QwenVLConfig(
    vision=VisionConfig(width=1664, layers=48, heads=16, mlp_width=8192, patch=14, position_grid=16),
    adapter=AdapterConfig(query_grid=16, heads=32),
    language=LanguageConfig(vocab_size=151936, width=4096, layers=32, heads=32, mlp_width=11008),
)

WEIGHT_DECAY = 0.05

# Table 2: millions of image-text pairs after cleaning. The in-house 220 M Chinese pairs are the user's own to replace.
PRETRAIN_MIXTURE = (
    Component("caption", "laion_en", 280),
    Component("caption", "laion_coco", 300),
    Component("caption", "datacomp", 300),
    Component("caption", "coyo", 200),
    Component("caption", "cc12m", 8),
    Component("caption", "cc3m", 3),
    Component("caption", "sbu", 0.8),
    Component("caption", "coco_caption", 0.6),
    Component("caption_zh", "laion_zh", 105),
    Component("caption_zh", "in_house_zh", 220),
)

# Table 3: millions of samples per task. The paper gives totals per task, so each task's sources lie in one folder.
MULTITASK_MIXTURE = (
    Component("caption", "captioning", 19.7),
    Component("vqa", "vqa", 3.6),
    Component("caption_with_grounding", "grit", 3.5),
    Component("referring_grounding", "referring", 8.7),
    Component("grounded_captioning", "referring", 8.7),
    Component("ocr", "ocr", 24.8),
    Component("text", "pure_text", 7.8),
)

SFT_MIXTURE = (Component("chat", "instructions", 1.0),)


def vision_rules(layers: int, layer_decay: float, weight_decay: float) -> tuple[ParameterRule, ...]:
    """Layer-wise learning rates over the ViT, BEiT's rule: layer i of L gets decay ** (L - i), the stem the last power."""
    return (
        ParameterRule(r"vision/blocks/.*(bias|scale)", layer_decay=layer_decay),
        ParameterRule(r"vision/blocks/.*", layer_decay=layer_decay, weight_decay=weight_decay),
        ParameterRule(r"vision/.*", layer_decay=layer_decay, embedding_decay=layers + 1),
    )


def adapter_rules(weight_decay: float) -> tuple[ParameterRule, ...]:
    """The sine table of the adapter is a constant of the original until its fine-tuning script; we keep it one."""
    return (
        ParameterRule(r"adapter/position", frozen=True),
        ParameterRule(r"adapter/(query|.*(bias|scale))"),
        ParameterRule(r"adapter/.*", weight_decay=weight_decay),
    )


def language_rules(weight_decay: float) -> tuple[ParameterRule, ...]:
    return (
        ParameterRule(r"language/.*(bias|scale)"),
        ParameterRule(r"language/.*", weight_decay=weight_decay),
    )


FROZEN_VISION = (ParameterRule(r"vision/.*", frozen=True),)
FROZEN_LANGUAGE = (ParameterRule(r"language/.*", frozen=True),)


def parameter_tables(
    vision_layers: int, layer_decay: float, weight_decay: float
) -> dict[str, tuple[ParameterRule, ...]]:
    """What each stage trains: LLM frozen in 1, nothing in 2, ViT frozen in 3 (paper section 3, Figure 3)."""
    vision = vision_rules(vision_layers, layer_decay, weight_decay)
    adapter, language = adapter_rules(weight_decay), language_rules(weight_decay)
    return {
        "pretrain": vision + adapter + FROZEN_LANGUAGE,
        "multitask": vision + adapter + language,
        "sft": FROZEN_VISION + adapter + language,
    }


def qwen_vl() -> Run:
    """Rows hold as many samples as the paper's global batches on average: 7 captions of about 285 tokens in stage 1,
    5 samples of about 396 tokens in stage 2 (global batches of 30,720, 4,096 and 128 samples). A seventh picture in a row of
    stage 2 costs 7.6 % more FLOPs and lets rows hold 6.4 % more samples (0.970 of the tokens instead of 0.912, and the
    paper's batch in as many rows)."""
    tables = parameter_tables(MODEL.vision.layers, 0.95, WEIGHT_DECAY)
    return Run(
        name="qwen-vl",
        model=MODEL,
        stages=(
            Stage(
                name="pretrain", steps=50_000, mixture=PRETRAIN_MIXTURE, rows=4_480, sequence_length=2048,
                images_per_row=7, resolution=224, accumulation=1,
                schedule=Schedule(peak=2e-4, end=1e-6, warmup=500), parameters=tables["pretrain"],
            ),
            Stage(
                name="multitask", steps=19_000, mixture=MULTITASK_MIXTURE, rows=832, sequence_length=2048,
                images_per_row=7, resolution=448, accumulation=1,
                schedule=Schedule(peak=5e-5, end=1e-5, warmup=400), parameters=tables["multitask"],
            ),
            Stage(
                name="sft", steps=8_000, mixture=SFT_MIXTURE, rows=32, sequence_length=2048,
                images_per_row=6, resolution=448,
                schedule=Schedule(peak=1e-5, end=1e-6, warmup=3_000), parameters=tables["sft"],
            ),
        ),
        data=DataConfig(tokenizer="qwen.tiktoken", workers=8),
        mesh=MeshConfig(data=1, fsdp=-1),
        precision=PrecisionConfig(compute="bfloat16", remat="nothing", loss_chunks=8),
        checkpoint=CheckpointConfig(every=500, keep=3),
        initial="checkpoints/qwen-vl-start",
    )  # fmt: skip
