"""Files of a prepared dataset damaged bit by bit: read as they were, made anew, or refused by name; never believed."""

import json
import logging
import os
import random
import shutil

import numpy as np
import pytest

from data_pipelines import index
from data_pipelines.blend import PlanError
from data_pipelines.plan import Plan
from data_pipelines.records import MANIFEST, BadRecord, DatasetError, RecordSource, encode_sample
from tests.data_pipelines.test_index import Measure
from tests.data_pipelines.test_plan import plan


def damaged(good: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return good[: rng.randrange(len(good))]
    content = bytearray(good)
    if kind == 1:
        place = rng.randrange(len(good))
        content[place : place + 8] = rng.choice((b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7))
    else:
        for _ in range(5 * kind - 9):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


@pytest.fixture
def dataset(data_path, tmp_path):
    shutil.copytree(data_path / "qa", tmp_path / "qa")
    return tmp_path / "qa"


@pytest.mark.parametrize("pattern", [MANIFEST, index.INDEX, "*.array_record"])
def test_a_damaged_dataset_is_named_or_reads_as_before(dataset, pattern):
    [file] = dataset.glob(pattern)
    whole = RecordSource(dataset)
    ids, samples = whole.ids().to_pylist(), [encode_sample(whole[i]) for i in range(0, 60, 10)]
    good, rng = file.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(80):
        file.write_bytes(damaged(good, rng))
        try:
            source = RecordSource(dataset)
            assert source.ids().to_pylist() == ids
            for i, sample in zip(range(0, 60, 10), samples, strict=True):
                assert encode_sample(source[i]) == sample
        except (DatasetError, BadRecord) as error:
            refused += 1
            text = str(error)
            assert str(dataset) in text and "\n" not in text and len(text) < 700, text
    assert refused > 20


MANIFESTS = {
    "name": ("../evil", "/etc/x", "", "..", "a\\b", "a\0b", 3, None, ["qa"], "x" * 300),
    "shards": ("60", [-1, 61], [59], [60.0], [True], {"0": 60}, None, [[60]], 60),
    "samples": (-1, 61, 10**30, "60", None, True, [60]),
    "groups": ("word", [1], None, {"word": 1}),
    "fingerprint": (3, None, "../x", "g" * 32, "a" * 100),
    "settings": (None, [], "x"),
    "format": (None, "1", 99, [], {}),
}


@pytest.mark.parametrize("key", MANIFESTS)
def test_a_manifest_with_another_value_is_refused_by_its_key(dataset, key):
    good = json.loads((dataset / MANIFEST).read_text())
    for value in MANIFESTS[key]:
        (dataset / MANIFEST).write_text(json.dumps(good | {key: value}))
        with pytest.raises(DatasetError, match=rf"dataset\.json: .*({key}|samples)") as raised:
            RecordSource(dataset)
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
    for extra in ({"evil": 1}, {}):
        (dataset / MANIFEST).write_text(json.dumps({k: v for k, v in good.items() if k != key or extra} | extra))
        with pytest.raises(DatasetError, match=r"dataset\.json: not a manifest"):
            RecordSource(dataset)


def test_a_name_that_leads_elsewhere_opens_nothing_there(dataset):
    """A shard of that name lies where the manifest points."""
    good = json.loads((dataset / MANIFEST).read_text())
    [shard] = dataset.glob("*.array_record")
    shutil.copy(shard, dataset.parent / shard.name.replace("qa", "evil", 1))
    (dataset / MANIFEST).write_text(json.dumps(good | {"name": "../evil"}))
    with pytest.raises(DatasetError, match=r"name '\.\./evil' is no name of a file; shards would lie elsewhere"):
        RecordSource(dataset)


def test_a_fifo_in_place_of_a_shard_is_not_waited_for(dataset):
    [shard] = dataset.glob("*.array_record")
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(DatasetError, match="1 of 1 shards are missing"):
        RecordSource(dataset)
    (dataset / MANIFEST).unlink()
    os.mkfifo(dataset / MANIFEST)
    with pytest.raises(DatasetError, match=r"dataset\.json.*no regular file"):
        RecordSource(dataset)


def test_damaged_lengths_are_measured_anew(dataset, caplog):
    source, rng = RecordSource(dataset), random.Random(0)

    class LengthOfId(Measure):
        def measure(self, sample, max_tokens=None, max_tiles=None):
            self.asked += 1
            return len(sample.messages[0].content), len(sample.images)

    builder = LengthOfId()
    right = [column.tolist() for column in index.lengths(source, builder, 10, 2, key="k")]
    [file] = dataset.glob("lengths-*.npy")
    good = file.read_bytes()
    assert [c.tolist() for c in index.lengths(source, builder, 10, 2, key="k")] == right and builder.asked == 60
    for _ in range(40):
        file.write_bytes(damaged(good, rng))
        assert [c.tolist() for c in index.lengths(source, builder, 10, 2, key="k")] == right
    assert builder.asked > 60 + 20 * 60 and "lengths are measured anew" in caplog.text and str(file) in caplog.text
    np.save(file, np.zeros((60, 2), np.int32))  # as written before there were sums
    assert [c.tolist() for c in index.lengths(source, builder, 10, 2, key="k")] == right


def test_a_damaged_plan_is_made_anew(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    rng = random.Random(0)
    right = [plan(100, directory=tmp_path).row(i) for i in range(100)]
    [file] = tmp_path.glob("plan-*.arrow")
    good = file.read_bytes()
    for _ in range(60):
        file.write_bytes(damaged(good, rng))
        made = plan(100, directory=tmp_path)
        assert [made.row(i) for i in range(100)] == right
    assert "the plan is made anew" in caplog.text and str(file) in caplog.text


def test_a_plan_that_is_damaged_under_a_run_is_named_by_the_row(tmp_path):
    plan(100, directory=tmp_path)
    [file] = tmp_path.glob("plan-*.arrow")
    content = bytearray(file.read_bytes())
    place = content.index(np.array(plan(100).lengths(3)[0], np.int32).tobytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(PlanError, match=rf"{file.name}: rows from 0 on are damaged; remove the file"):
        Plan(file).row(3)
