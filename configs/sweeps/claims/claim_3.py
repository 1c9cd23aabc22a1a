"""Claim 3: dynamic high resolution over one tile of the whole page, NVLM-D. `make claims CLAIM=3`."""

from __future__ import annotations

import ml_collections

from configs.sweeps.claims import common
from nvlm_jax.sweeps.claims import Claim, Comparison

SEEDS = common.SEEDS
MATCH = "samples"
EVALUATIONS = {"evaluation": common.evaluation()}
READING, COUNTING = "accuracy.by_type.word", "accuracy.by_type.count"
CLAIM = Claim(
    3,
    "Dynamic high resolution helps, most where there is text to read",
    "Up to six tiles and a thumbnail raise scores over one tile of the whole image, most on OCR-like questions.",
    (
        Comparison("six tiles over one", "low", "dhr", paper="OCRBench 622 -> 806, DocVQA 52.9 -> 87.4 (D-34B)"),
        Comparison(
            "its gain on words over its gain on counts",
            "low",
            "dhr",
            f"{READING} - {COUNTING}",
            paper="OCRBench +30 %, MMMU +2 % (D-34B)",
        ),
        Comparison("words", "low", "dhr", READING, needed=False),
        Comparison("counts", "low", "dhr", COUNTING, needed=False),
    ),
    "Both begin from the same pretraining, on pages of one tile. On a page of several tiles the glyphs of the single "
    "tile are a fraction of what the encoder was taught to read.",
)


def get_config(argument: str = "arch=d,stage=sft") -> ml_collections.ConfigDict:
    return common.tiny(argument)


def sweep(add) -> None:
    add("arch=d", {"sft.inputs.max_tiles": 1}, label="low")
    add("arch=d", {"sft.inputs.max_tiles": 6}, label="dhr")
