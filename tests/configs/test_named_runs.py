"""The named runs: all of them build, and the paper's values stand in them as its tables print them."""

import itertools

import pytest

from configs.nvlm import ARCHS, SIZES, STAGES, get_config
from nvlm_jax.config import ConfigError, RunConfig, from_mapping

PAPER = ("34b", "72b")


def named(arch, size, stage):
    return from_mapping(RunConfig, get_config(f"arch={arch},size={size},stage={stage}").to_dict())


@pytest.mark.parametrize(("arch", "size", "stage"), [*itertools.product(ARCHS, SIZES, ("pretrain", "sft"))])
def test_every_run_is_valid_and_trains_what_the_paper_trains(arch, size, stage):
    config = named(arch, size, stage)
    assert config.name == f"nvlm-{arch}-{size}-{stage}" and config.model.arch == arch
    bridge = {"projector"} if arch == "d" else {"projector", "cross_attention"}
    assert set(config.train.trainable) == (bridge if stage == "pretrain" else bridge | {"decoder"})


@pytest.mark.parametrize("stage", STAGES[2:])
def test_the_stages_that_make_the_tiny_backbones(stage):
    assert named("d", "tiny", stage).name == f"tiny-{stage}"
    with pytest.raises(ConfigError, match=f"stage={stage} exists with size=tiny only"):
        get_config(f"size=72b,stage={stage}")


# arch: learning rate, minimum, warm-up, betas, decay, clip. Tables 10 and 11, typed here once more.
TABLE_10 = {
    "d": (1e-4, 2.5e-5, 500, 0.9, 0.95, 0.1, 10.0),
    "x": (1e-4, 1e-5, 1000, 0.9, 0.95, 0.05, 1.0),
    "h": (1e-4, 1e-5, 1000, 0.9, 0.98, 0.05, 1.0),
}
TABLE_11 = {
    "d": (2e-6, 2.5e-7, 1000, 0.9, 0.98, 0.1, 10.0),
    "x": (1e-5, 1e-7, 500, 0.9, 0.98, 0.05, 1.0),
    "h": (1e-5, 1e-7, 1000, 0.9, 0.98, 0.05, 1.0),
}


@pytest.mark.parametrize(("arch", "size"), [*itertools.product(ARCHS, PAPER)])
def test_values_of_tables_10_and_11(arch, size):
    for stage, table in (("pretrain", TABLE_10), ("sft", TABLE_11)):
        expected = table[arch]
        if (arch, size, stage) == ("x", "34b", "sft"):
            expected = (expected[0], 1e-6, *expected[2:])
        o = named(arch, size, stage).optimizer
        found = (o.learning_rate, o.min_learning_rate, o.warmup_steps, o.beta1, o.beta2, o.weight_decay, o.clip_norm)
        assert found == expected
    pretrain, sft = named(arch, size, "pretrain"), named(arch, size, "sft")
    assert (pretrain.train.steps, sft.train.steps) == (20_000, {"d": 40_000, "x": 20_000, "h": 40_000}[arch])
    assert (pretrain.inputs.max_tiles, sft.inputs.max_tiles) == ({"d": 1, "x": 1, "h": 6}[arch], 6)
    assert (pretrain.inputs.template, sft.inputs.template) == ("plain", "chatml")
    assert sft.model.projector_width == {"34b": 20480, "72b": 29568}[size] * (arch != "x")
    cross = sft.model.cross_attention
    assert arch == "d" or (cross.gate_init, sft.model.decoder.layers // cross.every) == (0.0, 10)


@pytest.mark.parametrize("argument", ["arch=q", "size=7b", "stage=rlhf", "depth=3", "arch"])
def test_an_argument_that_names_no_run(argument):
    with pytest.raises(ConfigError, match=rf"configs/nvlm.py: '{argument}' is none of arch=d\|x\|h, size=tiny\|1b"):
        get_config(argument)
