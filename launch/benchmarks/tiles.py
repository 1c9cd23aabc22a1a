"""What a training step costs against the number of tiles: D, X and H, one to six tiles, with a chart.

python -m launch.benchmarks.tiles --config=configs/nvlm.py:arch=d,size=tiny,stage=sft [--sample_text=128]
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from absl import flags

from configs.nvlm import get_config
from launch.benchmarks.output import run
from launch.benchmarks.step import measure
from launch.config_flag import define_config
from nvlm_jax.config import RunConfig, from_mapping


def sweep_tiles(config: RunConfig, steps: int, text: int, most: int, archs: str = "dxh") -> list[dict[str, Any]]:
    """Cost of a sample against 1 .. `most` tiles (from 2 on with a thumbnail) for each architecture, of one size."""
    _, _, size, stage = config.name.split("-")
    points = []
    for arch in archs:
        named = from_mapping(RunConfig, get_config(f"arch={arch},size={size},stage={stage}").to_dict())
        for count in range(1, most + 1):
            tiles = count + (count > 1)
            shown = {"d": tiles, "x": 0, "h": 1}[arch]
            tags = 1 if arch == "h" else tiles
            places = -(-(text + tags + shown * named.model.tokens_per_tile) // 16) * 16
            data = dataclasses.replace(named.data, blend=(), tokens_per_row=places, tiles_per_row=tiles)
            train = dataclasses.replace(named.train, batch_rows=8 * jax.device_count(), accumulation=1)
            run = dataclasses.replace(named, data=data, train=train, mesh=config.mesh)
            found = measure(run, steps, text, tiles)
            points.append(
                {
                    "arch": arch,
                    "tiles": count,
                    "seconds_per_sample": found["step_seconds"] / train.batch_rows,
                    "vision_flops": found["flops_by_module"]["vision"] / train.batch_rows,
                    "flops": sum(found["flops_by_module"].values()) / train.batch_rows,
                }
            )
            print(
                f"NVLM-{arch.upper()}, {count} tiles: {points[-1]['seconds_per_sample'] * 1000:.2f} ms a sample",
                flush=True,
            )
    return points


def draw_sweep(points: list[dict[str, Any]], path: Path) -> None:
    """Time of a sample against tiles, with the growth of the vision FLOPs alone as dashes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for arch in dict.fromkeys(point["arch"] for point in points):
        own = [point for point in points if point["arch"] == arch]
        times = [1000 * point["seconds_per_sample"] for point in own]
        [line] = axes.plot([point["tiles"] for point in own], times, marker="o", label=f"NVLM-{arch.upper()}")
        growth = [times[0] * point["vision_flops"] / own[0]["vision_flops"] for point in own]
        axes.plot([point["tiles"] for point in own], growth, "--", color=line.get_color(), alpha=0.5)
    axes.set(xlabel="tiles of an image (and its thumbnail from 2 on)", ylabel="ms a sample, a training step")
    axes.legend(title="dashes: as the vision FLOPs grow")
    axes.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    CONFIG = define_config("the run whose size, stage and mesh are measured")
    STEPS = flags.DEFINE_integer("steps", 10, "to time", lower_bound=1)
    TEXT = flags.DEFINE_integer("sample_text", 128, "text tokens of a sample", lower_bound=2)
    flags.mark_flag_as_required("config")

    def of_config(directory: Path) -> list[dict[str, Any]]:
        config = from_mapping(RunConfig, CONFIG.value.to_dict())
        points = sweep_tiles(config, STEPS.value, TEXT.value, config.inputs.max_tiles)
        draw_sweep(points, directory / "tiles.png")
        return points

    run("tiles", of_config, lambda points: "tiles.png and tiles.json are in --directory")
