"""A run's metrics and evaluations, made up: right and wrong answers of each kind."""

import base64
import io

import pytest
from PIL import Image

BOX = "<box>(100,100),(500,500)</box>"
QUAD = "<quad>(0,0),(300,0),(300,100),(0,100)</quad>"
NASTY = '<script>alert("x")</script>'


def picture(kind: str) -> str:
    stream = io.BytesIO()
    Image.new("RGB", (120, 90), "grey").save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


@pytest.fixture
def item():
    """Makes an answer as `benchmarks.gallery` gives it, on grey pictures of 120 by 90 pixels."""

    def make(benchmark, true, predicted, score, key="k", question="?", pictures=1) -> dict:
        return {
            "key": key,
            "benchmark": benchmark,
            "kind": "",
            "question": question,
            "true": true,
            "predicted": predicted,
            "score": score,
            "pictures": [picture("PNG" if i else "JPEG") for i in range(pictures)],
        }

    return make


@pytest.fixture
def gallery(item) -> list[dict]:
    return [
        item("vqa", "red", " red", 1, question="What color is the ring?"),
        item("vqa", "blue", NASTY, 0, question=f"Is {NASTY} here?"),
        item("caption", "a red ring", " a blue ring", 0),
        item("refer", BOX, "<box>(100,100),(500,300)</box>", 1, question="the ring"),
        item("refer", BOX, "nowhere", 0, key="k2", question="the star"),
        item("grounded_caption", f"<ref>a ring</ref>{BOX}", f"<ref>{NASTY}</ref>{BOX}", 0),
        item("ocr", f"<ref>EXIT 7</ref> {QUAD}", f"<ref>EXIT 8</ref> {QUAD}", 0.5, key="d"),
        item("chat", "Picture 2", "Picture 2", 1, key="c", question="Which has more?", pictures=2),
        item("chat_refer", BOX, BOX, 1, key="c", question="In Picture 1?", pictures=2),
    ]


@pytest.fixture
def metrics() -> list[dict]:
    lines = []
    for stage, steps, tasks in (("pretrain", 5, ("caption",)), ("multitask", 40, ("caption", "vqa"))):
        for step in range(1, steps + 1):
            line = {"stage": stage, "step": step, "time": 0.0, "loss": 4.0 / step, "mfu": None}
            line |= {f"loss/{task}": 4.0 / step for task in tasks}
            line |= {"samples_per_second": 10.0, "tokens_per_second": 1000.0, "step_seconds": 0.5}
            lines.append(line | {"flops/vision": 1e9, "flops/language": 3e9, "learning_rate": 1e-3})
    return lines


@pytest.fixture
def evaluations(gallery) -> list[dict]:
    return [
        {
            "stage": "pretrain",
            "scores": {"caption_exact": 0.25},
            "weights": {"caption_exact": 8},
            "gallery": [],
        },
        {
            "stage": "multitask",
            "scores": {"vqa_accuracy/colour": 0.5, "ocr_exact": 0.625, "vqa_accuracy": 0.875},
            "weights": {"vqa_accuracy": 200, "ocr_exact": 8},
            "gallery": gallery,
        },
    ]
