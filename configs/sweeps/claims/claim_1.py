"""Claim 1: 1-D tile tags over none, NVLM-D with dynamic high resolution. `make claims CLAIM=1`."""

from __future__ import annotations

import ml_collections

from configs.sweeps.claims import common
from nvlm_jax.sweeps.claims import Claim, Comparison

SEEDS = common.SEEDS
MATCH = "samples"
EVALUATIONS = {"evaluation": common.evaluation()}
CLAIM = Claim(
    1,
    "1-D tile tags help NVLM-D",
    "With dynamic high resolution, text tags before each tile raise scores over no tags at all.",
    (
        Comparison(
            "1-D tags over none, all questions", "none", "1d", paper="OCRBench 728 -> 806, DocVQA 80.2 -> 87.4 (D-34B)"
        ),
        Comparison("1-D tags over none, questions by place", "none", "1d", "accuracy.by_kind.place", needed=False),
        Comparison("1-D tags over none, questions by content", "none", "1d", "accuracy.by_kind.content", needed=False),
    ),
    "Equal samples for both. Questions by place name a tile by its number, questions by content name none; the paper's "
    "benchmarks have the latter alone.",
)


def get_config(argument: str = "arch=d,stage=sft") -> ml_collections.ConfigDict:
    return common.tiny(argument)


def sweep(add) -> None:
    for tags in ("none", "1d"):
        add("arch=d", {"inputs.tile_tags": tags}, label=tags)
