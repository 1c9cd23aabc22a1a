"""Datasets behind an address: fsspec's own memory file system, and an S3-compatible server."""

import pickle

import fsspec
import numpy as np
import pytest

from data_pipelines.loader import batches, make_plan
from data_pipelines.records import DatasetError, RecordSource, write_dataset
from nvlm_jax.inputs.batch import Message, Sample


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NVLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def upload(path, address):
    fs, root = fsspec.core.url_to_fs(address)
    fs.makedirs(root, exist_ok=True)
    for file in path.iterdir():
        fs.put_file(str(file), f"{root}/{file.name}")


def write(path, count, word="hello"):
    turns = (Message("user", word), Message("assistant", "yes"))
    write_dataset(path, [Sample(f"s-{i}", turns) for i in range(count)], shards=2)
    return path


def cached(cache):
    return sorted(file.name for file in cache.rglob("*") if file.is_file())


def test_a_shard_is_copied_when_it_is_first_read(tmp_path, cache):
    upload(write(tmp_path / "set", 10), "memory://bucket/one/set")
    source = RecordSource("memory://bucket/one/set")
    assert len(source) == 10 and cached(cache) == ["dataset.json", "index.parquet"]
    assert source[7].id == "s-7"
    assert cached(cache) == ["dataset.json", "index.parquet", "set-00001-of-00002.array_record"]
    again = pickle.loads(pickle.dumps(source))
    assert [again[i].id for i in range(10)] == [f"s-{i}" for i in range(10)]
    fsspec.filesystem("memory").rm("/bucket/one/set/set-00000-of-00002.array_record")
    assert again[0].id == "s-0"  # from the cache


def test_a_dataset_that_was_replaced_is_copied_anew(tmp_path):
    upload(write(tmp_path / "set", 4), "memory://bucket/two/set")
    assert RecordSource("memory://bucket/two/set")[3].messages[0].content == "hello"
    upload(write(tmp_path / "set", 4, "other"), "memory://bucket/two/set")
    assert RecordSource("memory://bucket/two/set")[3].messages[0].content == "other"


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"memory://bucket/none: no dataset here"):
        RecordSource("memory://bucket/none")
    with pytest.raises(DatasetError, match=r"nosuch://x/y: cannot be read"):
        RecordSource("nosuch://x/y")
    upload(write(tmp_path / "set", 4), "memory://bucket/three/set")
    fsspec.filesystem("memory").rm("/bucket/three/set/set-00001-of-00002.array_record")
    with pytest.raises(DatasetError, match="1 of 2 shards are missing"):
        RecordSource("memory://bucket/three/set")


def test_a_run_reads_the_same_batches_from_there(make_config, data_path):
    upload(data_path / "text", "memory://bucket/run/text")
    here = make_config(blend={"text": 1.0}, steps=2)
    there = make_config(blend={"text": 1.0}, steps=2, path="memory://bucket/run")
    for (batch, info), (other, same) in zip(
        batches(here, make_plan(here)), batches(there, make_plan(there)), strict=True
    ):
        assert info == same
        np.testing.assert_array_equal(batch.tokens, other.tokens)


@pytest.mark.parity
def test_it_works_on_an_s3_server(tmp_path, monkeypatch):
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf)
        fsspec.filesystem("s3").mkdir("bucket")
        upload(write(tmp_path / "set", 10), "s3://bucket/data/set")
        source = RecordSource("s3://bucket/data/set")
        assert [source[i].id for i in range(10)] == [f"s-{i}" for i in range(10)]
        with pytest.raises(DatasetError, match="no dataset here"):
            RecordSource("s3://bucket/data/none")
    finally:
        fsspec.config.conf.pop("s3", None)
        server.stop()
