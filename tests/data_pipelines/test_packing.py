import numpy as np
import pytest

from data_pipelines.packing import pack


def mix(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lengths as D has them: text-only samples, one tile, and up to 6 + 1 tiles of 261 tokens."""
    rng = np.random.default_rng(seed)
    tiles = rng.choice([0, 1, 3, 4, 5, 7], size, p=[0.2, 0.1, 0.15, 0.1, 0.15, 0.3])
    return (rng.integers(30, 1500, size) + 261 * tiles).astype(np.int32), tiles.astype(np.int32)


def plain_best_fit(tokens, tiles, most_tokens, most_tiles):
    """The rule as its docstring has it, every sample left looked at for every choice."""
    sizes, most = np.stack([tokens, tiles]), np.array([[most_tokens], [most_tiles]])
    left, rows = list(range(len(tokens))), []
    while left:
        row = [left[np.argmax((sizes / most)[:, left].max(axis=0))]]
        while True:
            free = most - sizes[:, row].sum(axis=1, keepdims=True)
            fit = [i for i in left if i not in row and (sizes[:, [i]] <= free).all()]
            if not fit:
                break
            row.append(fit[np.argmax((sizes / most * free / most)[:, fit].sum(axis=0))])
        rows.append(row)
        left = [i for i in left if i not in row]
    return rows


@pytest.mark.parametrize(("most_tokens", "most_tiles"), [(8192, 26), (2048, 12), (3500, 7)])
def test_rows_are_those_of_the_plain_rule(most_tokens, most_tiles):
    tokens, tiles = mix(150)
    fits = np.flatnonzero((tokens <= most_tokens) & (tiles <= most_tiles))
    rows = pack(tokens, tiles, most_tokens, most_tiles, seed=0).rows()
    expected = plain_best_fit(tokens[fits], tiles[fits], most_tokens, most_tiles)
    assert sorted(map(list, rows)) == sorted(fits[row].tolist() for row in expected)


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
