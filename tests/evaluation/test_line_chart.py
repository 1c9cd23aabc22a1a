"""Charts as numbers."""

import math

import pytest

from nvlm_jax.evaluation.chart import HEIGHT, POINTS, WIDTH, line_chart, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 930, [0, 200, 400, 600, 800, 1000]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.3, 0.3, [-0.4, -0.2, 0, 0.2, 0.4]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_ticks_are_round_and_cover_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_line_runs_from_corner_to_corner():
    chart = line_chart("loss", {"d": [(0, 10.0), (100, 0.0)]})
    assert chart.lines == (("d", f"0.0,0.0 {WIDTH:.1f},{HEIGHT:.1f}"),)
    assert chart.x_ticks[0] == (0, "0") and chart.x_ticks[-1] == (WIDTH, "100")
    assert chart.y_ticks[0] == (HEIGHT, "0") and chart.y_ticks[-1] == (0, "10")


def test_a_long_line_is_averaged_and_what_is_no_number_left_out():
    points = [(step, math.nan if step == 5 else float(step % 2)) for step in range(1, 10 * POINTS + 1)]
    [(_, line)] = line_chart("noise", {"d": points}).lines
    places = [tuple(map(float, point.split(","))) for point in line.split()]
    assert len(places) <= POINTS
    assert len({y for _, y in places[1:-1]}) == 1  # each is the mean of five zeros and five ones


def test_nothing_to_draw_is_none():
    assert line_chart("loss", {"d": [], "x": [(1, math.inf)]}) is None
