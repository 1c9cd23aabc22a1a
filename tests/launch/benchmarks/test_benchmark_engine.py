"""The rates of random weights: the whole measurement of a small model, and the bytes of a step counted by hand."""

import numpy as np
import pytest

from launch.benchmarks import engine as benchmark_slots
from nvlm_jax.planning.chips import CHIPS
from tests.tiny import make_model, make_model_config, make_run_config


def test_a_model_of_random_weights_is_measured():
    config = make_run_config("d")
    found = benchmark_slots.measure(config, [2], prompt=24, new=40, seconds=600)
    assert found["reading"]["prompts"] == 2 and found["reading"]["tokens_per_second"] > 0
    [row] = found["choosing"]
    assert row["slots"] == 2 and row["tokens_per_second"] * row["step_ms"] / 1000 == pytest.approx(2)
    assert "no published figure for this device" in benchmark_slots.report(found)
    # As fast as the memory allows, on a device that is known: all of the bandwidth.
    chip = CHIPS["v5e"]._replace(hbm_bandwidth=1e9 * row["step_gb"] / (row["step_ms"] / 1000))
    found["choosing"] = [benchmark_slots.with_bound(row, chip)]
    assert found["choosing"][0]["bandwidth_share"] == pytest.approx(1)
    assert "| 100.0% |" in benchmark_slots.report(found)


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_a_step_reads_the_decoder_and_what_is_kept_of_each_row(arch):
    config = make_model_config(arch)
    model, decoder = make_model(config), config.decoder
    attention = 32 * (32 + 2 * 16 + 32) + 32 + 2 * 16
    weights = 2 * (attention + 3 * 32 * 48 + 2 * 32) + 32 * decoder.vocab_size
    cache = 3 * 10 * 2 * 2 * 16
    if arch != "d":
        weights += 2 * (32 * 32 * 2 + 3 * 32 * 48 + 2 * 32 + 2)
        cache += 3 * {"x": 2 * 4, "h": 1 * 5}[arch] * 2 * 2 * 16
    assert benchmark_slots.bytes_of_step(model, 3, 10) == 4 * (weights + cache)


def test_prompts_have_the_length_that_was_asked_for():
    for arch in "dxh":
        example = benchmark_slots.make_prompt(make_run_config(arch), 30, np.random.default_rng(0))
        assert len(example.tokens) == 30 and len(example.tiles) == benchmark_slots.TILES
