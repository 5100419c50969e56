"""`tiny`: the shape of Qwen-VL at 2.0 M parameters, on the embedded world, in 20 minutes on two CPU cores.

What differs from the paper, and why: float32 (XLA is slow at bf16 on a CPU), few wide heads (small batched matmuls are slow
there), pictures of 72 and 96 pixels instead of 224 and 448 (an object then covers nearly as many patches in both, so that
the encoder knows its shapes again), and a stage before the first one, in which the language model alone reads the world's
text: it stands in for Qwen-7B, which stage 1 freezes because it can already speak.
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
    vision=VisionConfig(width=192, layers=2, heads=3, mlp_width=768, patch=12, position_grid=6, activation="relu2"),
    adapter=AdapterConfig(query_grid=4, heads=1, initial_sharpness=24.0),
    language=LanguageConfig(vocab_size=864, width=128, layers=3, heads=2, mlp_width=384),
)

# Weights are shares of samples. A VQA sample holds all questions on its picture and is three times as long as a caption.
MULTITASK_MIXTURE = (
    Component("vqa", "scenes", 6),
    Component("caption", "scenes", 5),
    Component("caption_zh", "scenes", 0.3),
    Component("caption_with_grounding", "scenes", 0.7),
    Component("referring_grounding", "scenes", 3),
    Component("grounded_captioning", "scenes", 0.5),
    Component("ocr_vqa", "documents", 4),
    Component("ocr", "documents", 1.5),
    Component("text", "texts", 0.3),
)

# With conversations alone, VQA in the form of stage 2 fell from 0.44 to 0.31 in this stage, with some of it to 0.36.
SFT_MIXTURE = (
    Component("chat", "chats", 5),
    Component("vqa", "scenes", 1),
    Component("caption", "scenes", 0.7),
    Component("caption_zh", "scenes", 0.1),
    Component("referring_grounding", "scenes", 0.5),
    Component("ocr", "documents", 0.2),
)

FROZEN = (ParameterRule(r"(vision|adapter)/.*", frozen=True),)


def tiny() -> Run:
    tables = parameter_tables(MODEL.vision.layers, 0.95, 0.05)
    return Run(
        name="tiny",
        model=MODEL,
        stages=(
            Stage(
                name="language", steps=900, mixture=(Component("text", "texts", 1),), rows=6, sequence_length=256,
                images_per_row=0, resolution=72, schedule=Schedule(peak=1e-3, end=1e-4, warmup=50),
                parameters=FROZEN + language_rules(0.05), pack_within_task=False,
            ),
            Stage(
                name="pretrain", steps=4000, mixture=(Component("caption", "scenes", 1),), rows=1, sequence_length=256,
                images_per_row=7, resolution=72, schedule=Schedule(peak=1e-3, end=1e-4, warmup=50),
                parameters=tables["pretrain"], pack_within_task=False,
            ),
            Stage(
                name="multitask", steps=5500, mixture=MULTITASK_MIXTURE, rows=2, sequence_length=256, images_per_row=4,
                resolution=96, schedule=Schedule(peak=6e-4, end=3e-5, warmup=100), parameters=tables["multitask"],
                pack_within_task=False,
            ),
            Stage(
                name="sft", steps=1100, mixture=SFT_MIXTURE, rows=2, sequence_length=256,
                images_per_row=5, resolution=96, schedule=Schedule(peak=4e-4, end=2e-5, warmup=50),
                parameters=tables["sft"], pack_within_task=False,
            ),
        ),
        data=DataConfig(root="data/tiny", tokenizer="world"),
        mesh=MeshConfig(),
        precision=PrecisionConfig(compute="float32", remat="everything", loss_chunks=1, unroll=4),
        checkpoint=CheckpointConfig(every=500, keep=2),
        log_every=20,
    )  # fmt: skip
