"""A caption as tasks want it: with the prompt of its language."""

from data_pipelines.records import Question
from data_pipelines.tasks import CHINESE_KIND
from qwenvl_jax.processing.prompts import CAPTION_PROMPT, CAPTION_PROMPT_ZH

CHINESE_SHARE = 0.3
"""Share of a text's letters that are Chinese from which it counts as Chinese: one character says about as much as an
English word of four letters, so names in Latin letters do not make a Chinese caption English."""


def is_chinese(text: str) -> bool:
    """Whether a text is Chinese rather than in an alphabet."""
    letters = [character for character in text if character.isalpha()]
    chinese = sum("一" <= character <= "鿿" or "㐀" <= character <= "䶿" for character in letters)
    return chinese > CHINESE_SHARE * len(letters)


def caption_question(text: str) -> Question:
    """The caption with its prompt and language.

    Raises:
      ValueError: there is no caption.
    """
    text = text.strip()
    if not text:
        raise ValueError("the caption is empty")
    if is_chinese(text):
        return Question(CAPTION_PROMPT_ZH, text, CHINESE_KIND)
    return Question(CAPTION_PROMPT, text, "en")


def decode_text(data: bytes) -> str:
    """UTF-8 text.

    Raises:
      ValueError: the bytes are no UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("the text is not UTF-8") from error
