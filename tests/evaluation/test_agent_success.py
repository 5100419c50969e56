"""Whole tasks of an agent, with models that are functions: what counts as solved, and what the model is shown."""

import numpy as np
import pytest

from configs.qwen2_vl import MODEL_2B
from data_pipelines.sources.array_record import ArrayRecordSource
from data_pipelines.synthetic.screens import expert, sample_screen
from data_pipelines.synthetic.world import held_out_screens, make_native_world
from data_pipelines.tasks import tasks_of
from qwenvl_jax.evaluation.agent import MOST_STEPS, evaluate_agent, play
from qwenvl_jax.evaluation.benchmarks import BENCHMARKS, gallery
from qwenvl_jax.evaluation.figures import NAMES
from qwenvl_jax.processing.agent import format_call
from qwenvl_jax.processing.example import Example
from qwenvl_jax.processing.sample import Sample

STARTS = {f"task {seed}": sample_screen(np.random.default_rng(seed), held_out=True) for seed in range(12)}


class Scripted:
    """Answers as the expert does, by what it is shown; keeps the prompts."""

    def __init__(self, starts) -> None:
        self.prompts: list[Sample] = []
        self.known = {}
        for start in starts:
            screen, seen = start, (start.screenshot(),)
            while (call := expert(screen)) is not None:
                self.known[start.task, seen] = format_call(call)
                screen = screen.after(call)
                seen = (*seen, screen.screenshot())
            self.known[start.task, seen] = " Done."

    def __call__(self, prompts):
        self.prompts += prompts
        tasks = {task for task, _ in self.known}
        texts = []
        for prompt in prompts:
            [task] = [
                task
                for task in tasks
                if any(getattr(part, "text", "").startswith(f"user\n{task} ") for part in prompt.parts)
            ]
            texts.append(self.known[task, prompt.images])
        return texts


def test_the_expert_solves_everything() -> None:
    """Played through the prompts alone, with all episodes in step, every task is solved."""
    result = evaluate_agent(STARTS, Scripted(STARTS.values()))
    assert result.scores == {"agent_success": 1.0}
    assert result.weights == {"agent_success": len(STARTS)}
    assert {answer.score for answer in result.answers} == {1.0}


@pytest.mark.parametrize(
    "text",
    [
        " Done.",
        '✿FUNCTION✿: Tap\n✿ARGS✿: {"point": (1,1)}',
        "✿FUNCTION✿: Tap",
        '✿FUNCTION✿: Tap\n✿ARGS✿: {"p": (1,)}',
        "",
    ],
)
def test_other_ways_solve_nothing(text: str) -> None:
    """To reply at once, to miss for ever, and to write what no one can read: each ends, and none is a success."""
    calls = []
    result = evaluate_agent(STARTS, lambda prompts: calls.append(len(prompts)) or [text] * len(prompts))
    assert result.scores == {"agent_success": 0.0}
    assert len(calls) <= MOST_STEPS + 1


def test_a_solved_task_without_a_reply_is_none() -> None:
    """The model has to see that it is done: repeating the last call for ever is no success."""
    start = next(start for start in STARTS.values() if not start.goal.text)
    call = format_call(expert(start))
    [episode] = play([start], lambda prompts: [call])
    assert not episode.replied
    assert not episode.success


def test_one_wrong_step_of_several_fails_the_task() -> None:
    """Success is of whole tasks: three right calls of four, and a reply, are none."""
    starts = [start for start in STARTS.values() if start.goal.text]
    scripted = Scripted(starts)

    def stopping_early(prompts):
        return [" Done." if len(prompt.images) == 4 else scripted([prompt])[0] for prompt in prompts]

    episodes = play(starts, stopping_early)
    assert {len(episode.steps) for episode in episodes} == {3}
    assert all(episode.replied and not episode.success for episode in episodes)


def test_prompts_are_beginnings_of_training_samples(tmp_path) -> None:
    """What the model sees in an episode is what training showed it: parts, pictures and their order."""
    counts = {"scenes": 1, "small_print": 1, "videos": 1, "episodes": 1, "texts": 1}
    make_native_world(tmp_path, seed=3, workers=1, held_out=(1, 1, 1, 4), **counts)
    records = {record.key: record for record in ArrayRecordSource(tmp_path / "held_out" / "episodes")}
    screens = held_out_screens(tmp_path)
    assert screens.keys() == records.keys()
    scripted = Scripted(screens.values())
    assert evaluate_agent(screens, scripted).scores == {"agent_success": 1.0}
    agent = tasks_of(MODEL_2B)["agent"]
    samples = [agent(record) for record in records.values()]
    for prompt in scripted.prompts:
        assert any(
            prompt.parts == sample.parts[: len(prompt.parts)] and prompt.images == sample.images[: len(prompt.images)]
            for sample in samples
        )
    assert held_out_screens(tmp_path, share=0.5).keys() == set(list(records)[:2])
    assert held_out_screens(tmp_path / "nothing") == {}


def test_a_report_shows_the_screens() -> None:
    """The gallery has each shown episode's screens, its calls and its score."""
    items = gallery(evaluate_agent(STARTS, Scripted(STARTS.values())), pictures=2)
    assert [item["benchmark"] for item in items] == ["agent"] * 2
    assert all(len(item["pictures"]) == item["predicted"].count("\n") + 1 for item in items)


def test_every_score_of_the_native_world_has_a_name_in_the_report() -> None:
    """None of them is listed among kinds of questions."""
    for benchmark in ("small_print", "small_print_low", "video"):
        asked = Example("k", benchmark, Sample(()), "?", "red")
        assert set(BENCHMARKS[benchmark].score("red", asked)) <= set(NAMES)
    assert set(evaluate_agent(STARTS, lambda prompts: [""] * len(prompts)).scores) <= set(NAMES)


def test_a_wrong_number_of_answers_is_reported() -> None:
    """One sentence, as for other benchmarks."""
    with pytest.raises(ValueError, match="0 answers to 12 prompts"):
        play(list(STARTS.values()), lambda prompts: [])
