"""Claim 4: what training costs, NVLM-X, H and D by the number of tiles. `make claims CLAIM=4`."""

from __future__ import annotations

import ml_collections

from configs.sweeps.claims import common
from nvlm_jax.assets import shipped
from nvlm_jax.sweeps.claims import Claim, Comparison

STAGES = ("sft",)
SEEDS = common.SEEDS
EVALUATIONS: dict[str, dict] = {}
METRIC = "samples_per_second"
TILES = (1, 2, 4, 6)
TEXT = 80  # tokens of a row beside the image's
TAG = 8  # tokens of a tile's tag, at most, with the thumbnail's
PER_TILE = 16  # image tokens


def speed(label: str, base: str, other: str, needed: bool = True, paper: str = "") -> Comparison:
    """Samples a second of one over another, as a ratio."""
    return Comparison(label, base, other, METRIC, ratio=True, margin=0.02, needed=needed, paper=paper)


CLAIM = Claim(
    4,
    "NVLM-X trains fastest, then H, then D",
    "At 6 + 1 tiles X handles more samples a second than H, and H more than D.",
    (
        speed("X over H at 6 + 1 tiles", "h-6", "x-6", paper="50.6 against 36.2 samples/s: x 1.40 (34B, 128 H100)"),
        speed("H over D at 6 + 1 tiles", "d-6", "h-6", paper="36.2 against 28.8 samples/s: x 1.26"),
        *(speed(f"X over D at {n} tile{'s' * (n > 1)}", f"d-{n}", f"x-{n}", needed=False) for n in TILES),
        *(speed(f"H over D at {n} tile{'s' * (n > 1)}", f"d-{n}", f"h-{n}", needed=False) for n in TILES[:-1]),
    ),
    "One page a row, rows as long as the architecture needs, 8 rows a step; a seed is a run of its own, its interval "
    "the machine's noise. At size tiny a tile has 16 image tokens and not 256, X's and H's gated layers are as "
    "many as the decoder's and not a sixth: the paper's order need not hold. Fewer tiles show how the ratios grow.",
)


def get_config(argument: str = "arch=d,stage=sft") -> ml_collections.ConfigDict:
    config = common.tiny(argument)
    config.init = {"vision": shipped("tiny"), "llm": shipped("tiny"), "projector": "",
                   "cross_attention": "", "checkpoint": ""}  # fmt: skip
    config.train.steps, config.train.batch_rows = 40, 8
    config.optimizer.warmup_steps = 10
    return config


def sweep(add) -> None:
    for tiles in TILES:
        whole = tiles + (tiles > 1)  # with the thumbnail
        tokens = {"d": whole * (TAG + PER_TILE), "x": whole * TAG, "h": TAG + PER_TILE}
        for arch in ("d", "x", "h"):
            changes = {
                "data.blend": common.blend([(f"tiles-{tiles}", 1.0)]),
                "data.tokens_per_row": TEXT + tokens[arch],
                "data.tiles_per_row": whole,
            }
            add(f"arch={arch}", changes, label=f"{arch}-{tiles}")
