import numpy as np
import pytest

from data_pipelines import blend as blend_module
from data_pipelines.blend import Blend, PlanError, permutation, scatter, shares

PINNED = [4, 1, 2, 6, 5, 0, 3, 7]
SCATTERED = [44625264, 12003727, 45407616, 35744134, 87602199, 23365854, 83233462, 4612112]


def test_permutation_is_one_and_does_not_change():
    assert sorted(permutation(1000, 3, "qa", 0)) == list(range(1000))
    assert permutation(8, 0, "qa", 0).tolist() == PINNED  # an order once published is kept
    assert permutation(50, 0, "qa", 0).tolist() != permutation(50, 0, "qa", 1).tolist()
    assert permutation(50, 0, "qa", 0).tolist() != permutation(50, 0, "text", 0).tolist()
    assert permutation(50, 0, "qa", 0).tolist() != permutation(50, 1, "qa", 0).tolist()


@pytest.mark.parametrize("size", [1, 2, 5, 1000, 4097])
def test_scatter_is_a_permutation_whose_parts_can_be_asked_for_alone(size):
    whole = scatter(np.arange(size), size, 3, "qa", 0)
    assert sorted(whole.tolist()) == list(range(size))
    np.testing.assert_array_equal(scatter(np.arange(size // 2, size), size, 3, "qa", 0), whole[size // 2 :])


def test_scatter_does_not_change_and_leaves_no_trace_of_the_order():
    assert scatter(np.arange(8), 10**8, 0, "qa", 0).tolist() == SCATTERED
    order = scatter(np.arange(100_000), 100_000, 0, "qa", 0)
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.02
    steps = np.diff(order) % 100_000  # of neighbours, as uniform as of a random order
    assert abs(np.corrcoef(steps[1:], steps[:-1])[0, 1]) < 0.02
    assert np.abs(np.histogram(steps, 100)[0] / 1000 - 1).max() < 0.15


def test_a_dataset_too_large_to_sort_is_still_drawn_once_an_epoch(monkeypatch):
    monkeypatch.setattr(blend_module, "SORTED", 20)
    datasets, samples = Blend(["a", "b"], [70, 20], [1, 1], seed=0).take(280)
    for dataset, size in ((0, 70), (1, 20)):
        mine = samples[datasets == dataset]
        epochs = [mine[i : i + size].tolist() for i in range(0, len(mine), size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs) and epochs[0] != epochs[1]


def test_blend_shares_hold_over_every_window_of_ten_thousand_draws():
    weights = np.array([0.579, 0.2, 0.15, 0.05, 0.02, 0.001])
    datasets, _ = Blend("abcdef", [5000] * 6, weights, seed=0).take(25_000)
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


def test_shares_by_weight_size_temperature_and_text():
    weights, sizes = [1.0, 1.0, 2.0], [1000, 10, 10]
    assert shares(weights, sizes).tolist() == weights
    assert shares(weights, sizes, 1.0).tolist() == [1000, 10, 20]
    np.testing.assert_allclose(shares(weights, sizes, 1 / 3), [10, 10 ** (1 / 3), 2 * 10 ** (1 / 3)])
    found = shares(weights, sizes, 0.0, [False, False, True], 0.2)
    np.testing.assert_allclose(found, [0.4, 0.4, 0.2])
    assert shares([1.0], [5], text=[True], text_share=1.0).tolist() == [1.0]
    with pytest.raises(PlanError, match=r"text_share=0.2: no dataset without images"):
        shares(weights, sizes, 0.0, [False] * 3, 0.2)
    with pytest.raises(PlanError, match=r"text_share=0.2: no dataset with images"):
        shares(weights, sizes, 0.0, [True] * 3, 0.2)
