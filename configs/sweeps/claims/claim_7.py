"""Claim 7: a Perceiver resampler in the cross-attention hurts dense OCR, NVLM-X. `make claims CLAIM=7`."""

from __future__ import annotations

import ml_collections

from configs import nvlm
from configs.sweeps.claims import common
from nvlm_jax.sweeps.claims import Claim, Comparison

STAGES = ("pretrain",)
SEEDS = common.SEEDS
EVALUATIONS: dict[str, dict] = {}
METRIC = "-loss"
CLAIM = Claim(
    7,
    "A Perceiver resampler hurts dense OCR",
    "NVLM-X overfits a set of text-rich pages, read out whole; with a Perceiver resampler in front of its "
    "cross-attention its loss stays higher.",
    (
        Comparison("final loss without over with", "perceiver", "none", METRIC, margin=0.05, floor=0.01,
                   paper="30K OCR pages: loss near 0.4 with it, to 0 without"),
    ),
    "64 pages of 5 or 6 tiles, each tile read out; 4 latents for a tile's 16 image tokens, 2 layers, tile by tile. The "
    "effect is of minus the loss: above 0 means a lower loss without the resampler.",
)  # fmt: skip


def get_config(argument: str = "arch=x,stage=pretrain") -> ml_collections.ConfigDict:
    config = common.tiny(argument)
    config.data.blend = common.blend([("read-pages", 1.0)])
    config.data.tokens_per_row, config.data.tiles_per_row = 320, 7
    config.train.steps, config.train.batch_rows = 600, 8
    config.train.trainable = nvlm.SFT_PARTS["x"]  # to overfit, the LLM trains as well
    config.optimizer.learning_rate = 2e-3
    return config


def sweep(add) -> None:
    for label, latents in (("perceiver", 4), ("none", 0)):
        add("arch=x", {"model.cross_attention.resampler_latents": latents}, label=label)
