"""The report's interactive charts, by Plotly, each as a piece of HTML for a page that holds Plotly's script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.colors import qualitative

from nvlm_jax.number_format import prefix_of
from nvlm_jax.sweeps import compare
from nvlm_jax.sweeps.store import Run
from nvlm_jax.training.telemetry import METRICS, read_metrics

if TYPE_CHECKING:
    from nvlm_jax.sweeps.page import Line

DIM = {"#511CFB", "#750D86", "#222A2A", "#6C4516", "#0D2A63", "#AF0038", "#620042", "#862A16", "#1616A7"}
COLOURS = [colour for colour in qualitative.Dark24 if colour not in DIM]  # what stands out on white and on black
POINTS = 150  # of a curve, at most
COSTS = {"flops": ("training FLOPs", "FLOP"), "seconds": ("training seconds", ""), "parameters": ("parameters", "")}
HEIGHT, MARGIN = 340, {"l": 60, "r": 15, "t": 45}  # pixels; the height without the legend
LEGEND_LINE, LEGEND_WIDTH = 20, 320  # pixels of a line of the legend: as many as fit a phone
# Below the chart: beside it, paper and phones would cut it off.
LEGEND = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
LAYOUT = {"template": "plotly_white", "legend": LEGEND, "title_font_size": 14}
CLEAR = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}  # the page's own background


def curves(runs: Sequence[Run]) -> list[str]:
    """The loss of a trained token by step, a chart a stage and a line a run; one colour a variant."""
    names = list(dict.fromkeys(run.variant.name for run in runs))
    found = []
    for stage in dict.fromkeys(stage for run in runs for stage in run.stages):
        figure = go.Figure()
        shown: set[str] = set()
        for run in runs:
            workdir = run.workdir(stage)
            rows = read_metrics(workdir) if (workdir / METRICS).exists() else []
            if not rows:
                continue
            size = -(-len(rows) // POINTS)
            bins = [rows[i : i + size] for i in range(0, len(rows), size)]
            name = run.variant.name
            figure.add_scatter(
                x=[part[-1]["step"] for part in bins],
                y=[sum(row["loss"] for row in part) / len(part) for part in bins],
                name=name,
                legendgroup=name,
                showlegend=name not in shown,
                line={"color": _colour(names, name), "width": 1.5},
                hovertext=f"{name}, seed {run.seed}",
            )
            shown.add(name)
        if shown:
            found.append(_html(figure, f"{stage}: loss of a trained token", "step", "loss"))
    return found


def pareto(table: Sequence[Line], metric: str, cost: str) -> str:
    """Quality against a cost of COSTS; the variants that none beats in both are joined by a line."""
    spent = {line.name: line.average(cost) for line in table if line.mean}
    spent = {name: value for name, value in spent.items() if value is not None}
    label, unit = COSTS[cost]
    # The axis counts in the unit that tables write, GFLOP for one; Plotly's own ticks would say B for G.
    scale, prefix = prefix_of(max(spent.values(), default=0.0))
    axis = f"{label}, {prefix}{unit}" if prefix + unit else label
    points = {line.name: (spent[line.name] / scale, line.mean.mean) for line in table if line.name in spent}
    front = compare.pareto(points)
    figure = go.Figure()
    figure.add_scatter(
        x=[points[name][0] for name in front],
        y=[points[name][1] for name in front],
        mode="lines",
        line={"dash": "dot", "color": "#888"},
        name="Pareto front",
    )
    names = [line.name for line in table]
    for line in table:
        if line.name in points:
            mean = line.mean
            bars = {"array": [(mean.high or mean.mean) - mean.mean], "visible": mean.high is not None}
            marker = {"size": 11, "color": _colour(names, line.name), "symbol": "star" if line.base else "circle"}
            x, y = points[line.name]
            figure.add_scatter(x=[x], y=[y], mode="markers", name=line.name, error_y=bars, marker=marker)
    return _html(figure, f"{metric} against {label}", axis, metric)


def gates(table: Sequence[Line]) -> str:
    """tanh of each gate at the end of training, mean over seeds, by cross-attention layer; empty without any."""
    names, figure = [line.name for line in table], go.Figure()
    for line in table:
        for gate, dash in (("attention_gate", "solid"), ("mlp_gate", "dot")):
            rows = [item["gates"][gate] for item in line.found if gate in item["gates"]]
            if rows:
                values = [sum(layer) / len(rows) for layer in zip(*rows, strict=True)]
                style = {"color": _colour(names, line.name), "dash": dash}
                name = f"{line.name}, {gate.removesuffix('_gate')}"
                figure.add_scatter(x=list(range(len(values))), y=values, name=name, line=style, mode="lines+markers")
    return _html(figure, "tanh(gate) after training", "cross-attention layer", "tanh(gate)") if figure.data else ""


def types(table: Sequence[Line]) -> str:
    """Accuracy of each question type, a bar a variant; empty without any."""
    names, figure = [line.name for line in table], go.Figure()
    kinds = sorted({kind for line in table for item in line.found for kind in item["accuracy"].get("by_type", {})})
    for line in table:
        values = [line.average(f"accuracy.by_type.{kind}") for kind in kinds]
        if kinds and any(value is not None for value in values):
            figure.add_bar(x=kinds, y=values, name=line.name, marker={"color": _colour(names, line.name)})
    return _html(figure, "accuracy by question type", "", "share of right answers") if figure.data else ""


def _colour(names: Sequence[str], name: str) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def _html(figure: go.Figure, title: str, x: str, y: str) -> str:
    names = [trace.name for trace in figure.data if trace.showlegend is not False]
    entry = 45 + 7 * max(map(len, names), default=0)  # pixels, about
    legend = LEGEND_LINE * -(-len(names) // max(1, LEGEND_WIDTH // entry))
    size = {"height": HEIGHT + legend, "margin": MARGIN | {"b": 55 + legend}}
    figure.update_layout(title=title, xaxis_title=x, yaxis_title=y, **size, **LAYOUT, **CLEAR)
    options: dict[str, Any] = {"full_html": False, "include_plotlyjs": False, "config": {"responsive": True}}
    return figure.to_html(**options)
