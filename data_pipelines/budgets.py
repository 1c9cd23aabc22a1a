"""How many tokens and tiles a packed row should hold.

Both budgets are spent at the same pace only if a row's tiles stand to its tokens as the blend's do. What suits the
commonest numbers of tiles wastes least, so budgets at that ratio are tried, near the tokens asked for, on draws of the
blend. A row of few samples wastes more, whatever the ratio.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data_pipelines.blend import Blend, PlanError
from data_pipelines.packing import pack
from data_pipelines.plan import Budgets, Lengths

TRIED = 16_384  # draws
STEP = 128  # of tokens: attention kernels like multiples of it
NEAR = 0.1  # of the tokens asked for


class Padding(NamedTuple):
    """What is lost with budgets: shares of a row's places, and of the draws left out."""

    budgets: Budgets
    tokens: float
    tiles: float
    left_out: float  # exceed a row alone


def draw(blend: Blend, lengths: list[Lengths], count: int = TRIED) -> Lengths:
    """Tokens and tiles of `count` draws of the blend."""
    dataset, sample = blend.fresh().take(count)
    tokens, tiles = np.zeros(count, np.int32), np.zeros(count, np.int32)
    for d in np.unique(dataset):
        mine = dataset == d
        tokens[mine], tiles[mine] = (column[sample[mine]] for column in lengths[d])
    return tokens, tiles


def padding(drawn: Lengths, budgets: Budgets) -> Padding:
    """What rows of these budgets lose on these draws."""
    used, rows, over = np.zeros(2), 0, 0
    for first in range(0, len(drawn[0]), budgets.window):
        tokens, tiles = (column[first : first + budgets.window] for column in drawn)
        packed = pack(tokens, tiles, budgets.tokens_per_row, budgets.tiles_per_row, 0)
        used += [tokens[packed.draws].sum(), tiles[packed.draws].sum()]
        rows += len(packed.lengths)
        over += len(packed.over)
    places = rows * np.array([budgets.tokens_per_row, budgets.tiles_per_row])
    token_loss, tile_loss = 1 - np.divide(used, places, out=np.ones(2), where=places > 0)
    return Padding(budgets, float(token_loss), float(tile_loss), over / len(drawn[0]))


def cost(each: Padding) -> float:
    """What a choice of budgets costs: the worse padding, and ten times the share of samples that it leaves out."""
    return max(each.tokens, each.tiles) + 10 * each.left_out


def suggest(drawn: Lengths, tokens_per_row: int, window: int) -> Padding:
    """The budgets near `tokens_per_row` that waste least: the worse of the two paddings is smallest.

    Args:
        drawn: tokens and tiles of draws, as `draw` gives them.
        tokens_per_row: S, about; multiples of STEP within NEAR of it are tried, and it itself.
        window: draws packed together.

    Raises:
        PlanError: no draw fits a row of so many tokens.
    """
    if (shortest := drawn[0].min()) > tokens_per_row:
        raise PlanError(f"data.tokens_per_row={tokens_per_row}: the shortest sample has {shortest} tokens")
    near = range(round(tokens_per_row * (1 - NEAR)), round(tokens_per_row * (1 + NEAR)) + 1)
    choices = {tokens_per_row, *(number for number in near if number % STEP == 0)}
    tried = [padding(drawn, b) for number in sorted(choices) for b in _matched(drawn, number, window)]
    return min(tried, key=cost)


def _matched(drawn: Lengths, tokens_per_row: int, window: int) -> list[Budgets]:
    """Budgets with so many tokens whose tiles are as the draws' are to their tokens, or one tile more."""
    tokens, tiles = drawn
    fits = tokens <= tokens_per_row
    if not tiles.any() or not fits.any():
        return [Budgets(tokens_per_row, 0, window)] * bool(fits.any())
    pace = tokens_per_row * tiles[fits].mean() / max(tokens[fits].mean(), 1)
    # A row of few tokens may want fewer tiles than one sample has: at least as many as all but the rarest need.
    least = int(np.quantile(tiles[fits], 0.999))
    return [Budgets(tokens_per_row, number, window) for number in sorted({max(least, int(pace) + i) for i in (0, 1)})]
