"""The endless order of draws from several datasets: draw n -> (dataset, sample).

Pure NumPy. Random numbers come from raw Philox bits, a stream that NumPy promises to keep: the order of a run does not
change with NumPy's version.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

SORTED = 1 << 24  # samples of the largest dataset whose permutation is held in memory, 8 bytes each
ROUNDS = 6  # of the network that permutes larger ones


class PlanError(ValueError):
    """A blend or budgets from which no plan can be made. The message names the dataset or the config key."""


def permutation(size: int, *key: int | str) -> np.ndarray:
    """A permutation of range(size), int64 [size], fixed by `key` (integers >= 0 and names)."""
    return np.argsort(_bits(size, *key), kind="stable")


def scatter(places: np.ndarray, size: int, *key: int | str) -> np.ndarray:
    """Where another permutation of range(size), fixed by `key`, sends `places`: of any size, it takes no memory.

    A Feistel network over the next power of four; what falls outside range(size) goes through it again, so that the
    whole stays a permutation.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = _bits(ROUNDS, *key)
    found = places.astype(np.uint64)
    again = np.arange(len(found))
    while len(again):
        left, right = found[again] >> half, found[again] & mask
        for each in keys:
            left, right = right, left ^ (_mix(right ^ each) & mask)
        found[again] = (left << half) | right
        again = again[found[again] >= np.uint64(size)]
    return found.astype(np.int64)


def _bits(count: int, *key: int | str) -> np.ndarray:
    entropy = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.Philox(np.random.SeedSequence(entropy)).random_raw(count)


def _mix(x: np.ndarray) -> np.ndarray:
    """Each bit of uint64 `x` changes about half the bits of the result (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shares(
    weights: Sequence[float],
    sizes: Sequence[int],
    size_exponent: float = 0.0,
    text: Sequence[bool] = (),
    text_share: float = 0.0,
) -> np.ndarray:
    """What each dataset weighs in a blend, float64.

    >>> shares([1.0, 1.0], [900, 100], 0.5).tolist()
    [30.0, 10.0]
    >>> shares([3.0, 1.0, 4.0], [10, 10, 10], text=[False, False, True], text_share=0.2).tolist()
    [0.6, 0.2, 0.2]

    Args:
        weights: of the config.
        sizes: samples of each.
        size_exponent: 0 = the weights alone, 1 = by size, 1/t = temperature t.
        text: which of them have no images.
        text_share: of those together; 0 = as their weights say.

    Raises:
        PlanError: a text share, and no dataset, or none with a weight, to have it or the rest.
    """
    found = np.asarray(weights, np.float64) * np.asarray(sizes, np.float64) ** size_exponent
    if text_share:
        textual = np.asarray(text, bool)
        for chosen, share, kind in ((textual, text_share, "without"), (~textual, 1 - text_share, "with")):
            if share and not found[chosen].sum() > 0:
                raise PlanError(f"data.text_share={text_share}: no dataset {kind} images has a weight above 0")
            found[chosen] *= share / max(found[chosen].sum(), 1e-300)
    return found


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
        self.names, self.sizes, self.seed = tuple(names), tuple(sizes), seed
        self.shares = np.asarray(weights, np.float64) / np.sum(weights)
        self.drawn = np.zeros(len(names), np.int64)  # draws of each dataset so far
        self._deficit = np.zeros(len(names))
        self._epoch: dict[int, tuple[int, np.ndarray]] = {}  # dataset -> its current epoch and permutation

    def fresh(self) -> Blend:
        """The same blend before its first draw."""
        return Blend(self.names, self.sizes, self.shares, self.seed)

    def take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The next `count` draws: dataset int32 [count] and sample int64 [count]."""
        datasets = self._choose(count)
        samples = np.empty(count, np.int64)
        for dataset in range(len(self.names)):
            mine = np.flatnonzero(datasets == dataset)
            samples[mine] = self._next(dataset, len(mine))
        return datasets, samples

    def _choose(self, count: int) -> np.ndarray:
        if np.count_nonzero(self.shares) == 1:
            return np.full(count, self.shares.argmax(), np.int32)
        datasets = np.empty(count, np.int32)
        deficit, shares = self._deficit, self.shares
        # A dataset of weight 0 never has a deficit above another's: those add up to 1 before each draw.
        for n in range(count):
            deficit += shares
            chosen = deficit.argmax()
            deficit[chosen] -= 1
            datasets[n] = chosen
        return datasets

    def _next(self, dataset: int, count: int) -> np.ndarray:
        first, size = int(self.drawn[dataset]), self.sizes[dataset]
        self.drawn[dataset] += count
        taken, parts = 0, [np.empty(0, np.int64)]
        while taken < count:
            epoch, place = divmod(first + taken, size)
            parts.append(self._order(dataset, epoch, np.arange(place, min(size, place + count - taken))))
            taken += len(parts[-1])
        return np.concatenate(parts)

    def _order(self, dataset: int, epoch: int, places: np.ndarray) -> np.ndarray:
        size, key = self.sizes[dataset], (self.seed, self.names[dataset], epoch)
        if size > SORTED:
            return scatter(places, size, *key)
        known = self._epoch.get(dataset)
        if known is None or known[0] != epoch:
            self._epoch[dataset] = known = (epoch, permutation(size, *key))
        return known[1][places]
