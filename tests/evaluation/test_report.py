"""The report: figures that match the inputs, a page that stands alone, and nothing unescaped."""

import json
import re
from html.parser import HTMLParser

import pytest

from qwenvl_jax.evaluation.figures import by_stage, training_summary
from qwenvl_jax.evaluation.report import write_report

RUN = {"name": "tiny <&>", "parameters": 1_500_000, "device": "2 CPU cores"}
VOID = {"meta", "img", "br", "link", "input"}


class Balanced(HTMLParser):
    """Checks that tags close in order, and keeps all addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.addresses = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page(tmp_path, metrics, evaluations) -> str:
    return write_report(tmp_path, metrics, evaluations, RUN).read_text(encoding="utf-8")


def test_page_is_whole_and_needs_nothing_else(page):
    """Well-formed, no script, and every address is data inside the file."""
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in parser.tags
    assert parser.addresses
    assert all(address.startswith("data:image/") for address in parser.addresses)
    assert not re.search(r"url\(|@import|https?://", page)


def test_everything_given_is_escaped(page):
    """Questions and answers are shown as text, whatever a model writes."""
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;") == 3
    assert "tiny &lt;&amp;&gt;" in page


def test_json_has_the_last_stage_and_all_stages(tmp_path, page, evaluations):
    """`scores` are those after the last stage, the judged ones first; nothing is rounded."""
    figures = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert list(figures) == ["run", "scores", "scores_by_stage", "training"]
    assert figures["scores"] == evaluations[1]["scores"]
    assert list(figures["scores"])[:2] == ["vqa_accuracy", "ocr_exact"]
    assert figures["scores_by_stage"]["pretrain"] == {"caption_exact": 0.25}
    assert figures["run"] == RUN


def test_page_shows_the_figures(page):
    """Headlines with their number of questions, a dash where a stage has no score, kinds apart, shares of
    FLOPs.
    """
    assert "87.5&#8202;%" in page
    assert "200 questions on a scene" in page
    assert "<td>–</td>" in page
    assert "<summary>By kind of question</summary>" in page
    assert "75.0<i>" in page
    assert page.count('<svg class="chart"') == 2


def test_training_summary(metrics):
    """Losses are taken at the end, rates in the middle; what is null or absent is left out."""
    summary = training_summary(metrics)["multitask"]
    assert summary["steps"] == 40
    assert summary["minutes"] == pytest.approx(40 * 0.5 / 60)
    assert summary["loss"] == pytest.approx((4 / 39 + 4 / 40) / 2)
    assert summary["loss/vqa"] == summary["loss"]
    assert summary["flops"] == {"vision": 0.25, "language": 0.75}
    assert "mfu" not in summary


def test_lines_written_twice_count_once(metrics):
    """A resumed run may write a step again: the later line counts, in the order of steps."""
    again = [*metrics, {**metrics[-2], "loss": 9.0}]
    lines = by_stage(again)["multitask"]
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert lines[-2]["loss"] == 9.0


def test_a_run_without_evaluation_still_has_a_report(tmp_path, metrics):
    """Training on one's own data without held-out questions reports its losses; an empty run reports its
    facts.
    """
    assert "<h2>Loss</h2>" in write_report(tmp_path, metrics, [], RUN).read_text(encoding="utf-8")
    empty = write_report(tmp_path, [], [], RUN).read_text(encoding="utf-8")
    assert "<h2>" not in empty
    assert "2 CPU cores" in empty
