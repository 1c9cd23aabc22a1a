"""Line charts as plain numbers, which the report's template draws as inline SVG."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 420, 200  # of the plotted area, in SVG units
POINTS = 240  # of a line; longer ones are averaged in bins


@dataclasses.dataclass(frozen=True)
class Chart:
    """Polylines and tick marks in SVG units, origin at the plotted area's upper left."""

    title: str
    lines: tuple[tuple[str, str], ...]  # name, "x,y x,y ..."
    x_ticks: tuple[tuple[float, str], ...]  # place, label
    y_ticks: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT


def line_chart(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> Chart | None:
    """Lines over a common x axis; both axes start at 0 unless values are below it. None if there is nothing finite.

    Args:
        title: stands above the chart.
        series: name -> (x, y) in order of x; values that are not finite are left out.
    """
    kept = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    kept = {name: _thin(points) for name, points in kept.items() if points}
    if not kept:
        return None
    xs, ys = zip(*(point for points in kept.values() for point in points), strict=True)
    x_ticks, y_ticks = ticks(0, max(xs)), ticks(min(0, *ys), max(ys))
    x_place, y_place = _scale(x_ticks, 0, WIDTH), _scale(y_ticks, HEIGHT, 0)
    lines = ((name, " ".join(f"{x_place(x):.1f},{y_place(y):.1f}" for x, y in kept[name])) for name in kept)
    return Chart(
        title,
        tuple(lines),
        tuple((round(x_place(t), 1), f"{t:g}") for t in x_ticks),
        tuple((round(y_place(t), 1), f"{t:g}") for t in y_ticks),
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values from at or below `low` to at or above `high`, about so many.

    >>> ticks(0, 930)
    [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]
    """
    span = (high - low) or 1.0
    rough = span / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _scale(marks: Sequence[float], start: float, end: float):
    return lambda value: start + (value - marks[0]) / (marks[-1] - marks[0]) * (end - start)


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = math.ceil(len(points) / POINTS)
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    return [(bin[-1][0], sum(y for _, y in bin) / len(bin)) for bin in bins]
