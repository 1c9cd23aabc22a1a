"""The mix that training is measured on holds what it says: different samples, in rows of the budgets it names."""

import numpy as np

from configs.nvlm import get_config
from launch.benchmarks import streams as benchmark_streams
from nvlm_jax.config import RunConfig, from_mapping


def test_mixed_rows():
    config = from_mapping(RunConfig, get_config("arch=d,size=tiny,stage=sft").to_dict())
    run, steps = benchmark_streams.mixed_rows(config, 12)
    rows = [row for step in steps for row in step]
    assert len(steps) == 12 and len(rows) == 12 * run.train.batch_rows
    data = run.data
    assert abs(data.tokens_per_row - config.data.tokens_per_row) <= 0.1 * config.data.tokens_per_row
    for row in rows:
        assert sum(len(example.tokens) for example in row) <= data.tokens_per_row
        assert sum(len(example.tiles) for example in row) <= data.tiles_per_row
    examples = [example for row in rows for example in row]
    assert 0.75 < len(examples) / (12 * config.train.batch_rows) < 1.35
    tiles = np.array([len(example.tiles) for example in examples])
    assert 0 < (tiles == 0).mean() < 0.3 and tiles.max() >= 7 and len(np.unique(tiles)) > 3
    lengths = [len(example.tokens) for example in examples]
    assert max(lengths) > 2 * np.mean(lengths)
    share = benchmark_streams.padding(run, steps)
    assert share["ours_tokens"] < 0.05 and share["grouped_tokens"] < 0.2 < 0.4 < share["theirs_tokens"]
