"""Arch x tile tags, two by two, a few steps each: shows what a sweep is and that it works; nothing is learned.

python -m launch.sweep --config=configs/sweeps/smoke.py --workdir=runs/smoke
python -m launch.report --sweep=runs/smoke --out=runs/smoke/report.html
"""

from __future__ import annotations

import itertools

import ml_collections

from configs import nvlm

STAGES = ("pretrain",)
SEEDS = (0,)
EVALUATIONS = {"evaluation": {"embedded": ("qa-number-test", "text-test"), "limit": 2, "views": ("vision",)}}


def get_config(argument: str = "arch=d,stage=pretrain") -> ml_collections.ConfigDict:
    """The tiny run of an architecture, shortened, on pages of up to six tiles."""
    config = nvlm.get_config(f"{argument},size=tiny")
    config.data.blend = [{"name": "smoke", "path": f"{nvlm.TINY_DATA}/smoke", "weight": 1.0}]
    config.data.tokens_per_row, config.data.tiles_per_row = 384, 7
    config.train.steps, config.train.batch_rows, config.optimizer.warmup_steps = 12, 4, 3
    return config


def sweep(add) -> None:
    for arch, tags in itertools.product(("d", "x"), ("1d", "none")):
        add(f"arch={arch}", {"inputs.tile_tags": tags})
