"""The formats of samples, byte for byte (Qwen-VL paper, appendix B)."""

import pytest

from configs.qwen2_vl import MODEL_2B
from data_pipelines.records import Question, Record, Region, StoredImage, TextLine, Turn
from data_pipelines.tasks import TASKS, tasks_of
from qwenvl_jax.processing.agent import Action, Call, Step, agent_parts
from qwenvl_jax.processing.sample import Image, Sample, Text

RECORD = Record(
    "r",
    images=(StoredImage(b"jpeg", 200, 100),),
    captions=(
        Question("用中文描述这张图片:", "红色的圆", "zh"),
        Question("Places:", "a red circle at the upper left", "places"),
        Question("Caption:", "a red circle", "en"),
    ),
    grounded_captions=(Question("Grounded:", "<ref>a red circle</ref><box>(0,0),(500,500)</box>", "en"),),
    questions=(
        Question("What color is it?", "red", "colour"),
        Question("What is on line 1?", "STOP", "ocr"),
        Question("How many?", "1", "count"),
        Question("Picture 1: <img>0</img>\nHow many?", "1", "chat"),
    ),
    regions=(
        Region("the red circle", ((0, 0, 100, 50),)),
        Region("two rings", ((20, 10, 40, 20), (60, 10, 80, 20))),
    ),
    lines=(
        TextLine("STOP", ((10, 10), (110, 10), (110, 30), (10, 30))),
        TextLine("7", ((0, 50), (20, 50), (20, 60), (0, 60))),
    ),
    conversation=(Turn("user", "Picture 1: <img>0</img>\nHow many?"), Turn("assistant", "1")),
    text="a red circle",
)

E = "<|endoftext|>"
EXPECTED = {
    "caption": [("Caption:", f" a red circle{E}")],
    "caption_zh": [("用中文描述这张图片:", f" 红色的圆{E}")],
    "vqa": [("What color is it? Answer:", f" red{E}"), ("How many? Answer:", f" 1{E}")],
    "ocr_vqa": [("What is on line 1? Answer:", f" STOP{E}")],
    "caption_with_grounding": [("Grounded:", f" <ref>a red circle</ref><box>(0,0),(500,500)</box>{E}")],
    "referring_grounding": [
        ("<ref>the red circle</ref>", f"<box>(0,0),(500,500)</box>{E}"),
        ("<ref>two rings</ref>", f"<box>(100,100),(200,200)</box><box>(300,100),(400,200)</box>{E}"),
    ],
    "grounded_captioning": [
        ("<ref>This</ref><box>(0,0),(500,500)</box> is", f" the red circle{E}"),
        ("<ref>This</ref><box>(100,100),(200,200)</box><box>(300,100),(400,200)</box> is", f" two rings{E}"),
    ],
    "ocr": [
        (
            "OCR with grounding:",
            " <ref>STOP</ref> <quad>(50,100),(550,100),(550,300),(50,300)</quad>"
            f" <ref>7</ref> <quad>(0,500),(100,500),(100,600),(0,600)</quad>{E}",
        )
    ],
}


@pytest.mark.parametrize("task", EXPECTED)
def test_format(task):
    """Each task writes the paper's format: the prompt right behind the picture, the target, the end; several
    questions on one picture follow each other.
    """
    sample = TASKS[task](RECORD)
    assert sample.images == (b"jpeg",)
    pairs = [part for prompt, target in EXPECTED[task] for part in (Text(prompt), Text(target, supervised=True))]
    assert sample.parts == (Image(0), *pairs)


def test_captions_with_places_are_a_task_of_their_own():
    """They are no caption of the paper's, and stand in its format."""
    sample = tasks_of(MODEL_2B)["caption_with_places"](RECORD)
    target = Text(f" a red circle at the upper left{E}", supervised=True)
    assert sample.parts == (Image(0), Text("Places:"), target)


def test_text_is_all_learned():
    """Pure text is learned from its first token to its end."""
    assert TASKS["text"](RECORD).parts == (Text(f"a red circle{E}", supervised=True),)


def test_chat_learns_answers_only():
    """A conversation carries its pictures in place, and of its words only the answers are learned."""
    sample = TASKS["chat"](RECORD)
    assert sample.images == (b"jpeg",)
    assert Image(0) in sample.parts
    learned = "".join(part.text for part in sample.parts if isinstance(part, Text) and part.supervised)
    assert "1" in learned
    assert "How many" not in learned


def test_every_task_of_table_3_is_there():
    """The seven tasks of the paper's Table 3, captions in two languages, pure text and chat."""
    assert set(TASKS) == {*EXPECTED, "text", "chat"}


@pytest.mark.parametrize("task", TASKS)
def test_does_not_apply(task):
    """A task gives None for a record that lacks what it needs."""
    assert TASKS[task](Record("empty", images=RECORD.images)) is None


@pytest.mark.parametrize("task", EXPECTED)
def test_one_picture_only(task):
    """Tasks on one picture leave records with several, or without one, alone."""
    for images in ((), RECORD.images * 2):
        assert TASKS[task](Record(**{**vars(RECORD), "images": images})) is None


EPISODE = (
    Turn("system", "Tap: taps a point.\nHome: goes back."),
    Turn("user", "Open it. <img>0</img>"),
    Turn("assistant", '✿FUNCTION✿: Tap\n✿ARGS✿: {"point": (1,2)}'),
    Turn("environment", "<img>1</img>"),
    Turn("assistant", "Done."),
)


def test_an_episode_becomes_an_agents_sample():
    """Actions, task, call, result and reply in the paper's format; learned are the model's own turns. No other task of
    conversations takes it."""
    record = Record("e", images=(StoredImage(b"a", 20, 20), StoredImage(b"b", 20, 20)), conversation=EPISODE)
    tasks = tasks_of(MODEL_2B)
    sample = tasks["agent"](record)
    call = Call("", "Tap", {"point": (1, 2)})
    actions = (Action("Tap", "taps a point."), Action("Home", "goes back."))
    expected = agent_parts(actions, ("Open it. ", Image(0)), (Step(call, (Image(1),)),), "Done.")
    assert sample == Sample(expected, (b"a", b"b"))
    assert tasks["chat"](record) is None
    assert tasks["agent"](RECORD) is None


@pytest.mark.parametrize(
    "turns, sentence",
    [
        (EPISODE[:-1], "no row of calls"),
        ((*EPISODE[:3], EPISODE[4], *EPISODE[3:]), "no row of calls"),
        ((*EPISODE[:2], Turn("assistant", "I think"), *EPISODE[3:]), "holds no call"),
        (EPISODE[3:4], "no row of calls"),
    ],
)
def test_a_broken_episode_is_refused(turns, sentence):
    """One sentence, so that the record is counted with its reason."""
    with pytest.raises(ValueError, match=sentence):
        tasks_of(MODEL_2B)["agent"](Record("e", conversation=turns))
