"""What a training step is measured on: rows of one sample each, a run's own blend, and a mix like the paper's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.budgets import suggest
from data_pipelines.estimates import TAG, TILE
from data_pipelines.loader import make_plan, open_sources
from data_pipelines.packing import pack
from launch.benchmarks.packing import make_mix
from nvlm_jax.config import ConfigError, RunConfig
from nvlm_jax.inputs.batch import Example
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.planning.synthetic import synthetic_example

MIX = 4096  # samples of the mix
Rows = Sequence[Sequence[Example]]


def dense_rows(config: RunConfig) -> list[list[Example]]:
    """`train.batch_rows` rows, each one sample that fills its places, with as many tiles as an image has at most.

    Raises:
        ConfigError: a row has no room for an image and some text.
    """
    data, inputs, model = config.data, config.inputs, config.model
    tiles = min(inputs.max_tiles + inputs.thumbnail, data.tiles_per_row)
    text = data.tokens_per_row - tiles * (1 + model.tokens_per_tile)
    if text < 2:
        raise ConfigError(f"data.tokens_per_row: {data.tokens_per_row} places do not hold {tiles} tiles and some text")
    random = np.random.default_rng(0)
    return [[synthetic_example(config, text, tiles, random)] for _ in range(config.train.batch_rows)]


def blend_rows(config: RunConfig, steps: int) -> list[list[list[Example]]]:
    """The samples of each row of each of the run's first steps.

    Raises:
        DatasetError, PlanError: as `make_plan`.
    """
    plan, data = make_plan(config, steps), config.data
    sources, builder = open_sources(config), ExampleBuilder(config.inputs, config.model)

    def build(dataset: int, sample: int) -> Example:
        return builder.build_counted(sources[dataset][sample], data.tokens_per_row, data.tiles_per_row)[0]

    rows = [[build(*drawn) for drawn in plan.row(row)] for row in range(steps * config.train.batch_rows)]
    return [rows[i : i + config.train.batch_rows] for i in range(0, len(rows), config.train.batch_rows)]


def mixed_rows(config: RunConfig, steps: int) -> tuple[RunConfig, list[list[list[Example]]]]:
    """Samples of NVLM-D as different as the paper's: `packing.make_mix`, its contents random.

    A tile may have fewer tokens here than the 256 of the paper; the text is shorter by the same factor. Samples larger
    than a row are left out. A step has about as many samples as the run has rows.

    Returns:
        The run with rows of about its places, of the number of tiles that wastes least; the samples of each row of each
        of `steps` steps.
    """
    model, data, rows = config.model, config.data, config.train.batch_rows
    lengths, tiles = make_mix(MIX, "d")
    text = np.maximum((lengths - tiles * (TAG + TILE)) * model.tokens_per_tile // TILE, 2)
    lengths = (text + tiles * (1 + model.tokens_per_tile)).astype(np.int32)
    budgets = suggest((lengths, tiles), data.tokens_per_row, MIX).budgets
    packed = pack(lengths, tiles, budgets.tokens_per_row, budgets.tiles_per_row, 0).rows()
    count = max(1, round(rows * len(packed) / sum(map(len, packed))))
    sizes = {"tokens_per_row": budgets.tokens_per_row, "tiles_per_row": budgets.tiles_per_row}
    run = dataclasses.replace(
        config,
        data=dataclasses.replace(data, **sizes),
        train=dataclasses.replace(config.train, batch_rows=count),
    )
    random = np.random.default_rng(0)
    made = [[synthetic_example(config, text[i], tiles[i], random) for i in row] for row in packed[: steps * count]]
    return run, [made[i : i + count] for i in range(0, len(made), count)]


def padding(config: RunConfig, stream: Sequence[Rows]) -> dict[str, float]:
    """What of the places and tiles is padding, here and there, over the whole stream.

    `grouped_tokens`: there, if the whole stream were sorted by length first.
    """
    counts = np.zeros(6)
    data = config.data
    for rows in stream:
        examples = [example for row in rows for example in row]
        tokens, tiles = (sum(len(getattr(e, name)) for e in examples) for name in ("tokens", "tiles"))
        ours = len(rows) * np.array([data.tokens_per_row, data.tiles_per_row])
        counts += [len(examples), tokens, tiles, *ours, len(examples) * max(len(e.tokens) for e in examples)]
    samples, tokens, tiles, places, tile_places, padded_places = counts
    lengths = sorted(len(example.tokens) for rows in stream for row in rows for example in row)
    grouped = sum(len(part) * part[-1] for part in np.array_split(lengths, len(stream)))
    return {
        "samples_a_step": samples / len(stream),
        "ours_tokens": 1 - tokens / places,
        "ours_tiles": 1 - tiles / max(tile_places, 1),
        "theirs_tokens": 1 - tokens / padded_places,
        "grouped_tokens": 1 - tokens / grouped,
    }
