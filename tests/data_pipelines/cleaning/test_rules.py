"""The paper's rules: what each rejects, what it leaves alone, and what holds for every text."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipelines.cleaning.rules import HINT, PATTERNS, RULES, Pair, judge, score_step
from data_pipelines.cleaning.thresholds import (
    ASPECT,
    CLIP,
    CORPORA,
    EMOJI,
    HTML,
    IRREGULAR,
    LENGTH,
    LETTERS,
    SMALL,
    TAGS,
    WEB,
    WEB_RULES,
)

GOOD = Pair("a dog on the grass", 300, 400, 0.3)


def test_the_order_is_the_papers():
    """Appendix A.1 lists eight rules; a pair that several reject is counted under the first."""
    assert WEB_RULES == (ASPECT, SMALL, CLIP, LETTERS, EMOJI, LENGTH, HTML, IRREGULAR)
    bad = Pair("😀", 10, 1000, 0.0)
    assert [judge(bad, replace(WEB, rules=WEB_RULES[n:], clip_cut=0.3))[1] for n in (0, 1, 2, 4, 5)] == [
        ASPECT, SMALL, CLIP, EMOJI, LENGTH,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"width": 900, "height": 300}, ""),
        ({"width": 901, "height": 300}, ASPECT),
        ({"width": 300, "height": 901}, ASPECT),
        ({"width": 199}, SMALL),
        ({"width": 200}, ""),
        ({"score": 0.2}, ""),
        ({"score": 0.1999}, CLIP),
        ({"score": None}, CLIP),
        ({"score": float("nan")}, CLIP),
        ({"text": "Дом и сад"}, LETTERS),
        ({"text": "un café noir"}, LETTERS),
        ({"text": "犬が好きです"}, LETTERS),
        ({"text": "private \ue000 use"}, LETTERS),
        ({"text": "一只狗，坐在（白色的）桌子旁。"}, ""),
        ({"text": "full width ＡＢＣ １２３！"}, ""),
        ({"text": "25 °C – “quoted” € 5 ™ ½"}, ""),
        ({"text": "a happy dog 🐕"}, EMOJI),
        ({"text": "I ❤️ dogs"}, EMOJI),
        ({"text": "press 1️⃣ now"}, EMOJI),
        ({"text": "👨‍👩‍👧 a family"}, EMOJI),
        ({"text": "dogs"}, LENGTH),
        ({"text": "doggies"}, LENGTH),
        ({"text": "狗坐桌子"}, LENGTH),
        ({"text": "word " * 81}, LENGTH),
        ({"text": "<img src='x y'> <br>"}, HTML),
        ({"text": "IMG_2031.jpg photo1.png"}, IRREGULAR),
    ],
)
def test_each_rule_rejects_what_it_names(change, reason):
    """And nothing that only looks like it."""
    assert judge(GOOD._replace(**change), replace(WEB, clip_cut=0.2))[1] == reason


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("a <b>big</b> dog &amp; a cat", "a big dog & a cat"),
        ("a dog &lt;i&gt;here&lt;/i&gt; now", "a dog here now"),
        ("a dog <img>x</img> <box>(1,2)</box>", "a dog x (1,2)"),
        ("a dog<|endoftext|> and a cat", "a dog and a cat"),
        ("a dog at http://x.org/a?b=1 now", "a dog at now"),
        ("write me@x.org | a dog", "write | a dog"),
        ("a dog!!!!! what a dog......", "a dog! what a dog..."),
        ("  a \t dog\n on\u200b grass ", "a dog on grass"),
        ("a dog 5f3a9c1e7b2d4f6a8c0e", "a dog"),
        ("3 < 5 and 7 > 2 hold", "3 < 5 and 7 > 2 hold"),
        ("a dog on the grass", "a dog on the grass"),
    ],
)
def test_texts_are_cleaned(text, cleaned):
    """HTML, our own special tokens, addresses, file names and repeated signs go; ordinary text stays as it is."""
    kept, reason = judge(GOOD._replace(text=text), WEB)
    assert (reason, kept and kept.text) == ("", cleaned)


def test_accents_are_a_switch():
    """French in English captions is dropped by the paper's rule; other alphabets stay out either way."""
    accents = replace(WEB, accents=True)
    assert judge(GOOD._replace(text="un café noir"), accents)[1] == ""
    assert judge(GOOD._replace(text="Дом и сад"), accents)[1] == LETTERS


def test_special_tags_of_academic_captions():
    """CC12M's <PERSON> goes, and only it: the web's rules are not asked."""
    assert judge(Pair("<PERSON> plays", 10, 900), CORPORA["cc12m"])[1] == TAGS
    assert judge(Pair("café 😀", 10, 900), CORPORA["cc12m"])[1] == ""


PIECES = st.sampled_from([*"ab1 .@<|>:/w-_!?#&;", "\x07", "\u200b", "\u061c", "www.", "://", ".jpg", "中", "é", "😀"])
TEXTS = st.lists(PIECES, max_size=25).map("".join)


@settings(deadline=None)
@given(TEXTS)
def test_the_quick_look_misses_nothing(text):
    """Where no hint is found, no pattern of rule 8 would change the text."""
    if not HINT.search(text):
        assert all(pattern.sub(instead, text) == text for _, pattern, instead in PATTERNS)


@settings(deadline=None)
@given(TEXTS | st.text(max_size=60), st.integers(1, 5000), st.integers(1, 5000), st.none() | st.floats())
@example("a dog on the grass", 300, 300, 1.8e304)
def test_every_pair_is_kept_or_has_a_reason(text, width, height, score):
    """No input raises; a kept text is clean: it passes the rules on letters, emoji, tags and patterns again."""
    pair = Pair(text, width, height, score)
    kept, reason = judge(pair, replace(WEB, clip_cut=0.2))
    assert (kept is None) == (reason in WEB_RULES)
    if kept is not None:
        assert len(kept.text) >= WEB.min_characters
        assert "<|endoftext|>" not in kept.text
        for name in (LETTERS, EMOJI, HTML, IRREGULAR):
            assert RULES[name](kept, WEB) is not None


@given(st.integers(-10_000, 10_000))
def test_score_steps_are_exact(step):
    """A cut that is a step lies in that step, so calibration and rule count the same pairs."""
    assert score_step(step / 10_000) == step
