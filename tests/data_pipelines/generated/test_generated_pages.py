"""Layout, splits and drawing of the generated pages."""

import doctest
import io
import random
import re
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from data_pipelines.generated import glyphs, pages, render
from data_pipelines.generated.pages import BLANK, BODY, CELLS, GRIDS, Element, Page, layout

ONE_OF_EACH = Page(
    (1, 3),
    (
        Element("word", 0, 0, 0, "FOX", "k"),
        Element("number", 0, 1, 0, "372", "m", (3, 7, 2)),
        Element("table", 0, 2, 0, "A.3B...C"),
        Element("bar", 2, 0, 0, "47", "p"),
        Element("bar", 2, 0, 2, "83", "q"),
    ),
)


def pages_of(split, count, grids=GRIDS):
    return [layout(random.Random(f"{split}{index}"), split, grids) for index in range(count)]


def chosen_grid(width, height, tile):
    """Section 1 of the facts, by exact brute force: the nearest ratio; of equal ones the larger if the area allows."""
    distance = {grid: abs(Fraction(width, height) - Fraction(*grid)) for grid in GRIDS}
    nearest = [grid for grid in GRIDS if distance[grid] == min(distance.values())]
    nearest.sort(key=lambda grid: grid[0] * grid[1])
    chosen = nearest[0]
    for grid in nearest[1:]:
        if 2 * width * height > tile * tile * grid[0] * grid[1]:
            chosen = grid
    return chosen


def test_examples_in_docstrings():
    result = doctest.testmod(pages)
    assert result.attempted and not result.failed


def test_the_brute_force_knows_the_area_rule():
    assert chosen_grid(90, 90, 64) == (1, 1)  # 8100 pixels, half the area of 2 x 2 is 8192
    assert chosen_grid(91, 91, 64) == (2, 2)
    assert len(GRIDS) == len(set(GRIDS)) == sum(c * r <= 6 for c in range(1, 7) for r in range(1, 7))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("tile", [64, 96])
def test_a_page_is_cut_into_its_own_grid(grid, tile):
    (page,) = pages_of("train", 1, (grid,))
    sizes = {render.draw(random.Random(seed), page, tile).shape for seed in range(60)}
    assert len(sizes) > 20
    assert {chosen_grid(width, height, tile) for height, width in sizes} == {grid}


@pytest.mark.parametrize("scale", render.SCALE)
@pytest.mark.parametrize("aspect", (-render.ASPECT, render.ASPECT))
def test_extreme_sizes_are_cut_into_their_grid(monkeypatch, scale, aspect):
    monkeypatch.setattr(
        random.Random, "uniform", lambda self, low, high: scale if (low, high) == render.SCALE else aspect
    )
    for grid in GRIDS:
        height, width = render.draw(random.Random(0), Page(grid, ()), 64).shape
        assert chosen_grid(width, height, 64) == grid, (grid, width, height)


def test_all_grids_occur():
    assert {page.grid for page in pages_of("train", 400)} == set(GRIDS)


def test_described_and_dense_of_each_element():
    described, dense = ONE_OF_EACH.described(), ONE_OF_EACH.dense()
    assert described == ["kFOXm372A.3B...C", BLANK * 16, "4783..######p.q.", "~" * 16]
    assert dense[0][:4] == ["kkFOX.F", "FkFOXkO", "OkFOXFX", "XkFOXO."]
    assert dense[0][8:10] == ["AA.3B..", ".A.3BA3"]
    # A bar is read from its label: p, 4, 7. Its body is not read.
    assert dense[2][:2] == ["4p47.p7", "7p47.4."] and dense[2][12] == "pp47..4"
    assert dense[2][6] == "#q83..." and dense[2][13] == ".p47..."
    assert set(dense[1]) == {BLANK * 7} and set(dense[3]) == {"~" * 7}
    assert len(Page((1, 1), ONE_OF_EACH.elements[:2]).described()) == 1


def test_described_is_what_dense_says():
    for page in pages_of("train", 200):
        described, dense = page.described(), page.dense()
        assert ["".join(cell[0] for cell in tile) for tile in dense] == described
        assert all(len(tile) == CELLS**2 and all(len(cell) == 7 for cell in tile) for tile in dense)
        assert len(described) == page.tiles + (page.tiles > 1)
        for tile, symbols in zip(dense[: page.tiles], described, strict=False):
            for row in range(CELLS):
                line = symbols[row * CELLS : (row + 1) * CELLS]
                for cell in tile[row * CELLS : (row + 1) * CELLS]:
                    summary = cell[1:5]
                    bar = re.fullmatch(r"([a-z])(\d\d)\.", summary)
                    assert summary in symbols or (bar and {bar[1], bar[2][0]} < set(symbols))
                    assert bar or summary == line


def test_labels_are_unique_and_contents_well_formed():
    for page in pages_of("test", 200):
        labels = [element.label for element in page.elements if element.label]
        assert len(set(labels)) == len(labels) >= 2
        for element in page.elements:
            shape = {"word": "[A-Z]{3}", "number": "[1-9][0-9]{2}", "bar": "[1-9][0-9]", "table": "[A-Z0-9.]{8}"}
            assert re.fullmatch(shape[element.kind], element.text)
            if element.kind == "number":
                assert "".join(str(glyphs._digits()[1][scan]) for scan in element.scans) == element.text


def test_elements_share_no_cell_and_leave_no_tile():
    for page in pages_of("train", 200):
        taken = set()
        for element in page.elements:
            for row, column, _, _ in element.cells():
                assert 0 <= row < CELLS and 0 <= column < CELLS and 0 <= element.tile < page.tiles
                assert (element.tile, row, column) not in taken
                taken.add((element.tile, row, column))


def contents(split):
    """Everything that pages of a split show, by kind; three letters or two digits in a row of a table too."""
    shown = {"word": set(), "number": set(), "bar": set(), "scan": set()}
    for page in pages_of(split, 1500):
        for element in page.elements:
            shown["scan"].update(element.scans)
            if element.kind == "table":
                assert not re.search("[A-Z]{3}|[0-9]{2}", element.text[:4] + " " + element.text[4:])
            else:
                shown[element.kind].add(element.text)
    return shown


def test_splits_share_nothing():
    train, test = contents("train"), contents("test")
    for kind in train:
        assert train[kind] and test[kind] and not train[kind] & test[kind], kind
    reversed_words = {word[::-1] for word in train["word"]}
    assert not reversed_words & test["word"]


def test_splits_are_about_80_to_20_and_cover_every_character():
    for things, total in ((glyphs.words, 5460), (glyphs.numbers, 900), (glyphs.values, 90)):
        train, test = things("train"), things("test")
        assert len(train) + len(test) == total and 0.15 < len(test) / total < 0.25
    for place in range(3):
        assert len({word[place] for word in glyphs.words("train")}) == 26
    assert {value[0] for value in glyphs.values("train")} == set("123456789")
    assert {value[1] for value in glyphs.values("train")} == set("0123456789")
    train, test = glyphs.scans("train"), glyphs.scans("test")
    assert sum(map(len, train.values())) + sum(map(len, test.values())) == 1797
    assert all(len(train[digit]) > 100 and len(test[digit]) > 20 for digit in "0123456789")


@pytest.mark.parametrize("seed", range(40))
def test_ink_is_where_the_description_says(seed):
    """Every cell with a symbol has ink, a blank cell outside tables and charts has none, whatever the style."""
    (page,) = pages_of("train", 1, ((GRIDS)[seed % len(GRIDS)],))
    cols, rows = page.grid
    ink = render.draw(random.Random(seed), page, 64)
    xs, ys = render._edges(cols, ink.shape[1]), render._edges(rows, ink.shape[0])
    for tile, cells in enumerate(page.dense()[: page.tiles]):
        charted = any(e.tile == tile and e.kind in ("bar", "table") for e in page.elements)
        for cell, symbols in enumerate(cells):
            row, column = tile // cols * CELLS + cell // CELLS, tile % cols * CELLS + cell % CELLS
            area = ink[ys[row] : ys[row + 1], xs[column] : xs[column + 1]]
            if symbols[0] != BLANK:
                assert area.max() >= 100, (seed, tile, cell, symbols)
            elif not charted:
                assert not area.any(), (seed, tile, cell, symbols)


@pytest.mark.parametrize("value", [10, 25, 49, 50, 51, 75, 99])
def test_a_bar_is_as_high_as_its_value(value):
    element = Element("bar", 0, 0, 0, str(value), "k")
    for seed in range(20):
        ink = render.draw(random.Random(seed), Page((1, 1), (element,)), 64)
        ys, middle = render._edges(1, ink.shape[0]), render._edges(1, ink.shape[1])[1]
        body = ink[ys[1] : ys[3], middle] >= 100
        assert abs(body.sum() - value / 100 * (ys[3] - ys[1])) <= 1.5 and body[-1]
        symbols = Page((1, 1), (element,)).described()[0]
        assert symbols[4] == (BODY if body[: ys[2] - ys[1]].any() else BLANK) and symbols[8] == BODY


def test_drawing_varies_but_is_a_function_of_the_seed():
    first, again, other = (render.render_png(random.Random(seed), ONE_OF_EACH, 64) for seed in (1, 1, 2))
    assert first == again != other
    image = np.asarray(Image.open(io.BytesIO(first)).convert("RGB"))
    assert image.ndim == 3 and np.ptp(image.astype(int), axis=(0, 1)).min() > 80


def test_tiles_too_small_to_print_in_are_refused():
    with pytest.raises(ValueError, match="use larger tiles"):
        render.draw(random.Random(0), ONE_OF_EACH, 12)
