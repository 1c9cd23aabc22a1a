"""What turning an encoded image into tiles costs a core, against the usual transform, in turns within one run.

    python -m launch.benchmarks.data [--repeats=20]


    usual     Pillow: decode, resize, crop each tile; then as torchvision's ToTensor and Normalize do it: each tile to
              float32, channels first, divided by 255, less the mean, by the deviation; all stacked
    ours      the same pixels, as uint8 (`nvlm_jax/inputs/tiling.py`); the device normalises
    opencv    `inputs.resize=opencv`: quicker, some levels off

Times are of the process's CPU: other work on the machine counts less in them than in the clock's.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from PIL import Image
from sklearn.datasets import load_sample_images

from configs.nvlm import ROW_BUDGETS, TINY_ASSETS, get_config
from data_pipelines.generated.samples import generate
from launch.benchmarks.output import run
from launch.benchmarks.packing import make_mix
from nvlm_jax.config import RunConfig, from_mapping
from nvlm_jax.inputs import fast_resize
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message, Sample
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.inputs.tiling import choose_grid, cut_tiles, open_image

MEAN = np.array((0.485, 0.456, 0.406), np.float32)[:, None, None]
STD = np.array((0.229, 0.224, 0.225), np.float32)[:, None, None]
TILE = 448
# The feed of a pod: v5p-128 is 64 chips of 459 TFLOP/s in bfloat16, here 40 % of it used.
CHIPS, PEAK, USED = 64, 459e12, 0.4
DECODER, VISION = 72.7e9, 5.54e9  # parameters; the encoder is frozen, so it goes forward only
PATCHES = 1025  # of a tile, with the class token


def usual(data: bytes) -> np.ndarray:
    """float32 [T, 3, 448, 448]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    cols, rows = choose_grid(*image.size)
    resized = image.resize((cols * TILE, rows * TILE), Image.Resampling.BICUBIC)
    corners = [(x * TILE, y * TILE) for y in range(rows) for x in range(cols)]
    tiles = [resized.crop((x, y, x + TILE, y + TILE)) for x, y in corners]
    if len(tiles) > 1:
        tiles.append(image.resize((TILE, TILE), Image.Resampling.BICUBIC))
    floats = [np.ascontiguousarray(np.asarray(tile).transpose(2, 0, 1)).astype(np.float32) / 255 for tile in tiles]
    return np.stack([(tile - MEAN) / STD for tile in floats])


def ours(data: bytes, resize: str = "pillow") -> np.ndarray:
    """uint8 [T, 448, 448, 3]."""
    image = open_image(data)
    return cut_tiles(image, choose_grid(*image.size), TILE, resize=resize)


def pictures() -> dict[str, bytes]:
    """JPEG files: two photographs at 500 x 375, and one at the size of a scanned page."""
    photographs = [Image.fromarray(array) for array in load_sample_images().images]
    found = {}
    for number, image in enumerate(photographs):
        found[f"photograph {number + 1}, 500 x 375"] = _jpeg(image.resize((500, 375), Image.Resampling.LANCZOS))
    found["page, 1700 x 2200"] = _jpeg(photographs[0].resize((1700, 2200), Image.Resampling.LANCZOS))
    return found


def measure(repeats: int) -> dict[str, Any]:
    """Each picture through each way, in turns, `repeats` times after one that does not count."""
    ways: dict[str, Callable[[bytes], np.ndarray]] = {"usual": usual, "ours": ours}
    if importlib.util.find_spec("cv2"):
        fast_resize.require()
        ways["opencv"] = functools.partial(ours, resize="opencv")
    rows = []
    for name, data in pictures().items():
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(repeats + 1):
            for way, make in ways.items():
                begin = time.process_time()
                count = len(make(data))  # each frees its own tiles, not those of the way before
                if turn:
                    seconds[way].append(time.process_time() - begin)
        row = {"picture": name, "bytes": len(data), "tiles": count, "seconds": seconds, "equal": same_pixels(data)}
        rows.append(row | ({"off": levels_off(data)} if "opencv" in ways else {}))
    return {"pictures": rows, "sample": whole_sample(repeats), "pod": pod()}


def same_pixels(data: bytes) -> bool:
    """Whether ours, normalised, are the usual transform's very numbers."""
    floats = ours(data).transpose(0, 3, 1, 2).astype(np.float32) / 255
    return bool(np.array_equal((floats - MEAN) / STD, usual(data)))


def levels_off(data: bytes) -> dict[str, float]:
    """How far `opencv` is from the rule, in levels of 255."""
    off = np.abs(ours(data).astype(np.int16) - ours(data, "opencv"))
    within = {f"within {n}": float((off <= n).mean()) for n in (1, 3)}
    return {"most": int(off.max()), "mean": float(off.mean())} | within


def whole_sample(repeats: int) -> dict[str, float]:
    """A photograph with a generated conversation to an example of D at 448 pixels, by the tiny tokenizer."""
    config = from_mapping(RunConfig, get_config("arch=d,size=72b,stage=sft").to_dict())
    builder = ExampleBuilder(dataclasses.replace(config.inputs, tokenizer=TINY_ASSETS), config.model)
    first, *others = generate("text", "train", 0, 0).messages
    messages = (Message("user", f"{IMAGE_PLACEHOLDER}\n{first.content}"), *others)
    sample, seconds = Sample("s", messages, (next(iter(pictures().values())),)), []
    for _ in range(repeats):
        begin = time.process_time()
        example = builder.build(sample)
        seconds.append(time.process_time() - begin)
    return {"seconds": statistics.median(seconds), "tokens": len(example.tokens), "tiles": len(example.tiles)}


def pod() -> dict[str, float]:
    """Rows, tiles and samples a second that D-72B's fine-tuning on a v5p-128 takes."""
    tokens, tiles = ROW_BUDGETS["d"]
    row = 6 * DECODER * tokens + 2 * VISION * PATCHES * tiles
    rows = CHIPS * PEAK * USED / row
    lengths, _ = make_mix(20_000, "d")
    return {"rows": rows, "tiles": rows * tiles, "samples": rows * tokens / float(lengths.mean())}


def report(found: Mapping[str, Any]) -> str:
    """The measurements as text, a line each."""
    lines = []
    for each in found["pictures"]:
        lines.append(f"{each['picture']}: {each['bytes'] / 1024:.0f} KiB, {each['tiles']} tiles")
        for way, seconds in each["seconds"].items():
            median = statistics.median(seconds)
            rate = f"{each['tiles'] / median:.0f} tiles/s, {each['bytes'] / 2**20 / median:.1f} MiB/s a core"
            lines.append(
                f"  {way}: {1000 * median:.1f} ms, {rate}; {_ratio(each['seconds']['usual'], seconds)} as fast"
            )
        lines.append(f"  ours has the usual pixels: {each['equal']}")
        if "off" in each:
            off = ", ".join(f"{name} {value:.4g}" for name, value in each["off"].items())
            lines.append(f"  opencv is off by levels: {off}")
    sample, pod = found["sample"], found["pod"]
    lines.append(
        f"a whole sample ({sample['tokens']:,} tokens, {sample['tiles']} tiles): "
        f"{1000 * sample['seconds']:.1f} ms, {1 / sample['seconds']:.0f} samples/s a core"
    )
    cores = pod["samples"] * sample["seconds"]
    lines.append(
        f"D-72B fine-tuning on a v5p-128 at {USED:.0%} of its peak takes {pod['rows']:.1f} rows, {pod['samples']:.0f} "
        f"samples and {pod['tiles']:.0f} tiles a second: {cores:.1f} cores of this machine for all its hosts together"
    )
    return "\n".join(lines)


def _ratio(usual: Sequence[float], other: Sequence[float]) -> str:
    """Median, least and most of the ratios of turns."""
    ratios = sorted(a / b for a, b in zip(usual, other, strict=True))
    return f"{statistics.median(ratios):.1f} times ({ratios[0]:.1f} to {ratios[-1]:.1f})"


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


if __name__ == "__main__":
    REPEATS = flags.DEFINE_integer("repeats", 3, "times each way is taken", lower_bound=1)
    run("data", lambda directory: measure(REPEATS.value), report)
