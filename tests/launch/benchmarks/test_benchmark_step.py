"""Synthetic rows are batches as the model takes them, and the work counted in them is that of the closed form."""

import dataclasses

import numpy as np
import pytest

from launch.benchmarks.step import batch_work
from nvlm_jax.models.flops import sample_work, scaled
from nvlm_jax.planning.synthetic import synthetic_batch
from tests.tiny import make_run_config


@pytest.mark.parametrize("arch", ["d", "x", "h"])
@pytest.mark.parametrize("tiles", [0, 1, 3])
def test_rows_hold_what_they_should(arch, tiles):
    config = make_run_config(arch)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, tokens_per_row=48, tiles_per_row=6))
    batch, samples = synthetic_batch(config, text=8, tiles=tiles)
    one = sample_work(config.model, text=8, tiles=tiles, tag_tokens=1)._replace(trained=4)
    assert samples == 8 * min(48 // int(one.tokens), 6 // tiles if tiles else 99)
    assert (batch.segment_ids > 0).sum() == samples * one.tokens
    assert (batch.tile_segment_ids > 0).sum() == samples * tiles
    assert (batch.loss_weights > 0).sum() == samples * one.trained
    found = batch_work(config, batch)
    if tiles and arch != "d":
        # The closed form lets an H sample's thumbnail tag see the tiles as a text token does; so does the mask.
        assert found.cross_pairs == pytest.approx(scaled(one, samples).cross_pairs, rel=0.1)
        found, one = found._replace(cross_pairs=0, cross_tokens=0), one._replace(cross_pairs=0, cross_tokens=0)
    np.testing.assert_allclose(found, scaled(one, samples))


def test_a_sample_longer_than_a_row():
    with pytest.raises(ValueError, match="does not fit a row of 32"):
        synthetic_batch(make_run_config("d"), text=100, tiles=0)
