import numpy as np
import pytest

from data_pipelines.packing import NEARLY_FULL, _best_fit, pack


def mix(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lengths as D has them: text-only samples, one tile, and up to 6 + 1 tiles of 261 tokens."""
    rng = np.random.default_rng(seed)
    tiles = rng.choice([0, 1, 3, 4, 5, 7], size, p=[0.2, 0.1, 0.15, 0.1, 0.15, 0.3])
    return (rng.integers(30, 1500, size) + 261 * tiles).astype(np.int32), tiles.astype(np.int32)


def cost(free_tokens, free_tiles, most_tokens, most_tiles):
    left = free_tokens * max(most_tiles, 1), free_tiles * most_tokens
    return 5 * max(left) - min(left)


def costs(sizes, left, free, most):
    """What remains after each of the samples `left` that fits."""
    rest = {i: (free[0] - sizes[i][0], free[1] - sizes[i][1]) for i in left}
    return {i: cost(*pair, *most) for i, pair in rest.items() if min(pair) >= 0}


@pytest.mark.parametrize(("most_tokens", "most_tiles"), [(8192, 18), (6000, 13), (16000, 35)])
def test_every_sample_of_a_row_is_the_best_there_was(most_tokens, most_tiles):
    tokens, tiles = mix(160)
    fits = (tokens <= most_tokens) & (tiles <= most_tiles)
    sizes = list(zip(tokens[fits].tolist(), tiles[fits].tolist(), strict=True))
    left, most = set(range(len(sizes))), (most_tokens, most_tiles)
    looked = 0
    for row in _best_fit(tokens[fits], tiles[fits], most_tokens, most_tiles):
        shares = {i: (sizes[i][0] * most_tiles, sizes[i][1] * most_tokens) for i in left}
        leaning = {i: 5 * max(pair) - 4 * min(pair) for i, pair in shares.items()}
        assert leaning[row[0]] == max(leaning.values())
        free = most
        for i, following in zip(row, [*row[1:], None], strict=True):
            left.remove(i)
            free = free[0] - sizes[i][0], free[1] - sizes[i][1]
            further = cost(*free, *most) < int(NEARLY_FULL * 4 * most_tokens * most_tiles)
            found = costs(sizes, left, free, most)
            if following is None:
                assert not found
            elif further:  # looking further never does worse than not looking
                rest = free[0] - sizes[following][0], free[1] - sizes[following][1]
                ahead = min([found[following], *costs(sizes, left - {following}, rest, most).values()])
                assert ahead <= min(found.values())
                looked += ahead < min(found.values())
            else:
                assert found[following] == min(found.values())
    assert not left and looked > 0


@pytest.mark.parametrize(("most_tokens", "most_tiles"), [(8192, 26), (2048, 12), (3500, 7), (4000, 0)])
def test_packing_loses_and_doubles_nothing_and_keeps_both_budgets(most_tokens, most_tiles):
    tokens, tiles = mix(5000)
    packed = pack(tokens, tiles, most_tokens, most_tiles, seed=0)
    assert sorted(np.concatenate([packed.draws, packed.over])) == list(range(5000))
    assert set(packed.over) == set(np.flatnonzero((tokens > most_tokens) | (tiles > most_tiles)))
    for row in packed.rows():
        assert 0 < tokens[row].sum() <= most_tokens and tiles[row].sum() <= most_tiles


def test_samples_known_to_be_bad_are_spread_over_the_rows():
    tokens, tiles = mix(1000)
    tokens[::50] = tiles[::50] = 0
    rows = pack(tokens, tiles, 8192, 26, seed=0).rows()
    assert sorted(np.concatenate(rows)) == list(range(1000))
    assert max(np.count_nonzero(tokens[row] == 0) for row in rows) == 1
    packed = pack(np.zeros(5, int), np.zeros(5, int), 8192, 26, seed=0)
    assert [row.tolist() for row in packed.rows()] == [[0, 1, 2, 3, 4]] and len(packed.over) == 0
    assert pack(np.full(3, 99), np.zeros(3, int), 50, 26, seed=0).rows() == []


def test_packing_is_deterministic_and_its_row_order_follows_the_seed():
    tokens, tiles = mix(3000)
    one, two, other = (pack(tokens, tiles, 8192, 26, seed).rows() for seed in (0, 0, 1))
    assert [r.tolist() for r in one] == [r.tolist() for r in two]
    assert [r.tolist() for r in one] != [r.tolist() for r in other]
    assert sorted(r.tolist() for r in one) == sorted(r.tolist() for r in other)


def test_no_length_comes_systematically_early():
    """Without the shuffle, rows of large samples come first within each window."""
    place, lengths = [], []
    for window in range(40):
        tokens, tiles = mix(1024, window)
        packed = pack(tokens, tiles, 8192, 26, seed=window)
        place.append(np.repeat(np.arange(len(packed.lengths)) / len(packed.lengths), packed.lengths))
        lengths.append(tokens[packed.draws])
    assert abs(np.corrcoef(np.concatenate(lengths), np.concatenate(place))[0, 1]) < 0.03


def test_packing_wastes_little():
    tokens, tiles = mix(4096)
    most_tokens = 8192
    most_tiles = int(most_tokens * tiles.mean() / tokens.mean())
    rows = pack(tokens, tiles, most_tokens, most_tiles, seed=0).rows()
    ideal = max(tokens.sum() / most_tokens, tiles.sum() / most_tiles)
    assert len(rows) < 1.02 * ideal
