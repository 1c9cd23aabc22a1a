import pathlib

import numpy as np
import pytest

from data_pipelines import embedded
from launch.show_batch import tiles_seen
from nvlm_jax.inputs.batch import THUMBNAIL
from tests.commands import command

ROOT = pathlib.Path(__file__).parents[2]


def through_cross_attention(arch, batch, row, place, tile):
    """The rule, said again."""
    segment = batch.segment_ids[row, place]
    if arch == "d" or segment == 0 or batch.tile_segment_ids[row, tile] != segment:
        return False
    if arch == "h" and batch.tile_index[row, tile] == THUMBNAIL:
        return False
    return batch.tile_start[row, tile] <= place and batch.tag_tile[row, place] in (0, tile + 1)


def in_the_decoder(per_tile, batch, row, place, tile):
    mine = np.flatnonzero((batch.image_slots[row] >= 0) & (batch.image_slots[row] // per_tile == tile))
    same = batch.segment_ids[row, place] == batch.tile_segment_ids[row, tile] > 0
    return bool(same and len(mine) and mine.max() <= place)


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_what_each_token_sees(tiny_model_config, random_batch, arch):
    config = tiny_model_config(arch)
    batch = random_batch(config, 3, seed=1, tokens=48, tiles=7)
    # Samples do not always begin with their image.
    batch.tile_start[:] += np.where(batch.tile_segment_ids > 0, 2, 0)
    sees = tiles_seen(config, batch)
    assert sees.cross.shape == sees.decoder.shape == (3, 48, 7) and sees.cross.dtype == bool
    for row, place, tile in np.ndindex(3, 48, 7):
        where = batch, row, place, tile
        assert sees.cross[row, place, tile] == through_cross_attention(arch, *where), where[1:]
        assert sees.decoder[row, place, tile] == in_the_decoder(config.tokens_per_tile, *where), where[1:]
    assert sees.cross.any() == (arch != "d") and sees.decoder.any() == (arch != "x")


@pytest.mark.parametrize("arch", ["d", "x"])
def test_without_tiles_nothing_is_seen(tiny_model_config, random_batch, arch):
    config = tiny_model_config(arch)
    sees = tiles_seen(config, random_batch(config, 2, seed=0, tiles=0))
    assert sees.cross.shape == sees.decoder.shape == (2, 32, 0)


def run(directory, *flags):
    config = f"--config={ROOT}/configs/nvlm.py:arch=h,size=tiny,stage=sft"
    tokenizer = f"--config.inputs.tokenizer={ROOT}/nvlm_jax/assets/tiny"
    return command("launch.show_batch", config, tokenizer, *flags, cwd=directory)


def test_the_command_writes_page_and_picture(tmp_path):
    embedded.prepare(tmp_path / "runs" / "data", ["qa", "text"], samples=40, processes=0)
    done = run(tmp_path, "--out=page.html", "--step=1", "--rows=2", "--picture=images/page.png")
    assert done.returncode == 0, done.stderr
    picture, page = done.stdout.splitlines()
    assert picture == "images/page.png" and page.startswith("page.html: ") and "of its tiles are filled" in page
    page = (tmp_path / "page.html").read_text()
    assert "nvlm-h-tiny-sft: batch of step 1" in page and "Rows 0 to 1 of 8" in page
    assert (tmp_path / "images" / "page.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_says_what_is_missing(tmp_path):
    done = run(tmp_path, "--out=page.html")
    assert done.returncode == 1 and "DatasetError: " in done.stderr and "runs/data/qa" in done.stderr
    assert not (tmp_path / "page.html").exists()
