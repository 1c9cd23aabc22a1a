"""What `launch.benchmarks.pytorch` sets side by side is the same training: the same losses, step after step."""

import dataclasses

import jax
import numpy as np
import pytest

from launch.benchmarks import beside_pytorch
from launch.benchmarks import streams as benchmark_streams
from nvlm_jax.config import InputConfig
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.planning.synthetic import synthetic_example
from nvlm_jax.training.checkpoints import Checkpoints
from nvlm_jax.training.step import init_state, split_model
from tests.tiny import make_model, make_run_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of NVLM-D, and a workdir that holds its weights."""
    config = make_run_config("d", steps=8)
    decoder = dataclasses.replace(config.model.decoder, vocab_size=512)
    model = dataclasses.replace(config.model, decoder=decoder)
    inputs = InputConfig(tokenizer="nvlm_jax/assets/tiny")
    config = dataclasses.replace(config, model=model, inputs=inputs, mesh=dataclasses.replace(config.mesh, fsdp=1))
    split = split_model(make_model(model), config.train.trainable, "float32")
    workdir = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save_frozen(split.frozen)
    checkpoints.save(1, init_state(split, config), config)
    checkpoints.close()
    return config, str(workdir)


def test_the_same_losses(run, monkeypatch):
    config, workdir = run
    monkeypatch.setattr(beside_pytorch, "make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:1]))
    ours, theirs = beside_pytorch.Ours(config, workdir), beside_pytorch.Theirs(config, workdir)
    random = np.random.default_rng(0)
    mixed = [
        [synthetic_example(config, text, tiles, random) for text, tiles in row]
        for row in ([(9, 1), (11, 1)], [(25, 0)], [(4, 2)], [])
    ]
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, tokens_per_row=32))
    dense = benchmark_streams.dense_rows(config)
    assert {len(row[0].tokens) for row in dense} == {32} and {len(row[0].tiles) for row in dense} == {4}
    losses = [(ours.step(rows), theirs.step(rows)) for rows in (mixed, dense, mixed, dense)]
    found, expected = np.array(losses).T
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(found[2] - found[0]) > 0.01  # it learns


def test_padding_is_counted(run):
    config, _ = run
    random = np.random.default_rng(0)
    rows = [[synthetic_example(config, text, 0, random) for text in row] for row in ((10, 12), (30,))]
    share = benchmark_streams.padding(config, [rows])
    assert share["ours_tokens"] == pytest.approx(1 - 52 / 64) and share["theirs_tokens"] == pytest.approx(1 - 52 / 90)
    assert share["ours_tiles"] == 1.0 and share["grouped_tokens"] == share["theirs_tokens"]


def test_decode_takes_their_best_batch():
    seconds = {"engine": [1.0, 2.0], "transformers, 16 a batch": [3.0, 5.0], "transformers, 32 a batch": [9.0, 9.0]}
    assert beside_pytorch.decode_ratios(seconds) == [2.5, 3.0]
