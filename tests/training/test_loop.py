"""The loop: what it writes, how it stops, how it goes on, what it refuses."""

import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest

from nvlm_jax.config import ConfigError
from nvlm_jax.training.loop import NonFiniteLoss, Stop, train
from nvlm_jax.training.telemetry import read_metrics
from tests.tiny import make_batches
from tests.training.conftest import GROUPS, stopping


def exact_record(record: dict) -> dict:
    """What a step computed, without what it took."""
    timed = ("seconds", "useful_tokens_per_second", "samples_per_second", "data_wait_share", "broken_checkpoints")
    return {key: value for key, value in record.items() if key not in timed}


def exact(workdir) -> list[dict]:
    return [exact_record(record) for record in read_metrics(workdir)]


def go_on(runs, workdir, config=None):
    config = config or runs.config
    return train(config, workdir, lambda start: make_batches(config, start), GROUPS)


def test_every_step_is_written_once_with_all_it_should_say(runs):
    assert runs.whole_outcome == (6, True, None)
    records = read_metrics(runs.whole)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    expected = {"loss", "loss/number", "loss/word", "grad_norm", "grad_norm/projector", "grad_norm/cross_attention"}
    expected |= {f"tanh_gate/{gate}/{layer}" for gate in ("attention_gate", "mlp_gate") for layer in (0, 1)}
    expected |= {"learning_rate", "token_fill", "tile_fill", "useful_tokens_per_second", "samples_per_second"}
    expected |= {"data_wait_share", "sample_hash", "trained_tokens"}
    for record in records:
        assert expected <= set(record)
        assert np.isfinite([v for v in record.values() if not isinstance(v, str)]).all()
    # Group losses, weighted, make up the loss; useful tokens are those of the batch, not its places.
    batch, info = next(make_batches(runs.config, 0))
    assert records[0]["useful_tokens"] == (batch.segment_ids > 0).sum()
    assert records[0]["sample_hash"] == info.sample_hash
    assert records[0]["learning_rate"] == 0.0  # warm-up starts at zero
    weights = [batch.loss_weights[batch.loss_groups == group].sum() for group in range(3)]
    losses = [records[0][f"loss/{name}"] for name in ("no_group", *GROUPS)]
    assert np.average(losses, weights=weights) == pytest.approx(records[0]["loss"], rel=1e-5)


def test_stopped_and_started_again_gives_the_same_losses(runs, tmp_path):
    assert runs.stopped_outcome.signal == signal.SIGINT and not runs.stopped_outcome.finished
    assert 4 <= runs.stopped_outcome.step < 6
    workdir = shutil.copytree(runs.stopped, tmp_path / "run")
    assert len(read_metrics(workdir)) == runs.stopped_outcome.step
    assert go_on(runs, workdir).finished
    assert exact(workdir) == exact(runs.whole)


def test_sigterm_is_told_apart(runs, tmp_path):
    config = runs.config
    outcome = train(config, tmp_path, lambda start: stopping(config, start, signal.SIGTERM), GROUPS)
    assert outcome.signal == signal.SIGTERM
    assert (tmp_path / "checkpoints" / str(outcome.step)).is_dir()


def test_a_second_interrupt_does_not_wait():
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_finished_run_is_left_alone(runs):
    before = {p: p.stat().st_mtime_ns for p in (runs.whole / "checkpoints").rglob("*")}
    metrics = (runs.whole / "metrics.jsonl").read_bytes()

    def no_data(start):
        raise AssertionError("a finished run asked for data")

    assert train(runs.config, runs.whole, no_data, GROUPS) == (6, True, None)
    assert {p: p.stat().st_mtime_ns for p in (runs.whole / "checkpoints").rglob("*")} == before
    assert (runs.whole / "metrics.jsonl").read_bytes() == metrics


def test_another_config_is_refused_key_by_key(runs):
    optimizer = dataclasses.replace(runs.config.optimizer, learning_rate=0.5)
    other = dataclasses.replace(runs.config, seed=7, optimizer=optimizer)
    with pytest.raises(ConfigError) as error:
        go_on(runs, runs.whole, other)
    text = str(error.value)
    assert "seed: 0 there, 7 now" in text and "optimizer.learning_rate: 0.01 there, 0.5 now" in text
    assert "log_every" in text.splitlines()[-1] and "train." not in "".join(text.splitlines()[1:-1])


def test_what_changes_no_number_may_change(runs, tmp_path):
    workdir = shutil.copytree(runs.whole, tmp_path / "run")
    train_config = dataclasses.replace(runs.config.train, log_every=1, keep_checkpoints=9)
    assert go_on(runs, workdir, dataclasses.replace(runs.config, train=train_config)).finished
    assert json.loads((workdir / "config.json").read_text())["config"]["train"]["log_every"] == 1


def test_a_loss_that_is_no_number_stops_the_run(runs, tmp_path):
    workdir = shutil.copytree(runs.stopped, tmp_path / "run")
    done = runs.stopped_outcome.step

    def poisoned(start):
        for batch, info in make_batches(runs.config, start):
            yield batch._replace(loss_weights=np.full_like(batch.loss_weights, np.inf)), info

    with pytest.raises(NonFiniteLoss) as error:
        train(runs.config, workdir, poisoned, GROUPS)
    text = str(error.value)
    assert f"step {done + 1}: loss nan" in text
    assert f"step{done}/row0" in text and f"The last checkpoint is of step {done}." in text
    record = json.loads((workdir / f"not_finite_{done + 1}.json").read_text())
    assert record["sample_ids"][3] == [f"step{done}/row3"]
    assert len(read_metrics(workdir)) == done
    assert go_on(runs, workdir).finished  # nothing broken was saved
    assert exact(workdir) == exact(runs.whole)


def test_data_that_ends_early(runs, tmp_path):
    with pytest.raises(RuntimeError, match=r"the data ended after step 0 of train.steps=6"):
        train(runs.config, tmp_path, lambda start: iter(()), GROUPS)
