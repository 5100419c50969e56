"""`tiny`: the shape of Qwen-VL at 1.9 M parameters, on the embedded world, in 20 minutes on two CPU cores.

What differs from the paper, and why: float32 (XLA is slow at bf16 on a CPU), few wide heads (small batched matmuls are slow
there), pictures of 48 and 96 pixels instead of 224 and 448, and a stage before the first one, in which the language model
alone reads the world's text: it stands in for Qwen-7B, which stage 1 freezes because it can already speak.
"""

from configs.qwen_vl import language_rules, parameter_tables
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
    vision=VisionConfig(width=128, layers=4, heads=2, mlp_width=512, patch=8, position_grid=6, activation="relu2"),
    adapter=AdapterConfig(query_grid=6, heads=1, initial_sharpness=24.0),
    language=LanguageConfig(vocab_size=480, width=128, layers=4, heads=2, mlp_width=384),
)

# Weights are shares of samples. A VQA sample holds all questions on its picture and is four times as long as the others.
MULTITASK_MIXTURE = (
    Component("vqa", "scenes", 6),
    Component("caption", "scenes", 4),
    Component("caption_zh", "scenes", 0.3),
    Component("caption_with_grounding", "scenes", 1),
    Component("referring_grounding", "scenes", 3),
    Component("grounded_captioning", "scenes", 0.7),
    Component("ocr_vqa", "documents", 5),
    Component("ocr", "documents", 2),
    Component("text", "texts", 0.3),
)

FROZEN = (ParameterRule(r"(vision|adapter)/.*", frozen=True),)


def tiny() -> Run:
    tables = parameter_tables(MODEL.vision.layers, 0.95, 0.05)
    return Run(
        name="tiny",
        model=MODEL,
        stages=(
            Stage(
                name="language", steps=400, mixture=(Component("text", "texts", 1),), rows=2, sequence_length=768,
                images_per_row=0, resolution=48, schedule=Schedule(peak=2e-3, end=5e-4, warmup=20),
                parameters=FROZEN + language_rules(0.05), pack_within_task=False,
            ),
            Stage(
                name="pretrain", steps=100, mixture=(Component("caption", "scenes", 1),), rows=1, sequence_length=768,
                images_per_row=8, resolution=48, schedule=Schedule(peak=2e-3, end=5e-4, warmup=20),
                parameters=tables["pretrain"], pack_within_task=False,
            ),
            Stage(
                name="multitask", steps=3200, mixture=MULTITASK_MIXTURE, rows=1, sequence_length=768, images_per_row=6,
                resolution=96, schedule=Schedule(peak=8e-4, end=4e-5, warmup=100), parameters=tables["multitask"],
                pack_within_task=False,
            ),
            Stage(
                name="sft", steps=600, mixture=(Component("chat", "chats", 1),), rows=1, sequence_length=768,
                images_per_row=4, resolution=96, schedule=Schedule(peak=6e-4, end=3e-5, warmup=30),
                parameters=tables["sft"], pack_within_task=False,
            ),
        ),
        data=DataConfig(root="data/tiny", tokenizer="bytes"),
        mesh=MeshConfig(),
        precision=PrecisionConfig(compute="float32", remat="everything", loss_chunks=1, unroll=4),
        checkpoint=CheckpointConfig(every=300, keep=2),
        log_every=20,
    )  # fmt: skip
