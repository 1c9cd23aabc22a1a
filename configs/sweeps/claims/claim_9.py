"""Claim 9, not of the paper: D, X and H at equal training FLOPs. `make claims CLAIM=9`."""

from __future__ import annotations

import ml_collections

from configs.sweeps.claims import common
from nvlm_jax.sweeps.claims import Claim, Comparison

SEEDS = common.SEEDS
MATCH = "flops"
EVALUATIONS = {"evaluation": common.evaluation()}
CONTENT, PLACE = "accuracy.by_kind.content", "accuracy.by_kind.place"
CLAIM = Claim(
    9,
    "Not of the paper: at equal FLOPs H beats X",
    "Given as many training FLOPs as D, H's thumbnail in the decoder lets it beat X, by content more than by place.",
    (
        Comparison("H over X", "x", "h"),
        Comparison("its gain by content over its gain by place", "x", "h", f"{CONTENT} - {PLACE}", needed=False),
        Comparison("H over D", "d", "h", needed=False),
        Comparison("X over D", "d", "x", needed=False),
    ),
    "The paper compares the three at equal data. Where H's mix wins is what this asks; either answer is one.",
)


def get_config(argument: str = "arch=d,stage=sft") -> ml_collections.ConfigDict:
    return common.tiny(argument)


def sweep(add) -> None:
    for arch in ("d", "x", "h"):
        add(f"arch={arch}", label=arch)
