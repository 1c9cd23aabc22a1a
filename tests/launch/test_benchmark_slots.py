"""The rates of random weights: the whole measurement at size tiny, and the bytes of a step counted by hand."""

import dataclasses

import numpy as np
import pytest

from configs.nvlm import get_config
from launch import benchmark_slots
from nvlm_jax.config import RunConfig, from_mapping
from tests.tiny import make_model, make_model_config, make_run_config


def test_a_model_of_random_weights_is_measured():
    config = from_mapping(RunConfig, get_config("arch=d,size=tiny,stage=sft").to_dict())
    found = benchmark_slots.measure(config, [2, 1], prompt=48, new=40, seconds=600)
    assert found["reading"]["prompts"] == 2 and found["reading"]["tokens_per_second"] > 0
    assert [row["slots"] for row in found["choosing"]] == [2, 1]
    for row in found["choosing"]:
        assert row["tokens_per_second"] * row["step_ms"] / 1000 == pytest.approx(row["slots"])
    text = benchmark_slots.report(found)
    assert "no published figure for this device" in text and "| 2 | " in text
    late = benchmark_slots.measure(config, [2, 1], prompt=48, new=40, seconds=0.0)
    assert late["choosing"] == []


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


def test_no_answer_of_random_weights_ends():
    for tied in (False, True):
        config = make_model_config("d")
        config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, tied_embeddings=tied))
        model = benchmark_slots.random_model(config)
        hidden = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
        assert benchmark_slots.END not in np.asarray(model.logits(hidden)).argmax(axis=-1)
