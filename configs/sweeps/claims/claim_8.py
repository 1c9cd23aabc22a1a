"""Claim 8: 2-D grid and box tags against 1-D, and pages with more tiles than trained, NVLM-D. `make claims CLAIM=8`."""

from __future__ import annotations

import ml_collections

from configs.sweeps.claims import common
from nvlm_jax.sweeps.claims import Claim, Comparison

SEEDS = common.SEEDS
MATCH = "samples"
EVALUATIONS = {
    "evaluation": common.evaluation("qa-number-few-test"),
    "more-tiles": common.evaluation("qa-number-more-test"),
}
MORE = "evaluations.more-tiles.accuracy.vision"
CLAIM = Claim(
    8,
    "1-D tags beat 2-D grid and box tags",
    "1-D tags beat grid and box tags; and the same on pages with more tiles than any in training.",
    (
        Comparison("1-D over 2-D grid", "grid", "1d", paper="OCRBench 787 -> 806, MathVista 52.8 -> 53.8 (D-34B)"),
        Comparison("1-D over 2-D box", "box", "1d", paper="OCRBench 791 -> 806, MathVista 50.6 -> 53.8 (D-34B)"),
        Comparison("more tiles: 1-D over 2-D grid", "grid", "1d", MORE, needed=False),
        Comparison("more tiles: 1-D over 2-D box", "box", "1d", MORE, needed=False),
    ),
    "Trained on pages of up to 3 tiles, asked about pages of up to 3 and, apart, of 5 and 6. Equal samples for all.",
)


def get_config(argument: str = "arch=d,stage=sft") -> ml_collections.ConfigDict:
    config = common.tiny(argument)
    if argument.endswith("sft"):
        config.data.blend = common.blend([("qa-number-few", 0.85), ("text", 0.15)])
    return config


def sweep(add) -> None:
    for tags in ("1d", "grid", "box"):
        add("arch=d", {"inputs.tile_tags": tags}, label=tags)
