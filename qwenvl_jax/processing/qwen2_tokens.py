"""The special tokens of Qwen2-VL, and its markup of references, boxes and quads.

All data and scores of this project write markup with Qwen-VL's tags (`qwenvl_jax.processing.markup`); only the way into ids
and back (`qwenvl_jax.inference.streaming`) translates it, so that both models are asked and judged alike. Coordinates are
thousandths in both.
Source: `tokenizer_config.json` of the released checkpoints; paper section 2.2.
"""

import re

from qwenvl_jax.processing.tokenizer import (
    BOX_END,
    BOX_START,
    END_OF_TEXT,
    IM_END,
    IM_START,
    QUAD_END,
    QUAD_START,
    REF_END,
    REF_START,
    SpecialTokens,
)

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"

TAGS = {
    # Qwen-VL's tag: Qwen2-VL's
    REF_START: "<|object_ref_start|>",
    REF_END: "<|object_ref_end|>",
    BOX_START: "<|box_start|>",
    BOX_END: "<|box_end|>",
    QUAD_START: "<|quad_start|>",
    QUAD_END: "<|quad_end|>",
}
_OURS = re.compile("|".join(map(re.escape, TAGS)))

QWEN2_VL = SpecialTokens(
    strings=(
        END_OF_TEXT, IM_START, IM_END, *TAGS.values(), VISION_START, VISION_END, "<|vision_pad|>", IMAGE_PAD, VIDEO_PAD,
    ),
    image_start=VISION_START,
    image_end=VISION_END,
    image_pad=IMAGE_PAD,
    grounding=tuple(TAGS.values()),
    image_paths=False,
)  # fmt: skip
"""Ids 151643 (`<|endoftext|>`) to 151656 (`<|video_pad|>`) behind Qwen's vocabulary."""


def to_qwen2_markup(text: str) -> str:
    """`<ref>`, `<box>` and `<quad>` tags as Qwen2-VL writes them."""
    return _OURS.sub(lambda found: TAGS[found[0]], text)
