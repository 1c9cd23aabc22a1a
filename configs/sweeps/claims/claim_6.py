"""Claim 6: how much text-only data in fine-tuning keeps text skill, NVLM-D. `make claims CLAIM=6`."""

from __future__ import annotations

import ml_collections

from configs.sweeps.claims import common
from nvlm_jax.sweeps.claims import Claim, Comparison

SEEDS = common.SEEDS
METRIC = "accuracy.text"
BEFORE = "evaluations.before.accuracy.text"
EVALUATIONS = {
    "evaluation": common.evaluation(),
    "before": common.evaluation("text-test", stage="pretrain"),
}
SHARES = (0.0, 0.02, 0.05, 0.15, 0.3)
ENOUGH = 0.15  # of the quickstart's blend


def label(share: float) -> str:
    """`text-15` for a share of 0.15 of the samples."""
    return f"text-{round(100 * share)}"


def kept(share: float) -> Comparison:
    """Text scores after fine-tuning against those before."""
    name, needed = label(share), share == ENOUGH
    return Comparison(
        f"{share:.0%} text: after against before", name, name, METRIC, BEFORE, "kept", 0.02, needed=needed
    )


def vision(share: float) -> Comparison:
    """What the text costs in vision scores."""
    return Comparison(f"vision, {share:.0%} text over none", label(0.0), label(share), needed=False)


CLAIM = Claim(
    6,
    "Text-only data in fine-tuning keeps text skill",
    "Mixed in, text-only data keeps the backbone's text scores; without it they fall.",
    (
        Comparison(
            "15 % text over none", label(0.0), label(ENOUGH), METRIC, paper="MMLU, GSM8K, MATH, HumanEval: +4.3 (D-72B)"
        ),
        *map(kept, SHARES),
        *map(vision, SHARES[1:]),
    ),
    "A curve over five shares of the samples; all begin from the same pretraining. Text before is measured after it.",
)


def get_config(argument: str = "arch=d,stage=sft") -> ml_collections.ConfigDict:
    return common.tiny(argument)


def sweep(add) -> None:
    for share in SHARES:
        changes = {"sft.data.blend": common.blend([("qa-number", 1 - share), ("text", share)])}
        add("arch=d", changes, label=label(share), base=share == 0)
