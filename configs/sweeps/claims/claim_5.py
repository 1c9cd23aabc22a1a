"""Claim 5: the LLM unfrozen in fine-tuning against frozen, NVLM-X. `make claims CLAIM=5`."""

from __future__ import annotations

import ml_collections

from configs import nvlm
from configs.sweeps.claims import common
from nvlm_jax.sweeps.claims import Claim, Comparison

SEEDS = common.SEEDS
BEFORE = "evaluations.before.accuracy.text"
EVALUATIONS = {
    "evaluation": common.evaluation(),
    "before": common.evaluation("text-test", stage="pretrain"),
}
CLAIM = Claim(
    5,
    "An unfrozen LLM beats a frozen one, which keeps text exactly",
    "Training the LLM in fine-tuning raises vision scores of NVLM-X; frozen, its text scores are the backbone's own.",
    (
        Comparison(
            "unfrozen over frozen", "frozen", "unfrozen", paper="OCRBench 722 -> 828, MMMU 54.4 -> 57.4 (X-72B)"
        ),
        Comparison("frozen: text after against before", "frozen", "frozen", "accuracy.text", BEFORE, "equal"),
        Comparison(
            "unfrozen: text after against before",
            "unfrozen",
            "unfrozen",
            "accuracy.text",
            BEFORE,
            "kept",
            0.02,
            needed=False,
        ),
    ),
    "Both fine-tune the same pretrained X. Text before is measured after pretraining, in which the LLM is frozen.",
)


def get_config(argument: str = "arch=x,stage=sft") -> ml_collections.ConfigDict:
    return common.tiny(argument)


def sweep(add) -> None:
    add("arch=x", {"sft.train.trainable": nvlm.PRETRAIN_PARTS["x"]}, label="frozen")
    add("arch=x", {"sft.train.trainable": nvlm.SFT_PARTS["x"]}, label="unfrozen")
