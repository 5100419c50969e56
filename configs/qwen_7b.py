"""Qwen-7B alone, on text: what plans are compared with other trainers by. Not a stage of Qwen-VL's training."""

import dataclasses

from configs.qwen_vl import FROZEN_VISION, MODEL, WEIGHT_DECAY, language_rules, qwen_vl
from qwenvl_jax.config import Component, ParameterRule, Run, Schedule, Stage, VisionConfig

# A vision tower has to be there; this one is frozen, never runs, and weighs 1 MB.
NO_VISION = VisionConfig(width=256, layers=1, heads=4, mlp_width=256, patch=14, position_grid=1)


def qwen_7b() -> Run:
    """128 rows of 2,048 tokens, everything of the language model trained."""
    frozen = (*FROZEN_VISION, ParameterRule(r"adapter/.*", frozen=True))
    text = Stage(
        name="text", steps=10_000, mixture=(Component("text", "pure_text", 1.0),), rows=128, sequence_length=2048,
        images_per_row=0, resolution=224, schedule=Schedule(peak=3e-4, end=3e-5, warmup=500),
        parameters=frozen + language_rules(WEIGHT_DECAY),
    )  # fmt: skip
    return dataclasses.replace(
        qwen_vl(), name="qwen-7b", model=dataclasses.replace(MODEL, vision=NO_VISION), stages=(text,)
    )
