"""The prompts of the tasks (Qwen-VL paper, appendix B; `eval_mm/` of the original), for training and
evaluation alike.

A prompt follows `</img>` directly, as in the original's evaluation. What is learned follows the prompt: it
starts with a space (except boxes) and ends with `<|endoftext|>`.
"""

from qwenvl_jax.processing.tokenizer import REF_END, REF_START

CAPTION_PROMPT = "Generate the caption in English:"
CAPTION_PROMPT_ZH = "用中文描述这张图片:"
"""The paper publishes no Chinese prompt; this one is ours."""
GROUNDED_CAPTION_PROMPT = "Generate the caption in English with grounding:"
OCR_PROMPT = "OCR with grounding:"


def vqa_prompt(question: str) -> str:
    """The prompt of VQA and of OCR-VQA."""
    return f"{question} Answer:"


def referring_prompt(phrase: str) -> str:
    """The prompt of referring grounding; `<box>...</box>` follows without a space."""
    return f"{REF_START}{phrase}{REF_END}"


def grounded_captioning_prompt(box: str) -> str:
    """The prompt of grounded captioning; `box` is written by `qwenvl_jax.processing.markup.format_box`."""
    return f"{REF_START}This{REF_END}{box} is"
