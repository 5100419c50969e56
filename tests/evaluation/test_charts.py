"""Charts: ticks are round, points stay in the frame, and gaps in the data do no harm."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenvl_jax.evaluation.charts import HEIGHT, WIDTH, Line, line_chart, linear_ticks, log_ticks, thin

values = st.floats(1e-3, 1e3)


@pytest.mark.parametrize(
    "low, high, ticks",
    [(0, 200, [0, 50, 100, 150, 200]), (0, 0.67, [0, 0.2, 0.4, 0.6]), (3, 3, [3]), (0, 1000, [0, 500, 1000])],
)
def test_linear_ticks_by_hand(low, high, ticks):
    """Steps of 1, 2 or 5 times a power of ten, five ticks at most."""
    assert linear_ticks(low, high) == pytest.approx(ticks)


@given(values, values)
def test_ticks_lie_inside(a, b):
    """No tick is outside the axis, and there are few of them."""
    low, high = sorted((a, b))
    for ticks in (linear_ticks(low, high), log_ticks(low, high)):
        assert all(low * (1 - 1e-9) <= tick <= high * (1 + 1e-9) for tick in ticks)
        assert len(ticks) <= 12


def test_thinning_averages_and_skips_gaps():
    """Bins are means of equal shares; not-finite points are left out; few points stay as they are."""
    assert thin([1, 2, 3], [1, math.nan, 5]) == [(1, 1), (3, 5)]
    thinned = thin(range(1000), [2.0] * 1000, 10)
    assert [x for x, _ in thinned] == [49.5 + 100 * i for i in range(10)]
    assert {y for _, y in thinned} == {2.0}


@given(st.lists(values, min_size=1, max_size=30))
def test_points_stay_in_the_frame(ys):
    """Whatever the values, with one point or equal points too, lines do not leave the chart."""
    chart = line_chart([Line("loss", list(range(1, len(ys) + 1)), ys, "total")], "loss")
    (points,) = re.findall(r'points="([^"]+)"', chart)
    for point in points.split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_nothing_to_draw_is_empty():
    """A chart without finite points is left out of the page."""
    assert line_chart([Line("loss", [1.0], [math.nan], "total")], "loss") == ""


def test_titles_are_escaped():
    """A stage's name may hold anything."""
    assert 'aria-label="&lt;b&gt; &amp; &quot;c&quot;"' in line_chart([Line("a", [1.0], [1.0], "c0")], '<b> & "c"')
