"""Examples for the benchmarks, made from held-out records by the same tasks that make training samples.

So an evaluation asks exactly as training taught: the prompt is the task's sample up to what is learned, and
the right answer is what would have been learned.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import NamedTuple

from data_pipelines import tasks
from data_pipelines.records import Record
from data_pipelines.sources.source import RecordSource
from data_pipelines.synthetic.small_print import at_low_resolution
from qwenvl_jax.config import ModelConfig, Qwen2VLConfig, QwenVLConfig
from qwenvl_jax.processing.chat_formats import CHAT_FORMATS, ChatFormat, chat_prompt
from qwenvl_jax.processing.chatml import Round, query_of
from qwenvl_jax.processing.example import Example
from qwenvl_jax.processing.sample import Sample, Text
from qwenvl_jax.processing.tokenizer import BOX_START, END_OF_TEXT, IMAGE_START


def split_sample(sample: Sample) -> tuple[Sample, str]:
    """The prompt of a sample with one answer, and the answer without end token and outer white space.

    Raises:
      ValueError: the last part is not learned.
    """
    *prompt, target = sample.parts
    if not isinstance(target, Text) or not target.supervised:
        raise ValueError("the sample does not end with its answer: it cannot be asked")
    answer = target.text.removesuffix(END_OF_TEXT).strip()
    return replace(sample, parts=tuple(prompt)), answer


def _example(record: Record, benchmark: str, sample: Sample | None, question: str, **fields) -> Iterator[Example]:
    if sample is not None:
        prompt, answer = split_sample(sample)
        yield Example(record.key, benchmark, prompt, question, answer, **fields)


def _vqa(record: Record) -> Iterator[Example]:
    for item in record.questions:
        sample = tasks.vqa(replace(record, questions=(item,)))
        yield from _example(record, "vqa", sample, item.question, kind=item.kind)


def _ocr_vqa(record: Record) -> Iterator[Example]:
    for item in record.questions:
        sample = tasks.ocr_vqa(replace(record, questions=(item,)))
        yield from _example(record, "ocr_vqa", sample, item.question)


def _small_print(record: Record) -> Iterator[Example]:
    for item in record.questions:
        sample = tasks.ocr_vqa(replace(record, questions=(item,)))
        yield from _example(record, "small_print", sample, item.question)


def _small_print_low(record: Record) -> Iterator[Example]:
    """The questions of `_small_print`, on pictures at a fixed low resolution."""
    for example in _small_print(record):
        images = tuple(map(at_low_resolution, example.prompt.images))
        yield replace(example, benchmark="small_print_low", prompt=replace(example.prompt, images=images))


def _video(record: Record) -> Iterator[Example]:
    for item in record.questions:
        sample = tasks.video_vqa(replace(record, questions=(item,)))
        yield from _example(record, "video", sample, item.question, kind=item.kind)


def _caption(record: Record) -> Iterator[Example]:
    yield from _example(record, "caption", tasks.caption(record), "Caption")


def _caption_zh(record: Record) -> Iterator[Example]:
    yield from _example(record, "caption_zh", tasks.caption_zh(record), "Chinese caption")


def _grounded_caption(record: Record) -> Iterator[Example]:
    sample = tasks.caption_with_grounding(record)
    yield from _example(record, "grounded_caption", sample, "Caption with grounding")


def _refer(record: Record) -> Iterator[Example]:
    for region in record.regions:
        if len(region.boxes) != 1 or len(record.images) != 1:
            continue
        width, height = record.images[0].width, record.images[0].height
        x1, y1, x2, y2 = region.boxes[0]
        sample = tasks.referring_grounding(replace(record, regions=(region,)))
        boxes = ((x1 / width, y1 / height, x2 / width, y2 / height),)
        yield from _example(record, "refer", sample, region.phrase, boxes=boxes)


def _ocr(record: Record) -> Iterator[Example]:
    yield from _example(record, "ocr", tasks.ocr(record), "Text in the picture")


_PICTURE_LINE = re.compile(f".*{re.escape(IMAGE_START)}.*\n")


def _chat_example(
    chat: ChatFormat, record: Record, benchmark: str, history: Sequence[tuple[str, str]], query: str, answer: str
) -> Example:
    """`history` holds the texts of past questions and answers."""
    images = tuple(image.data for image in record.images)
    rounds = [Round(query_of(asked, images), answered) for asked, answered in history]
    prompt = chat_prompt(chat, rounds, query_of(query, images))
    return Example(record.key, benchmark, prompt, _PICTURE_LINE.sub("", query), answer)


def _chat(chat: ChatFormat, record: Record) -> Iterator[Example]:
    """Questions on several pictures, each as the first turn of a conversation."""
    for item in record.questions:
        if item.kind == tasks.CHAT_KIND:
            yield _chat_example(chat, record, "chat", (), item.question, item.answer)


def _chat_refer(chat: ChatFormat, record: Record) -> Iterator[Example]:
    """Turns that are answered with a box, behind the true turns before them."""
    turns = [turn.text for turn in record.conversation]
    rounds = list(zip(turns[::2], turns[1::2]))
    for i, (question, answer) in enumerate(rounds):
        if BOX_START in answer:
            yield _chat_example(chat, record, "chat_refer", rounds[:i], question, answer)


SCENES, DOCUMENTS, CHATS, SMALL_PRINT, VIDEOS = "scenes", "documents", "chats", "small_print", "videos"


class Asked(NamedTuple):
    """A benchmark's examples: the training task that teaches it, the held-out source, how a record is asked, how many
    questions."""

    task: str
    source: str
    examples: Callable[[Record], Iterable[Example]]
    number: int


def _chats(chat: ChatFormat) -> dict[str, Asked]:
    return {
        "chat": Asked("chat", CHATS, partial(_chat, chat), 120),
        "chat_refer": Asked("chat", CHATS, partial(_chat_refer, chat), 40),
    }


ASKED: dict[str, Asked] = {
    "vqa": Asked("vqa", SCENES, _vqa, 200),
    "caption": Asked("caption", SCENES, _caption, 120),
    "caption_zh": Asked("caption_zh", SCENES, _caption_zh, 40),
    "refer": Asked("referring_grounding", SCENES, _refer, 120),
    "grounded_caption": Asked("caption_with_grounding", SCENES, _grounded_caption, 40),
    "ocr": Asked("ocr", DOCUMENTS, _ocr, 100),
    "ocr_vqa": Asked("ocr_vqa", DOCUMENTS, _ocr_vqa, 60),
    **_chats(CHAT_FORMATS[QwenVLConfig]),
    "small_print": Asked("ocr_vqa", SMALL_PRINT, _small_print, 120),
    "small_print_low": Asked("ocr_vqa", SMALL_PRINT, _small_print_low, 120),
    "video": Asked("video_vqa", VIDEOS, _video, 160),
}
"""Benchmark -> what it asks of a Qwen-VL. A standard error of a share p is sqrt(p (1 - p) / number): 0.02 for 0.9 of 200.
"""
ASKED_OF: Mapping[type, Mapping[str, Asked]] = {
    # a model's configuration: its benchmarks
    QwenVLConfig: ASKED,
    Qwen2VLConfig: ASKED | _chats(CHAT_FORMATS[Qwen2VLConfig]),
}


def asked_of(model: ModelConfig) -> Mapping[str, Asked]:
    """The benchmarks of a model, each in the format in which the model is trained."""
    return ASKED_OF[type(model)]


def choose(records: Iterable[Record], asked: Asked, number: int) -> list[Example]:
    """Up to `number` examples: one of each record, then a second of each, and so on.

    Which question of a record is asked moves on from record to record, so that every kind has its share.
    """
    found = islice(filter(None, (list(asked.examples(record)) for record in records)), number)
    questions = list(enumerate(found))
    rounds = max((len(options) for _, options in questions), default=0)
    chosen = [
        options[(i + begun) % len(options)]
        for begun in range(rounds)
        for i, options in questions
        if begun < len(options)
    ]
    return chosen[:number]


def held_out_examples(
    sources: Mapping[str, RecordSource],
    numbers: Mapping[str, int] | None = None,
    benchmarks: Mapping[str, Asked] = ASKED,
) -> tuple[Example, ...]:
    """Examples of all benchmarks whose source is there.

    Args:
      sources: held-out records by the names of sources; a benchmark whose source is not there is not asked.
      numbers: examples of a benchmark where they differ from the table's; 0 leaves it out.
      benchmarks: of the model, see `asked_of`.

    Raises:
      ValueError: `numbers` names no benchmark, or a source has no record that a benchmark can ask about.
    """
    numbers = numbers or {}
    if unknown := set(numbers) - set(benchmarks):
        raise ValueError(f"no benchmark {sorted(unknown)}; there are {list(benchmarks)}")
    examples: list[Example] = []
    for name, asked in benchmarks.items():
        if asked.source not in sources:
            continue
        number = numbers.get(name, asked.number)
        source = sources[asked.source]
        found = choose((source[i] for i in range(len(source))), asked, number)
        if number and not found:
            raise ValueError(f"{source.name}: none of {len(source)} records can be asked for benchmark {name}")
        examples += found
    return tuple(examples)
