"""The native world: pictures of many sizes, print that only native resolution can read, episodes as training samples."""

import ast
import io

import numpy as np
import pytest
from PIL import Image

from configs.qwen2_vl import MODEL_2B
from data_pipelines.sources.array_record import ArrayRecordSource
from data_pipelines.synthetic import world
from data_pipelines.synthetic.native_texts import KINDS
from data_pipelines.synthetic.patches import WHAT, things
from data_pipelines.synthetic.scenes import COLOURS, SHAPES
from data_pipelines.synthetic.screens import sample_screen
from data_pipelines.synthetic.small_print import CAPITALS, LOW_RESOLUTION, at_low_resolution
from data_pipelines.tasks import tasks_of
from qwenvl_jax.processing.agent import Call
from qwenvl_jax.processing.markup import SCALE
from qwenvl_jax.processing.qwen2_tokens import QWEN2_VL, to_qwen2_markup
from qwenvl_jax.processing.sample import Image as Picture
from qwenvl_jax.processing.sample import Text
from qwenvl_jax.processing.tokenizer import load_tokenizer

COUNTS = {"scenes": 5, "small_print": 4, "videos": 4, "episodes": 3, "screens": 4, "texts": 6, "held_out": (3, 2, 2, 2)}


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
        ("videos", "video_vqa", 4), ("episodes", "agent", 3), ("screens", "vqa", 4), ("screens", "referring_grounding", 4),
        ("texts", "text", 6), ("held_out/scenes", "vqa", 3),
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


def test_the_points_of_a_screen_open_its_icons(made) -> None:
    """What a record of `screens` answers is true: a tap on the point opens the icon of that name, in whose box it lies; each
    box holds its icon's colour and is labelled for the ViT."""
    for number, record in enumerate(records(made, "screens")):
        source = world.Source("screens", "screens", False, COUNTS["screens"], 4)
        screen = sample_screen(np.random.default_rng([1, source.stream, number]), False)
        assert record == world.make_record(1, source, number)
        boxes = {region.phrase.removeprefix("the "): region.boxes[0] for region in record.regions}
        assert len(record.questions) == len(boxes) == len(screen.icons)
        for item in record.questions:
            point = ast.literal_eval(item.answer)
            opened = screen.after(Call("", "Tap", {"point": point})).opened
            name = f"{screen.icons[opened].colour} {screen.icons[opened].shape}"
            assert item.question.endswith(f"open the {name}?")
            x1, y1, x2, y2 = boxes[name]
            assert x1 <= point[0] / SCALE * screen.width <= x2
            assert y1 <= point[1] / SCALE * screen.height <= y2
        picture = np.asarray(Image.open(io.BytesIO(record.images[0].data)).convert("RGB"), float)
        labels, places = things(record)
        for (what, colour), (x1, y1, x2, y2) in zip(labels, places):
            icon = picture[
                int(y1 * screen.height) : int(y2 * screen.height), int(x1 * screen.width) : int(x2 * screen.width)
            ]
            near = np.abs(icon - list(COLOURS.values())[colour]).max(-1) <= 20
            assert near.mean() > 0.2
            assert WHAT[what] in SHAPES


def test_texts_of_every_kind_are_short() -> None:
    """Up to 384 ids of the embedded vocabulary: rows of the recipe hold every one."""
    tokenizer = load_tokenizer("native", QWEN2_VL)
    for make in KINDS:
        for seed in range(20):
            text = make(np.random.default_rng(seed))
            assert 5 < len(tokenizer.encode(to_qwen2_markup(text))) < 384, make
