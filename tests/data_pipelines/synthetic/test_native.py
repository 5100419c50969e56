"""The native world: pictures of many sizes, print that only native resolution can read, episodes as training samples."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from configs.qwen2_vl import MODEL_2B
from data_pipelines.sources.array_record import ArrayRecordSource
from data_pipelines.synthetic import world
from data_pipelines.synthetic.native_texts import KINDS, told_lines, told_names
from data_pipelines.synthetic.small_print import CAPITALS, LOW_RESOLUTION, at_low_resolution
from data_pipelines.synthetic.wording import ASKED, ASKED_HARD
from data_pipelines.tasks import tasks_of
from qwenvl_jax.processing.qwen2_tokens import QWEN2_VL, to_qwen2_markup
from qwenvl_jax.processing.sample import Image as Picture
from qwenvl_jax.processing.sample import Text
from qwenvl_jax.processing.tokenizer import load_tokenizer

COUNTS = {"scenes": 5, "small_print": 4, "videos": 4, "episodes": 3, "texts": 6, "held_out": (3, 2, 2, 2)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native") / "small"
    world.make_native_world(folder, seed=1, workers=1, **COUNTS)
    return folder


def records(folder, name: str) -> list:
    return list(ArrayRecordSource(folder / name))


def test_every_source_feeds_its_tasks(made) -> None:
    """Each source has as many records as asked for, and every record gives a sample to the tasks it is made for."""
    tasks = tasks_of(MODEL_2B)
    for name, task, count in (
        ("scenes", "vqa", 5), ("scenes", "referring_grounding", 5), ("small_print", "ocr_vqa", 4), ("small_print", "ocr", 4),
        ("videos", "video_vqa", 4), ("episodes", "agent", 3), ("texts", "text", 6), ("held_out/scenes", "vqa", 3),
        ("held_out/small_print", "ocr_vqa", 2), ("held_out/videos", "video_vqa", 2), ("held_out/episodes", "agent", 2),
    ):  # fmt: skip
        found = records(made, name)
        assert len(found) == count
        assert all(tasks[task](record) is not None for record in found), (name, task)


def test_any_number_of_workers(made, tmp_path, monkeypatch) -> None:
    """Two processes make the same bytes as one, encoded videos too."""
    monkeypatch.setattr(world, "RECORDS_PER_JOB", 2)
    world.make_native_world(tmp_path / "w", seed=1, workers=2, **COUNTS)
    for name in ("scenes", "videos", "held_out/episodes"):
        assert ArrayRecordSource(tmp_path / "w" / name).fingerprint == ArrayRecordSource(made / name).fingerprint


def test_scenes_have_many_sizes_and_aspects() -> None:
    """Areas differ by more than two, aspect ratios run from tall to wide."""
    source = world.Source("scenes", "native scenes", False, 60, 0)
    images = [world.make_record(0, source, i).images[0] for i in range(60)]
    aspects = [image.width / image.height for image in images]
    areas = [image.width * image.height for image in images]
    assert min(aspects) < 0.7
    assert max(aspects) > 1.4
    assert max(areas) > 2 * min(areas)


def test_small_print_is_lost_at_low_resolution() -> None:
    """Where native capitals have 12 pixels and more, those of the low resolution have at most 8, and 4 across; contrast
    in the line falls."""
    source = world.Source("small_print", "small print", False, 20, 0)
    for index in range(20):
        record = world.make_record(0, source, index)
        image = record.images[0]
        small = Image.open(io.BytesIO(at_low_resolution(image.data))).convert("L")
        assert small.size == (LOW_RESOLUTION, LOW_RESOLUTION)
        assert CAPITALS[1] * LOW_RESOLUTION / image.height < 9
        assert CAPITALS[1] * LOW_RESOLUTION / image.width < 4.5
        full = Image.open(io.BytesIO(image.data)).convert("L")
        corners = np.array(record.lines[0].quad) / (image.width, image.height)
        assert roughness(small, corners) < 0.85 * roughness(full, corners)


def roughness(picture: Image.Image, corners: np.ndarray) -> float:
    """Standard deviation of the pixels of a line, whose corners are shares of the sides."""
    (left, top), (right, bottom) = corners.min(0) * picture.size, corners.max(0) * picture.size
    pixels = np.asarray(picture, float)
    return float(pixels[int(top) : int(bottom) + 1, int(left) : int(right) + 1].std())


def test_episodes_learn_the_models_own_turns(made) -> None:
    """Every screenshot stands in the sample in order; learned are the calls and the reply, nothing of the environment."""
    agent = tasks_of(MODEL_2B)["agent"]
    for record in records(made, "episodes"):
        sample = agent(record)
        shown = [part.index for part in sample.parts if isinstance(part, Picture)]
        assert shown == list(range(len(record.images)))
        learned = [part.text for part in sample.parts if isinstance(part, Text) and part.supervised]
        said = [turn.text for turn in record.conversation if turn.role == "assistant"]
        assert [text.strip().removesuffix("✿RESULT✿").strip() for text in learned[:-1]] == said
        assert learned[-1] == "<|im_end|>\n"


def test_texts_of_every_kind_are_short() -> None:
    """Up to 384 ids of the embedded vocabulary: rows of the recipe hold every one."""
    tokenizer = load_tokenizer("native", QWEN2_VL)
    for make in KINDS:
        for seed in range(20):
            text = make(np.random.default_rng(seed))
            assert 5 < len(tokenizer.encode(to_qwen2_markup(text))) < 384, make


def test_texts_are_drawn_by_shares_that_are_whole() -> None:
    """The shares of all kinds add up to one."""
    assert sum(KINDS.values()) == pytest.approx(1)


def test_names_that_are_asked_for_are_told_before() -> None:
    """Every list names the same objects, each word stands for one of them, and every object is asked for once by one of its
    words, with the other as answer."""
    for seed in range(30):
        parts = told_names(np.random.default_rng(seed)).split("<|endoftext|>")
        told, *again = [{frozenset(named.split()) for named in part.split(", ")} for part in parts[:3]]
        assert all(names == told for names in again)
        assert len(set().union(*told)) == 2 * len(told)
        answered = []
        for part in parts[3:]:
            asked, _, answer = part.rpartition("? Answer: ")
            answered.append(frozenset((asked.removesuffix(" object").split()[-1], answer)))
        assert len(answered) == len(told) == len(set(answered))
        assert set(answered) == told


def test_lines_that_are_asked_for_are_told_before() -> None:
    """Every list says each line again by its number, and each line is asked for once, with its text as answer."""
    for seed in range(30):
        parts = told_lines(np.random.default_rng(seed)).split("<|endoftext|>")
        lines = parts[0].split(", ")
        numbered = {f"line {number} {text}" for number, text in enumerate(lines, 1)}
        assert all(set(again.split(", ")) == numbered for again in parts[1:3])
        assert sorted(asked.split("? Answer: ")[1] for asked in parts[3:]) == sorted(lines)
        for asked in parts[3:]:
            question, answer = asked.split("? Answer: ")
            if question.startswith("What is on line"):
                assert f"line {question.split()[-1]} {answer}" in numbered


def test_training_asks_more_of_what_is_hard() -> None:
    """Of the questions on training scenes a smaller share is on colours and shapes than of those on held-out ones; no kind
    is asked more often than its table says."""
    looks = {}
    for held_out, most in ((False, ASKED_HARD), (True, ASKED)):
        counts: Counter[str] = Counter()
        for index in range(40):
            source = world.Source("scenes", "native scenes", held_out, 40, 0)
            of_scene = Counter(item.kind for item in world.make_record(0, source, index).questions)
            assert all(of_scene[kind] <= most[kind] for kind in of_scene)
            counts += of_scene
        looks[held_out] = (counts["colour"] + counts["shape"]) / counts.total()
    assert looks[False] < 0.7 * looks[True]
