import numpy as np
import pytest

from data_pipelines.blend import Blend, PlanError
from data_pipelines.budgets import draw, padding, suggest
from data_pipelines.plan import Budgets
from tests.data_pipelines.test_row_packing import mix


def test_padding_is_what_the_rows_do_not_hold():
    tokens, tiles = np.array([60, 50, 40, 30, 200], np.int32), np.array([2, 1, 1, 0, 0], np.int32)
    found = padding((tokens, tiles), Budgets(100, 3, 5))
    assert (found.tokens, found.tiles, found.left_out) == (pytest.approx(0.1), pytest.approx(1 - 4 / 6), 0.2)


def test_the_suggestion_is_near_the_tokens_asked_for_and_wastes_least():
    lengths = [mix(700, 1), mix(3000, 2)]
    drawn = draw(Blend(["a", "b"], [700, 3000], [0.8, 0.2], 0), lengths, 4096)
    found = suggest(drawn, 16_384, 4096)
    assert abs(found.budgets.tokens_per_row / 16_384 - 1) <= 0.1 and found.budgets.tokens_per_row % 128 == 0
    assert found == padding(drawn, found.budgets) and max(found.tokens, found.tiles) < 0.02
    worse = padding(drawn, found.budgets._replace(tiles_per_row=found.budgets.tiles_per_row + 4))
    assert worse.tiles > found.tiles + 0.05


def test_text_alone_gets_no_tiles_and_impossible_tokens_are_an_error():
    tokens = np.arange(100, 400, dtype=np.int32)
    assert suggest((tokens, np.zeros(300, np.int32)), 2048, 300).budgets.tiles_per_row == 0
    with pytest.raises(PlanError, match=r"tokens_per_row=64: the shortest sample has 100"):
        suggest((tokens, np.zeros(300, np.int32)), 64, 300)
