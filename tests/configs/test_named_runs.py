"""The named runs: all of them build, and the paper's values stand in them as its tables print them."""

import itertools

import numpy as np
import pytest

from configs.nvlm import ARCHS, SIZES, STAGES, get_config
from data_pipelines.blend import Blend
from data_pipelines.estimates import decoder_tokens
from data_pipelines.plan import Budgets, packed_windows
from launch.benchmarks.packing import make_mix
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


# arch, size: the paper's batches in pretraining and fine-tuning (tables 10 and 11).
BATCHES = {("d", "34b"): (2048, 128), ("d", "72b"): (2048, 128), ("x", "34b"): (2048, 512), ("x", "72b"): (2048, 256),
           ("h", "34b"): (2048, 256), ("h", "72b"): (2048, 256)}  # fmt: skip


def captions(arch, count):
    """Pretraining samples: an image and a caption of 30 tokens in the middle, without a chat template."""
    rng = np.random.default_rng(0)
    text = np.clip(np.exp(rng.normal(np.log(30), 0.7, count)).astype(np.int32), 2, 400)
    tiles = np.ones(count, np.int32)
    if arch == "h":
        cut = make_mix(count, "h")[1]
        tiles = rng.choice(np.minimum(cut[cut > 0], 7), count).astype(np.int32)
    return (decoder_tokens(text, np.ones(count, np.int32), tiles, arch) - 20).astype(np.int32), tiles


@pytest.mark.parametrize(("arch", "size"), BATCHES)
def test_a_step_has_as_many_samples_as_the_papers(arch, size):
    for stage, batch in zip(("pretrain", "sft"), BATCHES[arch, size], strict=True):
        config, lengths = named(arch, size, stage), make_mix(16000, arch) if stage == "sft" else captions(arch, 16000)
        budgets = Budgets(config.data.tokens_per_row, config.data.tiles_per_row, config.data.pack_window)
        windows = [w.lengths for w in packed_windows(Blend(["mix"], [16000], [1.0], 0), [lengths], budgets, 16000)]
        a_row = sum(w.sum() for w in windows) / sum(map(len, windows))
        assert a_row * config.train.batch_rows == pytest.approx(batch, rel=0.03)


@pytest.mark.parametrize(("arch", "size"), [*itertools.product(ARCHS, ("1b", *PAPER))])
def test_what_is_not_of_the_paper_is_off(arch, size):
    for stage in ("pretrain", "sft"):
        inputs = named(arch, size, stage).inputs
        assert not inputs.question_tags and not inputs.question_focus


@pytest.mark.parametrize("argument", ["arch=q", "size=7b", "stage=rlhf", "depth=3", "arch"])
def test_an_argument_that_names_no_run(argument):
    with pytest.raises(ConfigError, match=rf"configs/nvlm.py: '{argument}' is none of arch=d\|x\|h, size=tiny\|1b"):
        get_config(argument)
