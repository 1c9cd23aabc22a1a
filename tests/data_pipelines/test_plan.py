import numpy as np
import pytest

from data_pipelines.plan import Blend, PlanError, pack, permutation, plan_rows

PINNED = [4, 1, 2, 6, 5, 0, 3, 7]


def mix(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lengths as D has them: text-only samples, one tile, and up to 6 + 1 tiles of 261 tokens."""
    rng = np.random.default_rng(seed)
    tiles = rng.choice([0, 1, 3, 4, 5, 7], size, p=[0.2, 0.1, 0.15, 0.1, 0.15, 0.3])
    return (rng.integers(30, 1500, size) + 261 * tiles).astype(np.int32), tiles.astype(np.int32)


def test_permutation_is_one_and_does_not_change():
    assert sorted(permutation(1000, 3, "qa", 0)) == list(range(1000))
    assert permutation(8, 0, "qa", 0).tolist() == PINNED  # an order once published is kept
    assert permutation(50, 0, "qa", 0).tolist() != permutation(50, 0, "qa", 1).tolist()
    assert permutation(50, 0, "qa", 0).tolist() != permutation(50, 0, "text", 0).tolist()
    assert permutation(50, 0, "qa", 0).tolist() != permutation(50, 1, "qa", 0).tolist()


def test_blend_shares_hold_over_every_window_of_ten_thousand_draws():
    weights = np.array([0.579, 0.2, 0.15, 0.05, 0.02, 0.001])
    blend = Blend("abcdef", [500_000] * 6, weights, seed=0)
    datasets, _ = blend.take(40_000)
    drawn = np.cumsum(np.eye(6, dtype=int)[datasets], axis=0)
    shares = (drawn[10_000:] - drawn[:-10_000]) / 10_000
    assert np.abs(shares - weights / weights.sum()).max() < 0.001


def test_blend_gives_every_sample_once_an_epoch_and_does_not_depend_on_how_it_is_asked():
    def draw(*counts):
        blend = Blend(["a", "b", "never"], [30, 70, 9], [1, 3, 0], seed=5)
        parts = [blend.take(count) for count in counts]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    datasets, samples = draw(400)
    for other in (draw(1, 399), draw(100, 0, 300)):
        np.testing.assert_array_equal(other, (datasets, samples))
    assert set(datasets) == {0, 1}
    for dataset, size in ((0, 30), (1, 70)):
        mine = samples[datasets == dataset]
        epochs = [mine[i : i + size].tolist() for i in range(0, len(mine) - size + 1, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs) and len(epochs) >= 3
        assert epochs[0] != epochs[1]


def test_another_dataset_in_the_blend_leaves_the_order_inside_this_one():
    _, alone = Blend(["a"], [50], [1], seed=1).take(50)
    datasets, both = Blend(["b", "a"], [9, 50], [1, 1], seed=1).take(100)
    assert both[datasets == 1].tolist() == alone.tolist()


@pytest.mark.parametrize(
    ("names", "sizes", "weights", "text"),
    [
        ([], [], [], "no dataset has a weight above 0"),
        (["a"], [5], [0.0], "no dataset has a weight above 0"),
        (["a", "a"], [5, 5], [1, 1], "'a' is named twice"),
        (["a", "b"], [5, 5], [1, -1], "'b' has weight -1"),
        (["a"], [5], [float("nan")], "'a' has weight nan"),
        (["a", "b"], [5, 0], [1, 1], "'b' is empty"),
    ],
)
def test_an_impossible_blend_is_an_error(names, sizes, weights, text):
    with pytest.raises(PlanError, match=text):
        Blend(names, sizes, weights, 0)


@pytest.mark.parametrize(("most_tokens", "most_tiles"), [(8192, 26), (2048, 12), (3500, 7)])
def test_packing_loses_and_doubles_nothing_and_keeps_both_budgets(most_tokens, most_tiles):
    tokens, tiles = mix(5000)
    rows, over = pack(tokens, tiles, most_tokens, most_tiles, 1024, seed=0)
    assert sorted(np.concatenate([*rows, over])) == list(range(5000))
    assert set(over) == set(np.flatnonzero((tokens > most_tokens) | (tiles > most_tiles)))
    for row in rows:
        assert tokens[row].sum() <= most_tokens and tiles[row].sum() <= most_tiles
        assert row.min() // 1024 == row.max() // 1024


def test_samples_known_to_be_bad_are_spread_over_the_rows():
    tokens, tiles = mix(1000)
    tokens[::50] = tiles[::50] = 0
    rows, _ = pack(tokens, tiles, 8192, 26, 1000, seed=0)
    assert sorted(np.concatenate(rows)) == list(range(1000))
    assert max(np.count_nonzero(tokens[row] == 0) for row in rows) == 1
    rows, over = pack(np.zeros(5, int), np.zeros(5, int), 8192, 26, 1000, seed=0)
    assert [row.tolist() for row in rows] == [[0, 1, 2, 3, 4]] and len(over) == 0


def test_packing_is_deterministic_and_its_row_order_follows_the_seed():
    tokens, tiles = mix(3000)
    one, two, other = (pack(tokens, tiles, 8192, 26, 1024, seed)[0] for seed in (0, 0, 1))
    assert [r.tolist() for r in one] == [r.tolist() for r in two]
    assert [r.tolist() for r in one] != [r.tolist() for r in other]
    assert sorted(r.tolist() for r in one) == sorted(r.tolist() for r in other)


def test_no_length_comes_systematically_early():
    """Without the shuffle, rows of large samples come first within each window."""
    tokens, tiles = mix(20_480)
    rows, _ = pack(tokens, tiles, 8192, 26, 1024, seed=0)
    place = np.empty(len(tokens))
    for window in range(20):
        mine = [row for row in rows if row[0] // 1024 == window]
        for i, row in enumerate(mine):
            place[row] = i / len(mine)
    assert abs(np.corrcoef(tokens, place)[0, 1]) < 0.02


def test_packing_wastes_little():
    tokens, tiles = mix(20_480)
    most_tokens = 8192
    most_tiles = int(most_tokens * tiles.mean() / tokens.mean())
    rows, _ = pack(tokens, tiles, most_tokens, most_tiles, 1024, seed=0)
    ideal = max(tokens.sum() / most_tokens, tiles.sum() / most_tiles)
    assert len(rows) < 1.02 * ideal


def plan(rows, seed=0, tokens_per_row=8192, tiles_per_row=26, lengths=None):
    lengths = lengths or [mix(700, 1), mix(300, 2)]
    blend = Blend(["a", "b"], [len(t) for t, _ in lengths], [0.8, 0.2], seed)
    return plan_rows(blend, lengths, rows, tokens_per_row, tiles_per_row, 256, seed, groups=("word",))


def test_a_longer_run_begins_with_the_rows_of_a_shorter_one():
    short, long = plan(100), plan(400)
    assert len(short) == 100 and len(long) == 400
    assert [short.row(i) for i in range(100)] == [long.row(i) for i in range(100)]
    assert [plan(100, seed=1).row(i) for i in range(100)] != [short.row(i) for i in range(100)]


def test_the_rows_of_a_plan_hold_every_draw_once_and_report_their_fill():
    lengths = [mix(700, 1), mix(300, 2)]
    p = plan(400, lengths=lengths)
    order = [pair for i in range(400) for pair in p.row(i)]
    # Windows that lie wholly within the 400 rows hold exactly what the blend drew.
    blend = Blend(["a", "b"], [700, 300], [0.8, 0.2], 0)
    drawn = list(zip(*(x.tolist() for x in blend.take(1024)), strict=True))
    assert sorted(order[:1024]) == sorted(drawn)
    used = sum(int(lengths[d][0][s]) for d, s in p.row(7)), sum(int(lengths[d][1][s]) for d, s in p.row(7))
    assert p.fill(7, 8) == (used[0] / 8192, used[1] / 26)
    assert 0.9 < max(p.fill()) <= 1 and not p.dropped and p.groups == ("word",)
    with pytest.raises(IndexError, match="row 400 of a plan of 400"):
        p.row(400)


def test_samples_over_the_budget_are_named_and_the_rest_goes_on():
    tokens, tiles = np.full(50, 100, np.int32), np.zeros(50, np.int32)
    tokens[[3, 40]] = 600
    p = plan(60, tokens_per_row=512, tiles_per_row=0, lengths=[(tokens, tiles), (tokens[:3], tiles[:3])])
    assert p.dropped == {"a": (3, 40)}
    assert all(s not in (3, 40) for i in range(60) for d, s in p.row(i) if d == 0)
    assert p.fill()[1] == 1.0


def test_a_dataset_that_fits_no_row_is_an_error_that_names_it():
    far = (np.full(5, 600, np.int32), np.full(5, 2, np.int32))
    with pytest.raises(PlanError, match=r"'b': no sample fits .*tokens_per_row=512 .*tiles_per_row=26.* 600 tokens"):
        plan(5, tokens_per_row=512, lengths=[(np.full(5, 9, np.int32), np.zeros(5, np.int32)), far])
    with pytest.raises(PlanError, match=r"data\.tokens_per_row=0"):
        plan(5, tokens_per_row=0)
