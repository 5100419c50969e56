"""The tasks of the Qwen-VL paper (Table 3; formats of appendix B): what a record becomes as a training
sample.

A task gives None for a record that lacks what it needs. Prompts are never learned. What is learned starts
with a space (except boxes) and ends with `<|endoftext|>`.

Questions on one picture stand behind each other in one sample, each with its own `<|endoftext|>`:
`<img>...</img>Q1 Answer: A1<|endoftext|>Q2 Answer: A2<|endoftext|>`. This is our own economy (the paper has
one question per sample): the picture is encoded once, and each further question costs its text only. The
first question stands as an evaluation asks it.
"""

from collections.abc import Callable, Iterable, Mapping

from data_pipelines.records import Question, Record, StoredImage
from qwenvl_jax.config import ModelConfig, Qwen2VLConfig, QwenVLConfig
from qwenvl_jax.processing.agent import Action, Step, agent_parts, parse_call
from qwenvl_jax.processing.chatml import SYSTEM_PROMPT, ChatTurn, chat_parts, content_parts
from qwenvl_jax.processing.markup import format_box, format_quad, format_ref
from qwenvl_jax.processing.prompts import OCR_PROMPT, grounded_captioning_prompt, referring_prompt, vqa_prompt
from qwenvl_jax.processing.qwen2_chat import SYSTEM, Content, Message
from qwenvl_jax.processing.qwen2_chat import chat_parts as qwen2_chat_parts
from qwenvl_jax.processing.sample import Image, Part, Sample, Text, Video
from qwenvl_jax.processing.tokenizer import END_OF_TEXT, IMAGE_START

OCR_KIND = "ocr"
CHAT_KIND = "chat"
CHINESE_KIND = "zh"
PLACES_KIND = "places"
"""Kinds of `Question` that tasks tell apart: on a picture's text, on several pictures, Chinese captions, captions that say
where things are."""


ENVIRONMENT = "environment"
"""Role of the turns that answer an agent's calls; only `agent` reads conversations that have them."""


def picture_sample(image: StoredImage, pairs: Iterable[tuple[str, str]]) -> Sample:
    """A picture, then pairs of prompt and target; `<|endoftext|>` is added to each target."""
    parts: list[Text | Image] = [Image(0)]
    for prompt, target in pairs:
        parts += [Text(prompt), Text(target + END_OF_TEXT, supervised=True)]
    return Sample(tuple(parts), (image.data,))


def _first(record: Record, texts: Iterable[Question]) -> Sample | None:
    for item in texts:
        if len(record.images) == 1:
            return picture_sample(record.images[0], [(item.question, f" {item.answer}")])
    return None


def caption(record: Record) -> Sample | None:
    """The first English caption that names no places."""
    return _first(record, (item for item in record.captions if item.kind not in (CHINESE_KIND, PLACES_KIND)))


def caption_zh(record: Record) -> Sample | None:
    """The first Chinese caption."""
    return _first(record, (item for item in record.captions if item.kind == CHINESE_KIND))


def caption_with_places(record: Record) -> Sample | None:
    """The first caption that says in words where things are. Only the native world has such captions: the adapter of Qwen-VL
    has positions of its own, so that `tiny` needs none."""
    return _first(record, (item for item in record.captions if item.kind == PLACES_KIND))


def caption_with_grounding(record: Record) -> Sample | None:
    """The first caption with `<ref>` and `<box>` markup."""
    return _first(record, record.grounded_captions)


def _questions(record: Record, wanted: Callable[[Question], bool]) -> Sample | None:
    asked = [(vqa_prompt(item.question), f" {item.answer}") for item in record.questions if wanted(item)]
    return picture_sample(record.images[0], asked) if asked and len(record.images) == 1 else None


def vqa(record: Record) -> Sample | None:
    """All questions on the picture, but those on its text."""
    return _questions(record, lambda item: item.kind not in (OCR_KIND, CHAT_KIND))


def ocr_vqa(record: Record) -> Sample | None:
    """All questions on the picture's text."""
    return _questions(record, lambda item: item.kind == OCR_KIND)


def _boxes(record: Record) -> list[tuple[str, str]]:
    """Phrase and box markup of each region; a phrase with several boxes has them behind each other."""
    size = (record.images[0].width, record.images[0].height)
    return [
        (region.phrase, "".join(format_box(box, *size) for box in region.boxes))
        for region in record.regions
        if region.boxes
    ]


def referring_grounding(record: Record) -> Sample | None:
    """From each region's phrase to its boxes."""
    if len(record.images) != 1 or not (found := _boxes(record)):
        return None
    return picture_sample(record.images[0], [(referring_prompt(phrase), boxes) for phrase, boxes in found])


def grounded_captioning(record: Record) -> Sample | None:
    """From each region's boxes to its phrase."""
    if len(record.images) != 1 or not (found := _boxes(record)):
        return None
    pairs = [(grounded_captioning_prompt(boxes), f" {phrase}") for phrase, boxes in found]
    return picture_sample(record.images[0], pairs)


def ocr(record: Record) -> Sample | None:
    """All lines of text with their corners."""
    if len(record.images) != 1 or not record.lines:
        return None
    image = record.images[0]
    lines = (f" {format_ref(line.text)} {format_quad(line.quad, image.width, image.height)}" for line in record.lines)
    return picture_sample(image, [(OCR_PROMPT, "".join(lines))])


def text(record: Record) -> Sample | None:
    """Pure text; all of it is learned."""
    if not record.text or IMAGE_START in record.text:
        return None
    return Sample((Text(record.text + END_OF_TEXT, supervised=True),))


def interleaved(record: Record) -> Sample | None:
    """A document with its pictures in their places; all of its text is learned.

    Raises:
      ValueError: see `content_parts` and `visual_sample`.
    """
    if IMAGE_START not in record.text:
        return None
    return visual_sample(record, content_parts(record.text + END_OF_TEXT, supervised=True))


def chat(record: Record) -> Sample | None:
    """A conversation in ChatML, with the loss mask of the original's fine-tuning; a turn of the system is the first.

    Raises:
      ValueError: see `chat_parts` and `visual_sample`.
    """
    if not record.conversation:
        return None
    turns, system = [ChatTurn(turn.role, turn.text) for turn in record.conversation], SYSTEM_PROMPT
    if turns[0].role == SYSTEM:
        system, turns = turns[0].text, turns[1:]
    return visual_sample(record, chat_parts(turns, system))


def visual_sample(record: Record, parts: Iterable[Part]) -> Sample:
    """A sample of these parts, which name images and videos of the record.

    Raises:
      ValueError: a part names one that the record lacks.
    """
    parts = tuple(parts)
    there = {Image: len(record.images), Video: len(record.videos)}
    for part in parts:
        if not isinstance(part, Text) and part.index >= there[type(part)]:
            kind = type(part).__name__.lower()
            raise ValueError(f"a turn names {kind} {part.index}, and the record has {there[type(part)]}")
    return Sample(parts, tuple(image.data for image in record.images), tuple(video.data for video in record.videos))


def video_vqa(record: Record) -> Sample | None:
    """All questions on the record's video."""
    if len(record.videos) != 1 or not record.questions:
        return None
    parts: list[Text | Video] = [Video(0)]
    for item in record.questions:
        parts += [Text(vqa_prompt(item.question)), Text(f" {item.answer}{END_OF_TEXT}", supervised=True)]
    return Sample(tuple(parts), videos=(record.videos[0].data,))


def turn_content(text: str) -> Content:
    """A stored turn's text, cut at its images and videos."""
    return tuple(part.text if isinstance(part, Text) else part for part in content_parts(text))


def qwen2_chat(record: Record) -> Sample | None:
    """As `chat`, with Qwen2-VL's loss mask: what the assistant says and the end of its turns."""
    if not record.conversation or is_episode(record):
        return None
    messages = [Message(turn.role, turn_content(turn.text)) for turn in record.conversation]
    return visual_sample(record, qwen2_chat_parts(messages))


def is_episode(record: Record) -> bool:
    """Whether the conversation is one with an environment."""
    return any(turn.role == ENVIRONMENT for turn in record.conversation)


def agent(record: Record) -> Sample | None:
    """An episode: the system's turn lists actions (`Name: what it does` in each line), the user's tells the task, then calls
    of the assistant and results of the environment follow each other up to the assistant's last words. Learned are the
    assistant's turns.

    Raises:
      ValueError: turns are missing, or a turn of the assistant holds no call.
    """
    if not is_episode(record):
        return None
    turns = record.conversation[2:-1]
    if len(turns) % 2 or not turns or any(turn.role != ENVIRONMENT for turn in turns[1::2]):
        raise ValueError("the episode is no row of calls, each with its result, and a reply in the end")
    system, user, *_, reply = record.conversation
    actions = [Action(*line.split(": ", 1)) for line in system.text.splitlines() if ": " in line]
    steps = []
    for said, result in zip(turns[::2], turns[1::2]):
        call = parse_call(said.text)
        if call is None:
            raise ValueError(f"{said.text[:60]!r} is answered by the environment and holds no call")
        steps.append(Step(call, turn_content(result.text)))
    return visual_sample(record, agent_parts(actions, turn_content(user.text), steps, reply.text))


Task = Callable[[Record], Sample | None]

TASKS: dict[str, Task] = {
    "caption": caption,
    "caption_zh": caption_zh,
    "vqa": vqa,
    "ocr_vqa": ocr_vqa,
    "caption_with_grounding": caption_with_grounding,
    "referring_grounding": referring_grounding,
    "grounded_captioning": grounded_captioning,
    "ocr": ocr,
    "text": text,
    "chat": chat,
}
"""What a mixture's component may name; caption and caption_zh are one task of the paper in two languages."""
TASKS_OF: Mapping[type, Mapping[str, Task]] = {
    # a model's configuration: its tasks
    QwenVLConfig: TASKS,
    Qwen2VLConfig: TASKS
    | {
        "caption_with_places": caption_with_places,
        "chat": qwen2_chat,
        "interleaved": interleaved,
        "video_vqa": video_vqa,
        "agent": agent,
    },
}


def tasks_of(model: ModelConfig) -> Mapping[str, Task]:
    """The tasks of a model, by the names that a mixture's component may have."""
    return TASKS_OF[type(model)]
