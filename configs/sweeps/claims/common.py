"""What the claims' sweeps share: the tiny runs of configs/nvlm.py on pages whose questions call a tile by its number.

With the quickstart's data a question names a tile by its 1-D tag, which would favour that format. "tile 4" favours
none.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_collections

from configs import nvlm

SEEDS = (0, 1, 2, 3, 4)
PAGES = 50  # held-out pages, of 8 questions each, and as many text-only samples
NUMBERED = {"caption-1": "caption-number-1", "qa-1": "qa-number-1", "qa-2": "qa-number-2", "qa": "qa-number"}


def tiny(argument: str) -> ml_collections.ConfigDict:
    """The tiny run that `argument` names, on numbered pages."""
    config = nvlm.get_config(f"{argument},size=tiny")
    config.data.blend = blend([(NUMBERED.get(d["name"], d["name"]), d["weight"]) for d in config.data.blend])
    return config


def blend(shares: Sequence[tuple[str, float]]) -> list[dict[str, object]]:
    """Datasets and their weights as a config has them."""
    return [{"name": name, "path": f"{nvlm.TINY_DATA}/{name}", "weight": weight} for name, weight in shares]


def evaluation(*datasets: str, pages: int = PAGES, **flags: object) -> dict[str, object]:
    """Flags of launch.evaluate: these held-out datasets, as the model was trained to see them."""
    return {"embedded": datasets or ("qa-number-test", "text-test"), "limit": pages, "views": ("vision",), **flags}
