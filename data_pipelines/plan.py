"""The order of a run, planned from lengths alone: which sample comes n-th, and which samples share a row.

    Blend   draw n -> (dataset, sample)        exact shares, a seeded permutation of each dataset in each epoch
    pack    draws of a window -> rows          two budgets, tokens and tiles of a row
    Plan    row i -> its samples               a function of the seed, the blend, the lengths and the budgets

Pure NumPy. Windows are packed one by one, so a longer run begins with the rows of a shorter one, and nothing here
knows how many hosts there are. Random numbers come from raw Philox bits, a stream that NumPy promises to keep: the
order of a run does not change with NumPy's version.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np


class PlanError(ValueError):
    """A blend or budgets from which no plan can be made. The message names the dataset or the config key."""


def permutation(size: int, *key: int | str) -> np.ndarray:
    """A permutation of range(size), int64 [size], fixed by `key` (integers >= 0 and names)."""
    entropy = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    bits = np.random.Philox(np.random.SeedSequence(entropy)).random_raw(size)
    return np.argsort(bits, kind="stable")


class Blend:
    """An endless order over several datasets.

    Draw n comes from the dataset that lags most behind its share of n + 1 draws (the first of those that tie), so
    every stretch of draws holds every dataset's share to within a few samples. Inside a dataset each epoch is a
    permutation of its own.
    """

    def __init__(self, names: Sequence[str], sizes: Sequence[int], weights: Sequence[float], seed: int):
        """
        Args:
            names: of the datasets; with the seed they fix the permutations, so another dataset in the blend leaves the
                order inside this one as it was.
            sizes: samples of each.
            weights: shares of samples, normalised here; a dataset with weight 0 is never drawn.
            seed: of the run, >= 0.

        Raises:
            PlanError: no dataset, a name twice, a negative weight, or an empty dataset with a weight.
        """
        faults = [f"data.blend: dataset {n!r} is named twice" for n in sorted(set(names)) if list(names).count(n) > 1]
        for name, size, weight in zip(names, sizes, weights, strict=True):
            if not (weight >= 0 and np.isfinite(weight)):
                faults.append(f"data.blend: dataset {name!r} has weight {weight}; a number >= 0 would be right")
            if weight > 0 and size == 0:
                faults.append(f"data.blend: dataset {name!r} is empty; give it weight 0 or samples")
        if not sum(weights) > 0:
            faults.append("data.blend: no dataset has a weight above 0")
        if faults:
            raise PlanError("\n".join(faults))
        self.names, self.sizes = tuple(names), tuple(sizes)
        self.shares = np.asarray(weights, np.float64) / np.sum(weights)
        self._seed = seed
        self._deficit = np.zeros(len(names))
        self._drawn = np.zeros(len(names), np.int64)
        self._epoch: dict[int, tuple[int, np.ndarray]] = {}  # dataset -> its current epoch and permutation

    def take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The next `count` draws: dataset int32 [count] and sample int64 [count]."""
        datasets = np.empty(count, np.int32)
        deficit, shares = self._deficit, self.shares
        # A dataset of weight 0 never has a deficit above another's: those add up to 1 before each draw.
        for n in range(count):
            deficit += shares
            chosen = deficit.argmax()
            deficit[chosen] -= 1
            datasets[n] = chosen
        samples = np.empty(count, np.int64)
        for dataset in range(len(self.names)):
            mine = np.flatnonzero(datasets == dataset)
            samples[mine] = self._next(dataset, len(mine))
        return datasets, samples

    def _next(self, dataset: int, count: int) -> np.ndarray:
        first, size = int(self._drawn[dataset]), self.sizes[dataset]
        self._drawn[dataset] += count
        taken, parts = 0, [np.empty(0, np.int64)]
        while taken < count:
            epoch, place = divmod(first + taken, size)
            parts.append(self._permutation(dataset, epoch)[place : place + count - taken])
            taken += len(parts[-1])
        return np.concatenate(parts)

    def _permutation(self, dataset: int, epoch: int) -> np.ndarray:
        known = self._epoch.get(dataset)
        if known is None or known[0] != epoch:
            order = permutation(self.sizes[dataset], self._seed, self.names[dataset], epoch)
            self._epoch[dataset] = known = (epoch, order)
        return known[1]


def pack(
    tokens: np.ndarray, tiles: np.ndarray, tokens_per_row: int, tiles_per_row: int, window: int, seed: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Share draws out among rows of two budgets, window by window.

    Each row begins with the largest sample left in the window and takes, again and again, the one that fits and goes
    furthest along what is left of both budgets (dot-product best fit). Within a window the rows are then shuffled, for
    they come out from large samples to small ones.

    Args:
        tokens: int [n], of each draw; 0 for a sample known to be bad.
        tiles: int [n].
        tokens_per_row: budget S.
        tiles_per_row: budget T.
        window: draws packed together.
        seed: of the shuffle.

    Returns:
        The rows, each the numbers of its draws in int64, and the draws that exceed a budget alone, which are in none.
    """
    rows: list[np.ndarray] = []
    fits = (tokens <= tokens_per_row) & (tiles <= tiles_per_row)
    for start in range(0, len(tokens), window):
        sized = fits[start : start + window] & (tokens[start : start + window] > 0)
        draws = start + np.flatnonzero(sized)
        packed = [draws[row] for row in _pack_window(tokens[draws], tiles[draws], tokens_per_row, tiles_per_row)]
        # Draws of no length are bad samples: spread, for a row full of them would look like a share far too high.
        empty = start + np.flatnonzero(fits[start : start + window] & ~sized)
        packed = packed or [empty[:0]] * (len(empty) > 0)
        order = permutation(len(packed), seed, "rows", start // window)
        rows += [np.append(packed[row], empty[place :: len(packed)]) for place, row in enumerate(order)]
    return rows, np.flatnonzero(~fits)


def _pack_window(tokens: np.ndarray, tiles: np.ndarray, most_tokens: int, most_tiles: int) -> list[np.ndarray]:
    """Rows of one window, each an array of places in it."""
    scaled_tokens, scaled_tiles = tokens / most_tokens, tiles / max(most_tiles, 1)
    largest = np.maximum(scaled_tokens, scaled_tiles)
    left = np.arange(len(tokens))
    rows = []
    while len(left):
        candidates, chosen = left, left[largest[left].argmax()]
        free_tokens, free_tiles, row = most_tokens, most_tiles, []
        while True:
            row.append(chosen)
            free_tokens -= int(tokens[chosen])
            free_tiles -= int(tiles[chosen])
            fit = (tokens[candidates] <= free_tokens) & (tiles[candidates] <= free_tiles) & (candidates != chosen)
            candidates = candidates[fit]
            if not len(candidates):
                break
            along = scaled_tokens[candidates] * (free_tokens / most_tokens)
            along += scaled_tiles[candidates] * (free_tiles / max(most_tiles, 1))
            chosen = candidates[along.argmax()]
        rows.append(np.asarray(row))
        left = np.setdiff1d(left, row, assume_unique=True)
    return rows


@dataclasses.dataclass(frozen=True)
class Plan:
    """The rows of a run, in order. Row i is samples [offsets[i], offsets[i + 1]) of the arrays below."""

    names: tuple[str, ...]  # of the datasets
    groups: tuple[str, ...]  # report groups of the answers; group k of a batch is groups[k - 1]
    tokens_per_row: int
    tiles_per_row: int
    offsets: np.ndarray  # int64 [rows + 1]
    dataset: np.ndarray  # int32 [n]
    sample: np.ndarray  # int64 [n]
    tokens: np.ndarray  # int32 [n], measured length; 0 where the sample cannot be built
    tiles: np.ndarray  # int32 [n]
    dropped: dict[str, tuple[int, ...]]  # by dataset: the samples left out because they exceed a row's budget alone

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, i: int) -> list[tuple[int, int]]:
        """Row i: (dataset, sample) of each of its segments. Raises IndexError beyond the plan."""
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of a plan of {len(self)} rows")
        span = slice(self.offsets[i], self.offsets[i + 1])
        return list(zip(self.dataset[span].tolist(), self.sample[span].tolist(), strict=True))

    def lengths(self, i: int) -> tuple[list[int], list[int]]:
        """Tokens and tiles of each segment of row i."""
        span = slice(self.offsets[i], self.offsets[i + 1])
        return self.tokens[span].tolist(), self.tiles[span].tolist()

    def fill(self, first: int = 0, last: int | None = None) -> tuple[float, float]:
        """Share of token and of tile places that rows [first, last) use; 0 tiles of 0 count as full."""
        last = len(self) if last is None else last
        span = slice(self.offsets[first], self.offsets[last])
        places = self.tokens_per_row * (last - first), self.tiles_per_row * (last - first)
        used = int(self.tokens[span].sum()), int(self.tiles[span].sum())
        token_fill, tile_fill = (u / p if p else 1.0 for u, p in zip(used, places, strict=True))
        return token_fill, tile_fill


def plan_rows(
    blend: Blend,
    lengths: Sequence[tuple[np.ndarray, np.ndarray]],
    rows: int,
    tokens_per_row: int,
    tiles_per_row: int,
    window: int,
    seed: int,
    groups: Sequence[str] = (),
) -> Plan:
    """Draw from the blend and pack, window by window, until there are `rows` rows.

    Args:
        blend: a fresh one.
        lengths: tokens and tiles of every sample of each dataset, int32 [size] each.
        rows: how many; a run needs steps * rows of a batch.
        tokens_per_row: S.
        tiles_per_row: T.
        window: draws packed together.
        seed: of the run.
        groups: kept in the plan.

    Raises:
        PlanError: a dataset of the blend none of whose samples fits a row, or a budget that is no positive number.
    """
    if tokens_per_row < 1 or tiles_per_row < 0 or window < 1:
        raise PlanError(
            f"data.tokens_per_row={tokens_per_row}, data.tiles_per_row={tiles_per_row}, data.pack_window={window}: "
            "at least 1, 0 and 1 would be right"
        )
    _check_budgets(blend, lengths, tokens_per_row, tiles_per_row)
    packed: list[np.ndarray] = []
    parts: list[tuple[np.ndarray, ...]] = []
    dropped: dict[str, set[int]] = {}
    while len(packed) < rows:
        dataset, sample = blend.take(window)
        tokens, tiles = np.zeros(window, np.int32), np.zeros(window, np.int32)
        for d, (all_tokens, all_tiles) in enumerate(lengths):
            mine = dataset == d
            tokens[mine], tiles[mine] = all_tokens[sample[mine]], all_tiles[sample[mine]]
        window_seed = zlib.crc32(f"{seed} {len(parts)}".encode())
        new, over = pack(tokens, tiles, tokens_per_row, tiles_per_row, window, window_seed)
        packed += [len(parts) * window + row for row in new]
        parts.append((dataset, sample, tokens, tiles))
        for d, s in zip(dataset[over].tolist(), sample[over].tolist(), strict=True):
            dropped.setdefault(blend.names[d], set()).add(s)
    packed = packed[:rows]
    order = np.concatenate([np.empty(0, np.int64), *packed])
    columns = [np.concatenate(column)[order] for column in zip(*parts, strict=True)] if parts else [order] * 4
    offsets = np.cumsum([0] + [len(row) for row in packed], dtype=np.int64)
    lost = {name: tuple(sorted(samples)) for name, samples in dropped.items()}
    return Plan(blend.names, tuple(groups), tokens_per_row, tiles_per_row, offsets, *columns, dropped=lost)


def _check_budgets(
    blend: Blend, lengths: Sequence[tuple[np.ndarray, np.ndarray]], tokens_per_row: int, tiles_per_row: int
) -> None:
    for name, share, (tokens, tiles) in zip(blend.names, blend.shares, lengths, strict=True):
        if share > 0 and not np.any((tokens <= tokens_per_row) & (tiles <= tiles_per_row)):
            raise PlanError(
                f"dataset {name!r}: no sample fits a row of data.tokens_per_row={tokens_per_row} and "
                f"data.tiles_per_row={tiles_per_row}; its shortest sample has {tokens.min()} tokens, "
                f"the one with the fewest tiles {tiles.min()}"
            )
