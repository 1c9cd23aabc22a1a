import pytest

from nvlm_jax.inputs.batch import THUMBNAIL
from nvlm_jax.inputs.tags import THUMBNAIL_TAG, tile_indices, tile_tags


def test_the_four_styles_of_a_3_by_2_grid():
    thumb = "<tile_global_thumbnail>"
    assert tile_tags(3, 2, "1d") == [*(f"<tile_{k}>" for k in (1, 2, 3, 4, 5, 6)), thumb]
    assert tile_tags(3, 2, "grid") == [
        *("<tile_x0_y0>", "<tile_x1_y0>", "<tile_x2_y0>"),
        *("<tile_x0_y1>", "<tile_x1_y1>", "<tile_x2_y1>"),
        thumb,
    ]
    assert tile_tags(3, 2, "box") == [
        "<box> (0, 0), (448, 448) </box>",
        "<box> (448, 0), (896, 448) </box>",
        "<box> (896, 0), (1344, 448) </box>",
        "<box> (0, 448), (448, 896) </box>",
        "<box> (448, 448), (896, 896) </box>",
        "<box> (896, 448), (1344, 896) </box>",
        thumb,
    ]
    assert tile_tags(3, 2, "none") == [""] * 7


@pytest.mark.parametrize("style", ["1d", "grid", "box"])
def test_one_tile_has_the_thumbnails_tag_alone(style):
    for thumbnail in (True, False):
        assert tile_tags(1, 1, style, "<tile_global>", thumbnail=thumbnail) == ["<tile_global>"]
    assert tile_tags(1, 1, "none") == [""]


def test_tags_are_counted_plainly_beyond_nine_tiles():
    tags = tile_tags(4, 3)
    assert tags[0] == "<tile_1>" and tags[9:] == ["<tile_10>", "<tile_11>", "<tile_12>", THUMBNAIL_TAG]


@pytest.mark.parametrize("style", ["none", "1d", "grid", "box"])
@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("thumbnail", [True, False])
def test_tags_and_indices_match(style, grid, thumbnail):
    tags = tile_tags(*grid, style, "<t>", 16, thumbnail)
    indices = tile_indices(*grid, thumbnail)
    assert len(tags) == len(indices)
    assert [tag == "<t>" for tag in tags] == [style != "none" and index == THUMBNAIL for index in indices]


def test_indices():
    assert tile_indices(1, 1) == [THUMBNAIL]
    assert tile_indices(2, 2) == [1, 2, 3, 4, THUMBNAIL]
    assert tile_indices(2, 2, thumbnail=False) == [1, 2, 3, 4]


def test_an_unknown_style_is_named():
    with pytest.raises(ValueError, match=r"'2d' is none of none, 1d, grid, box"):
        tile_tags(1, 1, "2d")
