"""How a model is asked by default: the form of its prompts, how tokens are chosen, where an answer ends.

Source: `generation_config.json` of the original, and `get_stop_words_ids` of its `qwen_generation_utils.py`.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwenvl_jax.config import Qwen2VLConfig, QwenVLConfig, Stage
from qwenvl_jax.json_text import read_json
from qwenvl_jax.processing.chat_formats import MAX_WINDOW_SIZE
from qwenvl_jax.processing.tokenizer import IM_START

CHATML, RAW = "chatml", "raw"
FILE = "generation_config.json"
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""Where a chat template may stand, as text and then as JSON; the first one counts."""
_RAW_STOP = ("Human:",)


@dataclass(frozen=True)
class GenerationConfig:
    """See the module docstring.

    Attributes:
      chat_format: `chatml`, or `raw` for a model that has not learned to chat: its query is its prompt.
      max_new_tokens: tokens of an answer at most; none of them is dropped (the original drops the last where it stops
        an answer at this limit).
      max_window_size: tokens of system prompt and history at most, see `trim_history`.
      temperature: divides the logits before a token is drawn; 0 takes the most likely token.
      top_p: tokens are drawn from the smallest set that has this probability; in (0, 1].
      stop: strings that end an answer, and are left out of it, wherever tokens begin and end. `<|endoftext|>` and the
        ChatML tags always end it.
      numbered: in ChatML pictures stand as `Picture 1: ` and a line end, videos as `Video 1: ` alike, as conversations to
        train on have them; the released Qwen2-VL is asked without.

    Raises:
      ValueError: a field is outside its range.
    """

    chat_format: str = CHATML
    max_new_tokens: int = 512
    max_window_size: int = MAX_WINDOW_SIZE
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    numbered: bool = True

    def __post_init__(self) -> None:
        if self.chat_format not in (CHATML, RAW):
            raise ValueError(f"chat_format {self.chat_format!r} is neither {CHATML!r} nor {RAW!r}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {self.max_new_tokens}: an answer needs at least one token")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature} is not in [0, inf); 0 takes the most likely token")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} is not in (0, 1]; 1 keeps every token, temperature 0 is greedy")
        if isinstance(self.stop, str) or not all(isinstance(word, str) and word for word in self.stop):
            raise ValueError(f"stop {self.stop!r} is no list of strings that are not empty")


RELEASED: Mapping[type, GenerationConfig] = {
    # a model's configuration: how its release is asked where its files do not say otherwise
    QwenVLConfig: GenerationConfig(),
    Qwen2VLConfig: GenerationConfig(max_window_size=32768, numbered=False),
}


def read_generation_config(folder: Path, released: GenerationConfig = RELEASED[QwenVLConfig]) -> GenerationConfig:
    """The defaults of a Hugging Face folder; those of `released` where the file or a field is missing.

    Qwen-VL's file names the form of prompts; Qwen2-VL's follows from its chat template: only a model that has learned to
    chat has one with ChatML.

    Raises:
      ValueError: a file is no JSON object, or a field is outside its range; the sentence names the file.
    """
    file = folder / FILE
    template = _chat_template(folder)
    chat_format = released.chat_format if template is None or IM_START in template else RAW
    if not file.is_file():
        warnings.warn(f"{folder} has no {FILE}: it is asked in {chat_format}, with greedy decoding", stacklevel=2)
        return replace(released, chat_format=chat_format, stop=_RAW_STOP if chat_format == RAW else ())
    try:
        fields: dict[str, Any] = read_json(file.read_text())
        chat_format = fields.get("chat_format", chat_format)
        sampled = fields.get("do_sample", False) and fields.get("top_k") != 1  # of one token none is drawn
        if sampled and fields.get("top_k"):
            warnings.warn(f"{file}: top_k {fields['top_k']} is left out; top_p alone chooses", stacklevel=2)
        if (penalty := fields.get("repetition_penalty", 1.0)) != 1.0:
            warnings.warn(f"{file}: repetition_penalty {penalty} is left out; nothing here does it", stacklevel=2)
        return replace(
            released,
            chat_format=chat_format,
            max_new_tokens=int(fields.get("max_new_tokens", released.max_new_tokens)),
            max_window_size=int(fields.get("max_window_size", released.max_window_size)),
            temperature=float(fields.get("temperature", 1.0)) if sampled else 0.0,
            top_p=float(fields.get("top_p", 1.0)) if sampled else 1.0,
            stop=_RAW_STOP if chat_format == RAW else (),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error


def _chat_template(folder: Path) -> str | None:
    """The folder's template of prompts, from whichever file holds it."""
    if (folder / TEMPLATE_FILES[0]).is_file():
        return (folder / TEMPLATE_FILES[0]).read_text()
    for file in (folder / name for name in TEMPLATE_FILES[1:]):
        if not file.is_file():
            continue
        try:
            template = read_json(file.read_text()).get("chat_template")
        except (AttributeError, ValueError) as error:
            raise ValueError(f"{file} is no JSON object ({error}); fetch it again") from error
        if template is not None:
            return str(template)
    return None


def stage_generation_config(stage: Stage) -> GenerationConfig:
    """The defaults of a stage's checkpoint: greedy, in the form that the stage has trained.

    A stage without the task `chat` has not seen ChatML. Histories are trimmed to the length of its rows.
    """
    chats = any(component.task == "chat" for component in stage.mixture)
    return GenerationConfig(
        chat_format=CHATML if chats else RAW,
        max_window_size=min(MAX_WINDOW_SIZE, stage.sequence_length),
        stop=() if chats else _RAW_STOP,
    )
