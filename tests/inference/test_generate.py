"""Promises of `qwenvl_jax.inference.generate`: answers depend on query and seed alone; the stream is the answer."""

from dataclasses import replace

import pytest

from qwenvl_jax.inference import generate as module
from qwenvl_jax.inference.generate import generate, stream

SAMPLED = {"temperature": 0.9, "top_p": 0.9}


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_answers_do_not_depend_on_the_batch(model, processor, prompts, settings) -> None:
    """Each prompt gets its own answer, in its order: in one batch, in small ones (the last filled up), and alone."""
    seeds = [3, 1, 4, 1]
    together = generate(model, processor, prompts, seed=seeds, **settings)
    apart = generate(model, processor, prompts, seed=seeds, batch_size=3, **settings)
    alone = [generate(model, processor, [p], seed=s, **settings)[0] for p, s in zip(prompts, seeds)]
    assert together == apart == alone
    assert len(set(together)) == len(prompts)
    assert generate(model, processor, [], **settings) == []


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_the_stream_is_the_answer(model, processor, prompts, settings) -> None:
    """Pieces put together are what the batch gives, in more than one piece."""
    answers = generate(model, processor, prompts, seed=5, **settings)
    for prompt, answer in zip(prompts, answers):
        pieces = list(stream(model, processor, prompt, seed=5, **settings))
        assert "".join(pieces) == answer
        assert all(pieces)
    assert len(list(stream(model, processor, prompts[3], seed=5, **settings))) > 1


def test_seeds_draw_other_answers(model, processor, prompts) -> None:
    """One prompt and several seeds give several answers, the same ones again the next time."""
    drawn = generate(model, processor, [prompts[0]] * 4, seed=[1, 2, 1, 3], **SAMPLED)
    assert drawn[0] == drawn[2]
    assert len(set(drawn)) == 3


def test_stop_words_end_an_answer_in_a_batch(model, processor, prompts) -> None:
    """A word that stands in one answer cuts it there and leaves the others, though it is seen between two calls."""
    free = generate(model, processor, prompts)
    word = free[3][2:5]
    stopped = generate(model, processor, prompts, stop=(word,))
    expected = [text[: text.find(word)].strip() if word in text else text for text in free]
    assert stopped == expected
    assert stopped[3] != free[3]
    assert "".join(stream(model, processor, prompts[3], stop=(word,))) == stopped[3]


def test_the_device_is_not_asked_for_more_than_is_needed(model, processor, prompts, monkeypatch) -> None:
    """n tokens take one reading of the prompt and n - 1 steps: nothing is computed behind the last token."""
    steps = []
    original = module.advance

    def counted(*arguments, **settings):
        state, written = original(*arguments, **settings)
        steps.append(int(arguments[5]))
        return state, written

    monkeypatch.setattr(module, "advance", counted)
    generate(model, processor, prompts[:1], max_new_tokens=7)
    assert steps == [6]
    generate(model, processor, prompts[:1], max_new_tokens=1)
    assert steps == [6]


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"top_p": 0.0}, r"top_p 0.0 is not in \(0, 1\]"),
        ({"temperature": -1.0}, "temperature -1.0 is not in"),
        ({"temperature": float("nan")}, "temperature nan is not in"),
        ({"max_new_tokens": 0}, "at least one token"),
        ({"stop": "Human:"}, "no list of strings"),
        ({"stop": ("",)}, "not empty"),
        ({"seed": -1, "temperature": 1.0}, "seed -1 is not in"),
        ({"seed": [1, 2]}, "2 seeds for 1 queries"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_wrong_settings_are_a_sentence(model, processor, settings, sentence) -> None:
    """Nothing is computed with a setting that means nothing."""
    with pytest.raises(ValueError, match=sentence):
        generate(model, processor, ["hello"], **settings)


def test_queries_come_as_a_list(model, processor) -> None:
    """A string would be taken for a list of its letters."""
    with pytest.raises(ValueError, match=r"write \[query\] for one"):
        generate(model, processor, "hello")


def test_raw_and_chatml_are_asked_differently(model, processor) -> None:
    """The same query as a chat and as it is, which is what a base model reads."""
    raw = replace(processor, generation=replace(processor.generation, chat_format="raw"))
    assert raw(["hello"]).segment_ids.sum() == len("hello")
    assert processor(["hello"]).segment_ids.sum() > len("hello") + len("You are a helpful assistant.")
