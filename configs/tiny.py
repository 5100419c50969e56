"""`tiny`: the shape of Qwen-VL at 2.6 M parameters, on the embedded world, in 20 minutes on two CPU cores.

What differs from the paper, and why: float32 (XLA is slow at bf16 on a CPU); few wide heads (small batched matmuls are
slow there); pictures of 72 pixels in all stages instead of 224 and 448 (what the encoder knows about the shapes of a
size stays true); matrices learn by Muon instead of AdamW (`qwenvl_jax/training/muon.py` says what that is worth). And
two stages before the first one make what the paper downloads: `vision` teaches the ViT alone what each patch shows, in
the place of OpenCLIP's ViT-bigG, `language` lets the LLM alone read the world's text, in the place of Qwen-7B.
"""

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

PATCH_CLASSES = (42, 6, 10, 10, 10, 10)
"""Classes of the labels of `data_pipelines.synthetic.patches`: what a patch shows, its colour, its box's edges."""

MODEL = QwenVLConfig(
    vision=VisionConfig(width=192, layers=2, heads=3, mlp_width=768, patch=12, position_grid=6, activation="relu2"),
    adapter=AdapterConfig(query_grid=4, heads=1, initial_sharpness=24.0),
    language=LanguageConfig(vocab_size=840, width=128, layers=6, heads=2, mlp_width=384),
)

VISION_MIXTURE = (Component("patches", "scenes", 3), Component("patches", "documents", 2))

# Weights are shares of samples. A VQA sample holds all questions on its picture and is twice as long as a caption.
MULTITASK_MIXTURE = (
    Component("vqa", "scenes", 11),
    Component("caption", "scenes", 0.6),
    Component("caption_zh", "scenes", 0.4),
    Component("caption_with_grounding", "scenes", 0.5),
    Component("referring_grounding", "scenes", 2),
    Component("grounded_captioning", "scenes", 0.3),
    Component("ocr_vqa", "documents", 2),
    Component("ocr", "documents", 3),
    Component("text", "texts", 0.3),
)

# Conversations are a third of it: with them alone, what stage 2 taught was partly lost in this stage.
SFT_MIXTURE = (
    Component("chat", "chats", 6),
    Component("vqa", "scenes", 3),
    Component("caption", "scenes", 0.4),
    Component("caption_zh", "scenes", 0.2),
    Component("caption_with_grounding", "scenes", 0.2),
    Component("referring_grounding", "scenes", 0.8),
    Component("ocr_vqa", "documents", 0.8),
    Component("ocr", "documents", 1.3),
)

MUON = 8.0
"""Learning rate of Muon's updates over that of Adam's."""
MATRICES = {
    r"vision/patch_embedding/kernel": "k d -> k d",
    r"vision/blocks/[qkv]/kernel": "l d n h -> l d (n h)",
    r"vision/blocks/out/kernel": "l n h d -> l (n h) d",
    r"vision/blocks/(up|down)/kernel": "l d f -> l d f",
    r"adapter/(kv|projection)/kernel": "d e -> d e",
    r"adapter/v/kernel": "d n h -> d (n h)",
    r"adapter/out/kernel": "n h d -> (n h) d",
    r"language/blocks/[qkv]/kernel": "l d n h -> l d (n h)",
    r"language/blocks/out/kernel": "l n h d -> l (n h) d",
    r"language/blocks/(up|gate|down)/kernel": "l d f -> l d f",
}
"""What Muon updates, as matrices of inputs and outputs."""


def trained(part: str, *, muon: bool = True, learning_rate: float = 1.0) -> tuple[ParameterRule, ...]:
    """Rules for a part that learns: its matrices under Muon, the rest under Adam."""
    matrices = tuple(
        ParameterRule(path, learning_rate=MUON * learning_rate, weight_decay=0.05, matrix=pattern)
        for path, pattern in MATRICES.items()
        if muon and path.startswith(part)
    )
    return (*matrices, ParameterRule(f"{part}/.*", learning_rate=learning_rate))


def frozen(*parts: str) -> tuple[ParameterRule, ...]:
    """Rules for parts that do not learn."""
    return tuple(ParameterRule(f"{part}/.*", frozen=True) for part in parts)


VISION = trained("vision")
SLOW_VISION = trained("vision", muon=False, learning_rate=0.2)
ADAPTER = (ParameterRule(r"adapter/position", frozen=True), *trained("adapter"))
LANGUAGE = trained("language")


def tiny() -> Run:
    return Run(
        name="tiny",
        model=MODEL,
        stages=(
            Stage(
                name="vision", steps=2000, mixture=VISION_MIXTURE, rows=1, sequence_length=32 * 36 * len(PATCH_CLASSES),
                images_per_row=32, resolution=72, schedule=Schedule(peak=2e-3, end=5e-5, warmup=100),
                parameters=VISION + frozen("adapter", "language"), patch_classes=PATCH_CLASSES,
            ),
            Stage(
                name="language", steps=1500, mixture=(Component("text", "texts", 1),), rows=4, sequence_length=384,
                images_per_row=0, resolution=72, schedule=Schedule(peak=1e-3, end=1e-4, warmup=50),
                parameters=frozen("vision", "adapter") + LANGUAGE, pack_within_task=False,
            ),
            Stage(
                name="pretrain", steps=600, mixture=(Component("caption", "scenes", 1),), rows=2, sequence_length=256,
                images_per_row=8, resolution=72, schedule=Schedule(peak=1e-3, end=1e-4, warmup=50),
                parameters=SLOW_VISION + ADAPTER + frozen("language"), pack_within_task=False,
            ),
            # 1,200 steps from one checkpoint end at losses of 0.51, 0.45, 0.42, 0.44 with peaks of 1.6e-3, 8e-4, 4e-4, 2e-4.
            Stage(
                name="multitask", steps=3700, mixture=MULTITASK_MIXTURE, rows=2, sequence_length=384, images_per_row=6,
                resolution=72, schedule=Schedule(peak=4e-4, end=2e-5, warmup=100),
                parameters=SLOW_VISION + ADAPTER + LANGUAGE, pack_within_task=False,
            ),
            # With 4e-4 much is forgotten: VQA's loss is 0.19 after 2,400 steps, 0.14 with 2e-4 and 0.12 with 1e-4; that of
            # chat is 0.17, 0.15 and 0.15.
            Stage(
                name="sft", steps=3000, mixture=SFT_MIXTURE, rows=2, sequence_length=256, images_per_row=4,
                resolution=72, schedule=Schedule(peak=2e-4, end=2e-5, warmup=50),
                parameters=frozen("vision") + ADAPTER + LANGUAGE, pack_within_task=False,
            ),
        ),
        data=DataConfig(root="data/tiny", tokenizer="world"),
        mesh=MeshConfig(),
        precision=PrecisionConfig(compute="float32", remat="everything", loss_chunks=1, unroll=6),
        checkpoint=CheckpointConfig(every=500, keep=2),
        log_every=20,
    )  # fmt: skip
