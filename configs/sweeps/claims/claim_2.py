"""Claim 2: 1-D tile tags over none, NVLM-X with dynamic high resolution. `make claims CLAIM=2`."""

from __future__ import annotations

import ml_collections

from configs.sweeps.claims import common
from nvlm_jax.sweeps.claims import Claim, Comparison

SEEDS = common.SEEDS
MATCH = "samples"
EVALUATIONS = {"evaluation": common.evaluation()}
CLAIM = Claim(
    2,
    "1-D tile tags help NVLM-X",
    "With dynamic high resolution, text tags that each read their own tile in cross-attention raise scores over none.",
    (
        Comparison(
            "1-D tags over none, all questions", "none", "1d", paper="OCRBench 682 -> 744, DocVQA 75.4 -> 80.9 (X-34B)"
        ),
        Comparison("1-D tags over none, questions by place", "none", "1d", "accuracy.by_kind.place", needed=False),
        Comparison("1-D tags over none, questions by content", "none", "1d", "accuracy.by_kind.content", needed=False),
    ),
    "Equal samples for both. Questions by place name a tile by its number, questions by content name none; the paper's "
    "benchmarks have the latter alone.",
)


def get_config(argument: str = "arch=x,stage=sft") -> ml_collections.ConfigDict:
    return common.tiny(argument)


def sweep(add) -> None:
    for tags in ("none", "1d"):
        add("arch=x", {"inputs.tile_tags": tags}, label=tags)
