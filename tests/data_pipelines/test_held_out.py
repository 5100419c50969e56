"""Held-out examples: asked as training taught, answerable within the budgets, and fairly chosen."""

from dataclasses import replace

import pytest

from configs.qwen2_vl import MODEL_2B
from data_pipelines import tasks
from data_pipelines.held_out import (
    ASKED,
    CHATS,
    DOCUMENTS,
    SCENES,
    SMALL_PRINT,
    VIDEOS,
    Asked,
    asked_of,
    choose,
    held_out_examples,
    split_sample,
)
from data_pipelines.records import Question, Record, Turn
from data_pipelines.synthetic.world import Source, make_record
from data_pipelines.tasks import tasks_of
from qwenvl_jax.evaluation.benchmarks import BENCHMARKS, evaluate
from qwenvl_jax.processing.images import image_size
from qwenvl_jax.processing.patches import Grid
from qwenvl_jax.processing.qwen2_tokens import QWEN2_VL
from qwenvl_jax.processing.sample import Image, Sample, Text, Video
from qwenvl_jax.processing.tokenizer import load_tokenizer
from qwenvl_jax.processing.visual_sample import encode_visual_sample

NUMBER = 12


class Records(list):
    name = "held_out/test"


@pytest.fixture(scope="module")
def sources() -> dict[str, Records]:
    kinds = {SCENES: SCENES, DOCUMENTS: DOCUMENTS, CHATS: CHATS, SMALL_PRINT: "small print", VIDEOS: "videos"}
    return {
        name: Records(make_record(1, Source(f"held_out/{name}", kind, True, 24, stream), i) for i in range(24))
        for stream, (name, kind) in enumerate(kinds.items())
    }


@pytest.fixture(scope="module")
def examples(sources):
    return held_out_examples(sources, dict.fromkeys(ASKED, NUMBER))


def test_every_benchmark_is_asked(examples):
    """The tables of benchmarks and of what they ask name the same, each as often as wanted."""
    assert set(ASKED) == set(BENCHMARKS)
    counts = {name: sum(example.benchmark == name for example in examples) for name in ASKED}
    assert counts.pop("chat_refer") > 0
    assert counts == dict.fromkeys(counts, NUMBER)


def test_a_perfect_model_scores_one(examples):
    """The right answer of every example is right: no benchmark is out of reach by its own format."""
    answers = {id(example.prompt): example.answer for example in examples}
    result = evaluate(examples, lambda prompts, most: [answers[id(prompt)] for prompt in prompts])
    assert result.scores.pop("refer_mean_iou") > 0.97  # rounding to a thousandth, and 999 against 1000
    assert set(result.scores.values()) == {1.0}
    assert all(evaluate(examples, lambda prompts, most: [""] * len(prompts)).scores[key] == 0 for key in result.scores)


def test_right_answers_fit_the_token_budgets(examples):
    """With a token per byte, a space before the answer and an end token behind it, no right answer is cut
    off.
    """
    tokenizer = load_tokenizer("bytes")
    for example in examples:
        assert len(tokenizer.encode(f" {example.answer}")) + 1 <= BENCHMARKS[example.benchmark].max_new_tokens, example


@pytest.mark.parametrize(
    "benchmark, task",
    [
        ("caption", "caption"),
        ("caption_zh", "caption_zh"),
        ("grounded_caption", "caption_with_grounding"),
        ("ocr", "ocr"),
    ],
)
def test_prompts_and_answers_are_the_training_samples(examples, sources, benchmark, task):
    """Prompt and answer together are the training sample of the same record."""
    records = {record.key: record for source in sources.values() for record in source}
    for example in (example for example in examples if example.benchmark == benchmark):
        sample = tasks.TASKS[task](records[example.key])
        assert sample == Sample(
            (*example.prompt.parts, replace(sample.parts[-1], text=f" {example.answer}<|endoftext|>")),
            example.prompt.images,
        )


def test_prompts_supervise_nothing_and_name_their_pictures(examples):
    """A prompt never holds its answer, and every picture of the record stands in it, in order."""
    for example in examples:
        assert not any(part.supervised for part in example.prompt.parts if isinstance(part, Text))
        shown = [part.index for part in example.prompt.parts if isinstance(part, Image)]
        assert shown == list(range(len(example.prompt.images)))
        watched = [part.index for part in example.prompt.parts if isinstance(part, Video)]
        assert watched == list(range(len(example.prompt.videos)))
        assert shown or watched
        assert "<img>" not in example.question


def test_one_question_of_each_record_comes_first():
    """Pictures are used before second questions on one picture; positions in a record rotate, so kinds are
    mixed.
    """
    records = [
        Record(f"r{i}", questions=tuple(Question(f"q{j}", "a", "chat") for j in range(3)), images=()) for i in range(4)
    ]
    asked = Asked("chat", CHATS, ASKED["chat"].examples, 6)
    chosen = [(example.key, example.question) for example in choose(records, asked, 6)]
    assert chosen == [("r0", "q0"), ("r1", "q1"), ("r2", "q2"), ("r3", "q0"), ("r0", "q1"), ("r1", "q2")]
    assert [example.key for example in choose([Record("empty"), *records], asked, 2)] == ["r0", "r1"]


def test_wrong_requests_are_one_sentence(sources):
    """An unknown benchmark, records that cannot be asked, and a sample without an answer are reported."""
    with pytest.raises(ValueError, match=r"no benchmark \['poem'\]"):
        held_out_examples(sources, {"poem": 1})
    with pytest.raises(ValueError, match="held_out/test: none of 1 records can be asked for benchmark vqa"):
        held_out_examples({**sources, SCENES: Records([Record("text", text="a")])})
    with pytest.raises(ValueError, match="does not end with its answer"):
        split_sample(Sample((Text("only a prompt"),)))


def test_small_print_is_asked_twice(sources):
    """At its own size and at the low one the same questions are asked in the same order; only the picture differs."""
    asked = held_out_examples({SMALL_PRINT: sources[SMALL_PRINT]})
    native, low = ([item for item in asked if item.benchmark == name] for name in ("small_print", "small_print_low"))
    assert [(item.key, item.question, item.answer) for item in native] == [
        (item.key, item.question, item.answer) for item in low
    ]
    assert len(native) > 20
    for large, small in zip(native, low):
        assert large.prompt.parts == small.prompt.parts
        assert image_size(small.prompt.images[0]) == (56, 56)
        assert min(image_size(large.prompt.images[0])) >= 84


def test_sources_that_are_not_there_are_not_asked(sources):
    """A world of videos alone is asked about videos alone."""
    assert {item.benchmark for item in held_out_examples({VIDEOS: sources[VIDEOS]})} == {"video"}


def test_a_benchmark_can_be_left_out(sources):
    """Zero examples of every other benchmark leaves one."""
    left = held_out_examples(sources, {**dict.fromkeys(ASKED, 0), "ocr": 3})
    assert [example.benchmark for example in left] == ["ocr"] * 3


def test_a_qwen2_vl_is_asked_in_its_own_format(sources):
    """The same questions and answers as a Qwen-VL's; conversations as its training writes them, up to the answer."""
    model = MODEL_2B
    table = asked_of(model)
    examples = held_out_examples(sources, dict.fromkeys(table, NUMBER), table)
    theirs = held_out_examples(sources, dict.fromkeys(ASKED, NUMBER))
    assert [(e.key, e.question, e.answer) for e in examples] == [(e.key, e.question, e.answer) for e in theirs]
    plain = [(e, other) for e, other in zip(examples, theirs) if not e.benchmark.startswith("chat")]
    assert all(e.prompt == other.prompt for e, other in plain)
    tokenizer = load_tokenizer("world", QWEN2_VL)
    for example in (e for e in examples if e.benchmark == "chat"):
        [record] = [record for record in sources[CHATS] if record.key == example.key]
        question = next(item for item in record.questions if example.question in item.question)
        turns = (Turn("user", question.question), Turn("assistant", example.answer))
        sample = tasks_of(model)["chat"](replace(record, conversation=turns))
        grids = [Grid(1, 2, 2)] * len(sample.images)
        trained = encode_visual_sample(sample, tokenizer, grids).tokens
        asked = encode_visual_sample(example.prompt, tokenizer, grids).tokens
        assert tokenizer.decode(trained[len(asked) :]) == f"{example.answer}<|im_end|>\n"
        assert (trained[: len(asked)] == asked).all()
        assert example.prompt.images == sample.images
