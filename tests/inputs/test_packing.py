import numpy as np
import pytest

from nvlm_jax.inputs.batch import THUMBNAIL, Batch, Example
from nvlm_jax.inputs.packing import pack_batch, pack_row, stack_rows


def example(name, tokens, tiles=0, slots=(), tags=(), first=1, size=2):
    def spread(places, fill):
        out = np.full(tokens, fill, np.int32)
        for place, value in places:
            out[place] = value
        return out

    return Example(
        id=name,
        tokens=np.arange(first, first + tokens, dtype=np.int32),
        targets=np.arange(first + 1, first + 1 + tokens, dtype=np.int32),
        loss_weights=np.array([1.0] * (tokens - 1) + [0.0], np.float32),
        loss_groups=np.array([3] * (tokens - 1) + [0], np.int32),
        tiles=np.full((tiles, size, size, 3), first, np.uint8),
        tile_index=np.array([*range(1, tiles), THUMBNAIL][:tiles], np.int32),
        tile_start=np.full(tiles, 1, np.int32),
        image_slots=spread(slots, -1),
        tag_tile=spread(tags, 0),
    )


# N = 2 image tokens a tile.
A = example("a", 4, tiles=2, slots=[(2, 0), (3, 3)], tags=[(1, 2)])
B = example("b", 2, first=20)
C = example("c", 3, tiles=1, slots=[(0, 0), (1, 1)], tags=[(2, 1)], first=40)


def test_a_row_by_hand():
    row = pack_row([A, B, C], tokens_per_row=11, tiles_per_row=5, tile_size=2, tokens_per_tile=2)
    expected = {
        "tokens": [1, 2, 3, 4, 20, 21, 40, 41, 42, 0, 0],
        "targets": [2, 3, 4, 5, 21, 22, 41, 42, 43, 0, 0],
        "loss_weights": [1, 1, 1, 0, 1, 0, 1, 1, 0, 0, 0],
        "loss_groups": [3, 3, 3, 0, 3, 0, 3, 3, 0, 0, 0],
        "segment_ids": [1, 1, 1, 1, 2, 2, 3, 3, 3, 0, 0],
        "positions": [0, 1, 2, 3, 0, 1, 0, 1, 2, 0, 0],
        "image_slots": [-1, -1, 0, 3, -1, -1, 4, 5, -1, -1, -1],
        "tag_tile": [0, 2, 0, 0, 0, 0, 0, 0, 3, 0, 0],
        "tile_segment_ids": [1, 1, 3, 0, 0],
        "tile_index": [1, THUMBNAIL, THUMBNAIL, 0, 0],
        "tile_start": [1, 1, 7, 0, 0],
    }
    for name, values in expected.items():
        assert getattr(row, name).tolist() == values, name
    assert row.tiles[:, 0, 0, 0].tolist() == [1, 1, 40, 0, 0]
    dtypes = {name: getattr(row, name).dtype for name in Batch._fields}
    assert dtypes.pop("tiles") == np.uint8 and dtypes.pop("loss_weights") == np.float32
    assert set(dtypes.values()) == {np.dtype(np.int32)}


def test_a_batch_is_its_rows():
    rows = [[A, C], [], [B]]
    batch = pack_batch(rows, 8, 4, 2, 2)
    stacked = stack_rows([pack_row(row, 8, 4, 2, 2) for row in rows])
    for name in Batch._fields:
        np.testing.assert_array_equal(getattr(batch, name), getattr(stacked, name), err_msg=name)
    assert batch.tokens.shape == (3, 8) and batch.tiles.shape == (3, 4, 2, 2, 3)
    assert not batch.segment_ids[1].any() and (batch.image_slots[1] == -1).all()


def test_a_row_without_tiles():
    row = pack_row([B, B], 4, 0, 2, 2)
    assert row.tiles.shape == (0, 2, 2, 3) and row.segment_ids.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("sizes", [(6, 5), (11, 2)])
def test_a_full_row_is_an_error_that_names_samples_and_budgets(sizes):
    with pytest.raises(ValueError, match=r"\['a', 'c'\]: 7 tokens and 3 tiles; data.tokens_per_row \d+ and data.tiles"):
        pack_row([A, C], *sizes, 2, 2)


def test_tiles_of_another_size_are_an_error():
    with pytest.raises(ValueError, match=r"sample 'a': tiles of \(2, 2, 3\); the row's are \(4, 4, 3\)"):
        pack_row([A], 11, 5, 4, 2)
