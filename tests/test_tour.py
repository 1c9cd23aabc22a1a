"""docs/tour.ipynb, cell by cell, as a reader runs it."""

import json
import pathlib

import matplotlib
import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "docs" / "tour.ipynb"


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_the_text_says(monkeypatch, capsys):
    matplotlib.use("Agg")
    monkeypatch.chdir(NOTEBOOK.parents[1])
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"tour.ipynb, code cell {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "gates shut: equal bit for bit: True" in printed
    assert {arch: "▦" in names["shown"](arch) for arch in "dxh"} == {"d": True, "x": False, "h": True}
    for curve in names["curves"].values():
        assert curve[-1] < 0.7 * curve[0]
