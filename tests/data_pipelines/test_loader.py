import contextlib
import dataclasses
import hashlib
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from data_pipelines.blend import Blend
from data_pipelines.faults import BadSamples, TooManyBadSamples
from data_pipelines.loader import DataWorkerDied, batches, describe, drawn, make_plan, samples_per_step
from data_pipelines.plan import Budgets, Plan, plan_rows, write_plan
from data_pipelines.records import DatasetError, RecordSource, write_dataset
from nvlm_jax.config import DatasetConfig
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message, Sample
from nvlm_jax.inputs.example import ExampleBuilder


def assert_same(one, two):
    for (batch, info), (other_batch, other_info) in zip(one, two, strict=True):
        assert info == other_info
        for name, a, b in zip(batch._fields, batch, other_batch, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("arch", ["d", "x", "h"])
@pytest.mark.parametrize("blend", [{"qa": 1.0}, {"qa": 0.5, "text": 0.5}, {"text": 1.0}], ids=["qa", "mixed", "text"])
def test_shapes_are_static_whatever_the_mix(make_config, arch, blend):
    config = make_config(arch, blend, steps=6)
    plan = make_plan(config)
    for batch, info in batches(config, plan):
        assert batch.tokens.shape == batch.image_slots.shape == (4, 1024) and batch.tokens.dtype == np.int32
        assert batch.tiles.shape == (4, 14, 64, 64, 3) and batch.tiles.dtype == np.uint8
        assert batch.tile_index.shape == (4, 14)
        used = np.count_nonzero(batch.segment_ids) / batch.tokens.size
        assert info.token_fill == used and info.tile_fill == np.count_nonzero(batch.tile_segment_ids) / (4 * 14)
        assert (info.tile_fill > 0) == batch.tiles.any() == ("qa" in blend)
        assert info.samples == info.read == sum(batch.segment_ids.max(axis=1)) and info.bad == ()


def test_a_run_without_tile_budget(make_config):
    config = make_config(blend={"text": 1.0}, steps=2, tiles_per_row=0)
    (batch, info), _ = batches(config, make_plan(config))
    assert batch.tiles.shape == (4, 0, 64, 64, 3) and info.tile_fill == 1.0 and info.token_fill > 0.5


def test_samples_of_a_step(make_config):
    config = make_config(steps=5)
    counted = [info.samples for _, info in batches(config, make_plan(config))]
    assert samples_per_step(config) == pytest.approx(np.mean(counted))
    assert samples_per_step(config, most=2) == pytest.approx(np.mean(counted[:2]))


def test_each_row_holds_the_examples_of_its_samples_in_order(make_config, data_path):
    config = make_config(steps=3)
    plan = make_plan(config)
    builder = ExampleBuilder(config.inputs, config.model, plan.groups)
    sources = [RecordSource(data_path / "qa"), RecordSource(data_path / "text")]
    for batch, info in batches(config, plan):
        for row in range(4):
            pairs = plan.row(info.step * 4 + row)
            for segment, (dataset, sample) in enumerate(pairs, 1):
                example = builder.build(sources[dataset][sample])
                assert info.sample_ids[row][segment - 1] == f"{plan.names[dataset]}/{example.id}"
                mine = batch.segment_ids[row] == segment
                np.testing.assert_array_equal(batch.tokens[row][mine], example.tokens)
                np.testing.assert_array_equal(batch.loss_groups[row][mine], example.loss_groups)
                np.testing.assert_array_equal(batch.tiles[row][batch.tile_segment_ids[row] == segment], example.tiles)
    assert plan.groups == ("bar", "cell", "count", "line", "number", "text", "word")


def test_starting_at_any_step_gives_the_batches_of_a_whole_run(make_config):
    config = make_config(steps=7)
    plan = make_plan(config)
    whole = list(batches(config, plan))
    assert [info.step for _, info in whole] == list(range(7))
    for start in (1, 4, 6, 7):
        assert_same(batches(config, plan, start), whole[start:])
    longer = make_config(steps=9)
    assert_same(list(batches(longer, make_plan(longer)))[:7], whole)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_any_number_of_processes_gives_the_same_global_batches(make_config, count):
    config = make_config(steps=3, batch_rows=8)
    plan = make_plan(config)
    parts = [list(batches(config, plan, 1, process, count)) for process in range(count)]
    for (batch, info), *local in zip(batches(config, plan, 1), *parts, strict=True):
        for field, values in zip(batch, zip(*(b for b, _ in local), strict=True), strict=True):
            assert len(values[0]) == 8 // count
            np.testing.assert_array_equal(np.concatenate(values), field)
        assert sum(i.read for _, i in local) == info.read
        for _, i in local:
            assert i._replace(read=info.read) == info


def test_worker_processes_change_nothing(make_config):
    config = make_config(steps=7)
    with_workers = make_config(steps=7, workers=2)
    plan = make_plan(config)
    loaded = list(batches(with_workers, plan, 2))
    assert_same(loaded, batches(config, plan, 2))
    assert type(loaded[0][0].tokens) is np.ndarray


def test_a_killed_worker_is_said_in_a_line(make_config):
    config = make_config(steps=12, workers=1)
    feed, before = batches(config, make_plan(config)), set(multiprocessing.active_children())
    next(feed)
    for worker in set(multiprocessing.active_children()) - before:
        worker.kill()
    with pytest.raises(DataWorkerDied, match=r"process that reads data was killed by SIGKILL\. What is saved"):
        list(feed)


def test_hosts_and_workers_may_change_in_the_middle_of_a_run(make_config):
    config = make_config(steps=6)
    plan = make_plan(config)
    whole = list(batches(config, plan))
    others = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=1))
    parts = [list(batches(others, make_plan(others), 3, host, 2))[:2] for host in range(2)]
    for (batch, info), one, two in zip(whole[3:5], *parts, strict=True):
        for field, first, second in zip(batch, one[0], two[0], strict=True):
            np.testing.assert_array_equal(np.concatenate([first, second]), field)
        assert info.sample_hash == one[1].sample_hash == two[1].sample_hash


def test_any_step_is_reached_in_under_a_second(make_config):
    config = make_config(blend={"text": 1.0}, steps=500)
    plan = make_plan(config)
    assert len(pickle.dumps(plan)) < 1000  # what a worker is handed
    begin = time.process_time()
    with contextlib.closing(batches(config, make_plan(config), 490)) as stream:
        _, info = next(stream)
    assert info.step == 490 and time.process_time() - begin < 1


def test_a_run_counts_epochs_and_repeats_of_each_dataset(make_config):
    config = make_config(steps=20)
    plan = make_plan(config)
    taken = [info.sample_ids for _, info in batches(config, plan)]
    names = [name.split("/")[0] for step in taken for row in step for name in row]
    found = drawn(config, plan)
    assert [(d.name, d.drawn, d.size) for d in found] == [
        ("qa", names.count("qa"), 60),
        ("text", names.count("text"), 60),
    ]
    assert found[0].epochs == found[0].drawn / 60 and found[0].repeats == max(0, found[0].drawn - 60)


def test_size_and_text_share_set_the_blend(make_config, tmp_path, data_path):
    config = make_config(blend={"qa": 1.0, "text": 1.0}, text_share=0.1, steps=60)
    counts = make_plan(config).counts()
    assert counts[1] / counts.sum() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(("loss_per", "power"), [("token", 1.0), ("sample", 0.0), ("sqrt", 0.5)])
def test_what_a_sample_weighs_in_the_loss(make_config, loss_per, power):
    config = make_config(steps=2, loss_per=loss_per)
    for batch, _ in batches(config, make_plan(config)):
        for row, segments in enumerate(batch.segment_ids):
            for segment in range(1, segments.max() + 1):
                weights = batch.loss_weights[row][segments == segment]
                trained = np.count_nonzero(weights)
                assert trained > 1 and weights.sum() == pytest.approx(trained**power, rel=1e-5)
                assert len(set(weights.tolist())) == 2  # of one sample all the same, and 0


def test_another_seed_gives_another_order(make_config):
    config = make_config(steps=4)
    other = dataclasses.replace(config, seed=1)
    hashes = [[info.sample_hash for _, info in batches(c, make_plan(c))] for c in (config, other)]
    assert not set(hashes[0]) & set(hashes[1])


def test_sample_hash_is_that_of_the_ids_and_never_changes():
    lengths = [(np.arange(40, 70, dtype=np.int32), np.ones(30, np.int32))]
    plan = plan_rows(Blend(["a"], [30], [1.0], 0), lengths, 20, Budgets(200, 5, 16))
    info = describe(plan, [pa.array([f"s{i}" for i in range(30)])], 2, 4)
    text = "\n".join("\t".join(row) for row in info.sample_ids)
    assert info.sample_hash == hashlib.sha256(text.encode()).hexdigest()[:16] == PINNED  # an order published is kept
    assert len(info.sample_ids) == 4 and info.samples == sum(map(len, info.sample_ids))


PINNED = "231406e24cf5805a"


def conversation(i, image=b"", content=None, answer="yes", n=1):
    content = f"{IMAGE_PLACEHOLDER}\nis {i} even" if content is None else content
    turns = (Message("user", content), Message("assistant", answer, "word")) * n
    return Sample(f"s-{i}", turns, (image,) if image else ())


@pytest.fixture
def faulty(tmp_path, data_path, make_config):
    """A run of one epoch over 100 samples, 7 of them bad and one longer than a row."""
    source = RecordSource(data_path / "qa")
    images = [source[i % 60].images[0] for i in range(100)]
    samples = [conversation(i, images[i]) for i in range(100)]
    samples[3] = conversation(3, images[3][:300])  # the header is whole, the pixels are not
    samples[14] = conversation(14, b"no image")
    samples[15] = conversation(15, b"no image either")
    samples[26] = conversation(26, images[26], answer=" ")
    samples[37] = conversation(37, content=IMAGE_PLACEHOLDER + "?")
    samples[48] = conversation(48, images[48], content="no place for it")
    samples[59] = conversation(59, images[59], content=f"{IMAGE_PLACEHOLDER} " + "why " * 2000)
    write_dataset(tmp_path / "qa", samples, shards=2)
    file = tmp_path / "qa" / "qa-00001-of-00002.array_record"
    data = bytearray(file.read_bytes())
    place = data.index(b"s-77")
    data[place : place + 4] = b"!!!!"
    file.write_bytes(data)
    # An epoch is one window of 100 draws, and the run more than two epochs.
    return make_config(blend={"qa": 1.0}, path=tmp_path, steps=90, batch_rows=1, pack_window=100, max_bad_share=0.1)


def test_bad_samples_are_left_out_and_counted_by_reason_and_the_others_arrive_once(faulty):
    plan = make_plan(faulty)
    assert {name: lost.tolist() for name, lost in plan.dropped.items()} == {"qa": [59]}
    bad, arrived, tried = BadSamples(0.1), [], 0
    builder = ExampleBuilder(faulty.inputs, faulty.model, plan.groups)
    source = RecordSource(faulty.data.blend[0].path)
    for batch, info in batches(faulty, plan, bad=bad):
        ids = [name for row in info.sample_ids for name in row]
        lost = {fault.id for fault in info.bad}
        whole = [name for name in ids if name not in lost]
        assert batch.segment_ids.max() == len(whole) and info.read == len(ids)
        for segment, name in enumerate(whole, 1):
            tokens = builder.build(source[int(name.split("-")[1])]).tokens
            np.testing.assert_array_equal(batch.tokens[batch.segment_ids == segment], tokens)
        arrived += whole
        tried += info.read
        if tried == 99:
            break
    assert tried == 99  # the first epoch is one window
    reasons = {reason: sorted(fault.id for fault in found) for reason, found in bad.by_reason().items()}
    assert reasons == {
        "unreadable_image": ["qa/s-14", "qa/s-15", "qa/s-3"],
        "empty_answer": ["qa/s-26"],
        "extra_placeholder": ["qa/s-37"],
        "missing_placeholder": ["qa/s-48"],
        "corrupt_block": ["qa/s-77"],
    }
    expected = {f"qa/s-{i}" for i in range(100)} - {"qa/s-59"} - {i for found in reasons.values() for i in found}
    assert sorted(arrived) == sorted(expected)


def test_faults_come_with_their_step_wherever_the_run_starts(faulty):
    plan = make_plan(faulty)
    whole = [info for _, info in batches(faulty, plan)]
    assert [info for _, info in batches(faulty, plan, 9)] == whole[9:]
    assert any(info.bad for info in whole[9:])


def test_too_many_bad_samples_stop_the_run_with_the_list(faulty):
    strict = dataclasses.replace(faulty, data=dataclasses.replace(faulty.data, max_bad_share=0.05))
    seen = 0
    with pytest.raises(TooManyBadSamples, match=r"max_bad_share=0\.05(.|\n)*unreadable_image: \d+ \(.*qa/s-14"):
        for _, info in batches(strict, make_plan(strict)):
            seen += info.read
    assert 190 <= seen < 200  # the batch with which 200 samples are read is the first to be judged


def test_a_short_run_is_judged_at_its_end(faulty):
    strict = dataclasses.replace(faulty, data=dataclasses.replace(faulty.data, max_bad_share=0.0))
    plan = make_plan(strict, steps=30)
    stream, steps = batches(strict, plan), 0
    with pytest.raises(TooManyBadSamples):
        for _ in stream:
            steps += 1
    assert steps == 30


def test_long_conversations_lose_whole_turns_and_the_loss_is_counted(make_config):
    config = make_config(blend={"qa": 1.0}, steps=4, tokens_per_row=256, tiles_per_row=7)
    infos = [info for _, info in batches(config, make_plan(config))]
    assert sum(info.dropped_turns for info in infos) > 0 and not any(info.bad for info in infos)
    roomy = make_config(blend={"qa": 1.0}, steps=4)
    assert all(info.dropped_turns == 0 for _, info in batches(roomy, make_plan(roomy)))


def test_lengths_that_the_data_no_longer_has_are_a_fault_that_says_what_to_do(make_config, monkeypatch):
    config = make_config(blend={"text": 1.0}, steps=1, batch_rows=1, max_bad_share=1.0)
    plan = make_plan(config)
    tokens, tiles = plan.lengths(0)
    monkeypatch.setattr(Plan, "lengths", lambda self, row: ([tokens[0] + 1, *tokens[1:]], tiles))
    ((_, info),) = batches(config, plan)
    assert [fault.reason for fault in info.bad] == ["other_length"] and "remove lengths-" in info.bad[0].message


def test_dense_labels_have_a_group(make_config):
    config = make_config(blend={"dense": 1.0}, steps=2, inputs={"template": "dense"}, tokens_per_row=1120)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dense_labels=7))
    plan = make_plan(config)
    (batch, _), _ = batches(config, plan)
    assert plan.groups == ("dense",) and set(np.unique(batch.loss_groups)) == {0, 1}


def test_impossible_calls_are_errors(make_config, tmp_path):
    config = make_config(steps=3)
    plan = make_plan(config)
    with pytest.raises(ValueError, match="start_step 4 is outside a plan of 3 steps"):
        batches(config, plan, 4)
    with pytest.raises(ValueError, match=r"process 0 of 3 with train\.batch_rows=4"):
        batches(config, plan, 0, 0, 3)
    with pytest.raises(ValueError, match="process 2 of 2"):
        batches(config, plan, 0, 2, 2)
    missing = dataclasses.replace(config.data, blend=(DatasetConfig("gone", str(tmp_path / "gone")),))
    with pytest.raises(DatasetError, match=r"gone: no dataset here"):
        make_plan(dataclasses.replace(config, data=missing))


def test_a_plan_can_be_made_where_nothing_can_be_written(make_config, data_path, tmp_path, monkeypatch):
    shutil.copytree(data_path / "text", tmp_path / "text", ignore=shutil.ignore_patterns("lengths-*"))
    config = make_config(blend={"text": 1.0}, path=tmp_path, steps=2)

    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr("data_pipelines.index.np.save", refuse)
    monkeypatch.setattr("data_pipelines.plan.write_plan", lambda out, *rest: _write(out, *rest))

    def _write(out, *rest):
        return write_plan(out, *rest) if isinstance(out, pa.NativeFile) else refuse()

    assert len(make_plan(config)) == 8
    assert [file.name for file in tmp_path.iterdir()] == ["text"] and not list((tmp_path / "text").glob("lengths-*"))


def test_the_data_pipeline_imports_without_jax():
    code = (
        "import sys, pkgutil, importlib, data_pipelines\n"
        "for m in pkgutil.walk_packages(data_pipelines.__path__, 'data_pipelines.'):\n"
        "    importlib.import_module(m.name)\n"
        "import launch.prepare\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'jax', 'jaxlib', 'tensorflow', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
