"""What packing loses and costs: padding of both budgets, seconds, memory, and whether any length comes early.

    python -m launch.benchmarks.packing --arch=d --rows=10000000 [--index=FILE.parquet]

An epoch over an index is planned as a run would plan it: a permutation, windows packed one by one, the plan written to
disk. Without an index it is a mix like the paper's fine-tuning data: made here, sizes of images by kind of dataset cut
by the true tiling rule, and lengths of text by kind.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from data_pipelines.blend import Blend
from data_pipelines.budgets import draw, suggest
from data_pipelines.estimates import decoder_tokens, read_lengths
from data_pipelines.plan import Lengths, Plan, Window, packed_windows, too_large, write_plan
from launch.benchmarks.output import run
from nvlm_jax.config import DataConfig
from nvlm_jax.inputs.tiling import choose_grid, tile_count

MIB = 1 << 20
TOKENS = {"d": 8192, "x": 2048, "h": 4096}  # of a row, about: the budgets are those that are suggested near them
LONGEST = 1000  # text tokens of a sample: the paper cuts them at 1,024 with the template
SIZES = 2000  # different image sizes of each kind


class Kind(NamedTuple):
    """Samples of one kind of dataset."""

    share: float
    width: tuple[int, int]  # pixels, from and to; (0, 0) = no image
    height: tuple[int, int]
    text: int  # median of a sample's text tokens
    spread: float  # of their logarithm
    several: float  # share of samples with two to four images


MIX = {
    "photographs, landscape": Kind(0.22, (480, 1024), (360, 700), 110, 0.8, 0.03),
    "photographs, portrait": Kind(0.10, (360, 700), (480, 1024), 110, 0.8, 0.03),
    "charts and tables": Kind(0.16, (600, 1200), (400, 900), 150, 0.9, 0.02),
    "pages": Kind(0.18, (1200, 1800), (1600, 2400), 260, 0.9, 0.05),
    "screens and slides": Kind(0.07, (1280, 1920), (720, 1080), 160, 0.8, 0.03),
    "lines of text": Kind(0.06, (200, 900), (40, 160), 40, 0.6, 0.0),
    "diagrams and formulas": Kind(0.09, (200, 800), (200, 700), 180, 0.9, 0.02),
    "text only": Kind(0.12, (0, 0), (0, 0), 420, 0.9, 0.0),
}


def make_mix(rows: int, arch: str, seed: int = 0) -> Lengths:
    """Tokens and tiles of `rows` samples of the mix, int32 [rows] each."""
    rng = np.random.default_rng(seed)
    kinds = list(MIX.values())
    kind = rng.choice(len(kinds), rows, p=[k.share for k in kinds]).astype(np.int8)
    tokens, tiles = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    for number, k in enumerate(kinds):
        mine = np.flatnonzero(kind == number)
        text = np.exp(rng.normal(np.log(k.text), k.spread, len(mine))).astype(np.int32)
        text = np.clip(text, 2, LONGEST)
        images, total = np.zeros(len(mine), np.int32), np.zeros(len(mine), np.int32)
        if k.width[1]:
            sizes = zip(rng.integers(*k.width, SIZES).tolist(), rng.integers(*k.height, SIZES).tolist(), strict=True)
            known = np.array([tile_count(choose_grid(*size)) for size in sizes], np.int32)
            images = np.where(rng.random(len(mine)) < k.several, rng.integers(2, 5, len(mine)), 1).astype(np.int32)
            for place in range(4):
                total += np.where(images > place, known[rng.integers(0, SIZES, len(mine))], 0)
        tokens[mine], tiles[mine] = decoder_tokens(text, images, total, arch), total
    return tokens, tiles


class Early:
    """Whether any length comes early: how far quarters of a window's rows depart from the window in mean length."""

    def __init__(self) -> None:
        self._sum, self._squares, self._windows = np.zeros((4, 2)), np.zeros((4, 2)), 0

    def watch(self, windows: Iterator[Window]) -> Iterator[Window]:
        """The same windows, looked at in passing."""
        for window in windows:
            quarter = np.repeat(np.arange(len(window.lengths)) * 4 // max(len(window.lengths), 1), window.lengths)
            counts = np.bincount(quarter, minlength=4)
            means = [np.bincount(quarter, column, 4) / counts / column.mean() for column in window.columns[2:]]
            if len(window.lengths) >= 4:
                self._sum += np.transpose(means) - 1
                self._squares += (np.transpose(means) - 1) ** 2
                self._windows += 1
            yield window

    def found(self) -> tuple[float, float]:
        """The largest mean departure of a quarter, as a share of the mean length, and how many standard errors it is.

        Of eight numbers (tokens and tiles in four quarters) the largest is seldom above 3 standard errors by chance.
        """
        if self._windows < 2:  # too few to tell
            return 0.0, 0.0
        mean = self._sum / self._windows
        error = np.sqrt((self._squares / self._windows - mean**2) / self._windows)
        return float(np.abs(mean).max()), float((np.abs(mean) / error).max())


def measure(directory: Path, arch: str, rows: int, index: str = "", seed: int = 0) -> dict[str, Any]:
    """Plan one epoch of `rows` samples, in rows of about `TOKENS` tokens.

    Args:
        directory: where the plan is written.
        arch: d, x or h.
        rows: of the index; with `index` at most as many as it has.
        index: a Parquet file; empty = the mix.
        seed: of the order.
    """
    lengths = read_lengths(index, arch, rows) if index else make_mix(rows, arch)
    begin, used = time.perf_counter(), time.process_time()
    blend, window = Blend(["index"], [len(lengths[0])], [1.0], seed), DataConfig().pack_window
    budgets = suggest(draw(blend, [lengths]), TOKENS[arch], window).budgets
    file, early = directory / f"packing-{arch}.arrow", Early()
    windows = early.watch(packed_windows(blend, [lengths], budgets, draws=len(lengths[0])))
    with open(file, "wb") as out:
        write_plan(out, windows, None, blend.names, budgets)
    plan = Plan(file)
    token_fill, tile_fill = plan.fill()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - used
    bias, errors = early.found()
    return {
        "budgets": budgets._asdict(),
        "packed_rows": len(plan),
        "cpu_seconds": round(cpu, 1),
        "plan_mib": round(file.stat().st_size / MIB, 1),
        "early": {"departure": bias, "standard_errors": errors},
        "line": {
            "rows": len(lengths[0]),
            "token_padding": round(1 - token_fill, 5),
            "tile_padding": round(1 - tile_fill, 5),
            "seconds": round(seconds, 2),
            "peak_rss_mib": round(_peak_bytes() / MIB, 1),
            "dropped": len(too_large(lengths, budgets)),
        },
    }


def _peak_bytes() -> int:
    """Most memory this process has held. (`getrusage` would begin with that of whoever started it.)"""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def report(found: Mapping[str, Any]) -> str:
    """The measurements as text; the last line is JSON."""
    budgets, line, early = found["budgets"], found["line"], found["early"]
    samples = (line["rows"] - line["dropped"]) / max(found["packed_rows"], 1)
    return (
        f"{line['rows']:,} samples in {found['packed_rows']:,} rows of {budgets['tokens_per_row']:,} tokens and "
        f"{budgets['tiles_per_row']} tiles ({samples:.1f} a row), windows of {budgets['window']:,}; "
        f"{found['cpu_seconds']} s of CPU; plan of {found['plan_mib']} MiB\n"
        f"order: within a window the mean length of a quarter departs by at most {early['departure']:.3%} "
        f"({early['standard_errors']:.1f} standard errors)\n{json.dumps(line)}"
    )


if __name__ == "__main__":
    ARCH = flags.DEFINE_enum("arch", "d", ["d", "x", "h"], "whose lengths and budgets")
    ROWS = flags.DEFINE_integer("rows", 10_000_000, "samples", lower_bound=1)
    INDEX = flags.DEFINE_string("index", "", "a dataset's index.parquet; default: a mix made here")
    run("packing", lambda directory: measure(directory, ARCH.value, ROWS.value, INDEX.value), report)
