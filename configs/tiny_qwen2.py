"""`tiny-qwen2`: the shape of Qwen2-VL at 3.2 M parameters, on the native world, for two CPU cores.

What differs from the paper is what differs in `tiny`: float32, few wide heads, Muon for matrices, and the two stages before
the first one that make what the paper downloads. In stage `vision` the ViT alone learns what each patch shows, in the place
of DFN's ViT, in stage `language` the LLM alone reads text, in the place of Qwen2. Patches, merger, limits in pixels, M-RoPE
and the three stages behind are the paper's, but that the ViT sees screens before it is locked: episodes are in stage 2 too.
What it reaches, and what it does not yet, stands in `qwenvl_jax/models/qwen2_vl/README.md`.
"""

from configs.tiny import MUON, frozen, trained
from qwenvl_jax.config import (
    CheckpointConfig,
    Component,
    DataConfig,
    MeshConfig,
    ParameterRule,
    PixelLimits,
    PrecisionConfig,
    Qwen2LanguageConfig,
    Qwen2VisionConfig,
    Qwen2VLConfig,
    Run,
    Schedule,
    Stage,
    VideoLimits,
)

MODEL = Qwen2VLConfig(
    vision=Qwen2VisionConfig(width=192, layers=2, heads=6, mlp_width=768, activation="relu2"),
    language=Qwen2LanguageConfig(
        vocab_size=768, width=128, layers=6, heads=2, kv_heads=1, mlp_width=384, tied=False,
        mrope_sections=(8, 12, 12), rope_base=10_000.0,
    ),
)  # fmt: skip

VISION_MIXTURE = (Component("patches", "scenes", 2), Component("patches", "small_print", 1))

PRETRAIN_MIXTURE = (Component("caption", "scenes", 1), Component("caption_with_places", "scenes", 1))

# Weights are shares of samples. A VQA sample holds all questions on its picture.
MULTITASK_MIXTURE = (
    Component("vqa", "scenes", 14),
    Component("caption", "scenes", 0.8),
    Component("caption_zh", "scenes", 0.5),
    Component("caption_with_places", "scenes", 1),
    Component("caption_with_grounding", "scenes", 0.5),
    Component("referring_grounding", "scenes", 2.5),
    Component("grounded_captioning", "scenes", 0.3),
    Component("ocr_vqa", "small_print", 8),
    Component("ocr", "small_print", 1),
    Component("video_vqa", "videos", 4),
    Component("agent", "episodes", 1.2),
    Component("text", "texts", 0.3),
)

SFT_MIXTURE = (
    Component("agent", "episodes", 1.5),
    Component("video_vqa", "videos", 4),
    Component("vqa", "scenes", 5),
    Component("referring_grounding", "scenes", 3),
    Component("caption", "scenes", 0.5),
    Component("caption_with_grounding", "scenes", 0.5),
    Component("ocr_vqa", "small_print", 5),
)

IMAGES = PixelLimits(4 * 784, 256 * 784)
"""Every picture of the world at its own size."""
VIDEOS = VideoLimits(2.0, 4, 8, PixelLimits(4 * 784, 64 * 784), 8 * 64 * 784, round_down=False)
PATCH_CLASSES = (42, 6, *[10] * 8)
"""Classes of the labels of `data_pipelines.synthetic.patches`: what a patch shows, its colour, its box's edges twice."""
LABELLED_PATCHES = 384
"""Of a row of stage `vision`, three of which have some 17 pictures."""

VISION = trained("vision")
SLOW_VISION = trained("vision", muon=False, learning_rate=0.2)
MERGER = (
    ParameterRule(r"merger/up/kernel", learning_rate=MUON, weight_decay=0.05, matrix="(p4 d) f -> p4 d f"),
    ParameterRule(r"merger/down/kernel", learning_rate=MUON, weight_decay=0.05, matrix="d f -> d f"),
    ParameterRule(r"merger/.*"),
)
LANGUAGE = trained("language")


def tiny_qwen2() -> Run:
    return Run(
        name="tiny-qwen2",
        model=MODEL,
        stages=(
            Stage(
                name="vision", steps=2700, mixture=VISION_MIXTURE, rows=3,
                sequence_length=LABELLED_PATCHES * len(PATCH_CLASSES), patches_per_row=LABELLED_PATCHES,
                image_limits=IMAGES, schedule=Schedule(peak=2e-3, end=5e-5, warmup=100),
                parameters=VISION + frozen("merger", "language"), patch_classes=PATCH_CLASSES, pack_within_task=False,
            ),
            Stage(
                name="language", steps=2000, mixture=(Component("text", "texts", 1),), rows=4, sequence_length=384,
                schedule=Schedule(peak=1e-3, end=1e-4, warmup=50),
                parameters=frozen("vision", "merger") + LANGUAGE, pack_within_task=False,
            ),
            Stage(
                name="pretrain", steps=700, mixture=PRETRAIN_MIXTURE, rows=2, sequence_length=256, patches_per_row=288,
                image_limits=IMAGES, video_limits=VIDEOS, schedule=Schedule(peak=1e-3, end=1e-4, warmup=50),
                parameters=SLOW_VISION + MERGER + frozen("language"), pack_within_task=False,
            ),
            Stage(
                name="multitask", steps=4400, mixture=MULTITASK_MIXTURE, rows=2, sequence_length=384,
                patches_per_row=352, image_limits=IMAGES, video_limits=VIDEOS,
                schedule=Schedule(peak=4e-4, end=2e-5, warmup=100),
                parameters=SLOW_VISION + MERGER + LANGUAGE, pack_within_task=False,
            ),
            Stage(
                name="sft", steps=500, mixture=SFT_MIXTURE, rows=2, sequence_length=384, patches_per_row=352,
                image_limits=IMAGES, video_limits=VIDEOS, schedule=Schedule(peak=1e-4, end=1e-5, warmup=50),
                parameters=frozen("vision", "merger") + LANGUAGE, pack_within_task=False,
            ),
        ),
        data=DataConfig(root="data/tiny-qwen2", tokenizer="native"),
        mesh=MeshConfig(),
        precision=PrecisionConfig(compute="float32", remat="everything", loss_chunks=1, unroll=6),
        checkpoint=CheckpointConfig(every=500, keep=2),
        log_every=20,
    )  # fmt: skip
