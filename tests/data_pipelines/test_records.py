import concurrent.futures
import pickle

import msgpack
import pytest

from data_pipelines import index, records
from data_pipelines.records import BadRecord, DatasetError, RecordSource, decode_sample, encode_sample, write_dataset
from nvlm_jax.inputs.batch import Message, Sample


def make(i: int) -> Sample:
    turns = (Message("user", f"<image>\nwhat is {i}?"), Message("assistant", f"ünï {i}", "count"))
    return Sample(f"s-{i}", turns, (bytes([i % 256]) * (i % 50),), {"kinds": ["a", str(i)], "n": i})


def test_round_trip_keeps_every_field():
    for i in (0, 7, 49):
        assert decode_sample(encode_sample(make(i))) == make(i)


def test_what_msgpack_cannot_hold_is_refused_with_the_sample_named():
    with pytest.raises(BadRecord, match=r"'odd'.*object"):
        encode_sample(Sample("odd", (), (), {"x": object()}))


def _record(**changes):
    whole = {"v": 1, "id": "a", "messages": [["user", "x", ""]], "images": [b"i"], "meta": {}}
    return msgpack.packb({k: v for k, v in (whole | changes).items() if v is not None})


@pytest.mark.parametrize(
    ("data", "reason", "text"),
    [
        (b"", "not_msgpack", "0 bytes"),
        (encode_sample(make(3))[:-4], "not_msgpack", "not one msgpack value"),
        (_record() + b"\x00", "not_msgpack", "not one msgpack value"),
        (_record().replace(b"\xa1a", b"\xa1\xff"), "invalid_utf8", "utf-8"),
        (msgpack.packb([1, 2]), "other_version", "list"),
        (_record(v=9), "other_version", "version 9, expected 1"),
        (_record(images=None), "wrong_field", "no field 'images'"),
        (_record(id=5), "wrong_field", "id is int, expected str"),
        (_record(messages=[["user", "x"]]), "wrong_field", "message has 2 parts, expected 3"),
        (_record(messages=[["user", 5, ""]]), "wrong_field", "an item of message is int"),
        (_record(images=["text"]), "wrong_field", "an item of images is str, expected bytes"),
        (_record(meta=[]), "wrong_field", "meta is list, expected dict"),
    ],
)
def test_a_malformed_record_says_what_is_wrong(data, reason, text):
    with pytest.raises(BadRecord, match=text) as caught:
        decode_sample(data)
    assert caught.value.reason == reason
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason  # it may cross from a worker


def test_dataset_round_trip_over_shards(tmp_path):
    samples = [make(i) for i in range(11)]
    manifest = write_dataset(tmp_path / "set", samples, shards=3, settings={"seed": 1})
    names = sorted(p.name for p in (tmp_path / "set").iterdir())
    assert names == [
        "dataset.json",
        "index.parquet",
        *(f"set-0000{i}-of-00003.array_record" for i in range(3)),
    ]
    assert manifest.shards == (4, 4, 3) and manifest.groups == ("count",) and manifest.settings == {"seed": 1}
    source = RecordSource(tmp_path / "set")
    assert len(source) == 11 and [source[i] for i in range(11)] == samples
    assert source.ids().to_pylist() == [s.id for s in samples]
    with pytest.raises(IndexError, match="sample 11 of 11"):
        source[11]
    (tmp_path / "set").rename(tmp_path / "renamed")
    assert RecordSource(tmp_path / "renamed")[10] == samples[10]


def test_index_tells_sizes_without_opening_a_record(tmp_path):
    write_dataset(tmp_path / "set", [make(i) for i in range(5)], shards=2)
    table = index.read(tmp_path / "set").to_pydict()
    assert table["shard"] == [0, 0, 0, 1, 1] and table["offset"] == [0, 1, 2, 0, 1]
    assert table["bytes"] == [len(encode_sample(make(i))) for i in range(5)]
    assert table["answer_chars"] == [len("ünï 0")] * 5
    assert table["widths"] == [[0]] * 5  # these bytes are no images


def test_source_is_opened_lazily_pickled_and_shared_between_threads(tmp_path):
    write_dataset(tmp_path / "set", [make(i) for i in range(40)], shards=2)
    source = RecordSource(tmp_path / "set")
    assert not source._readers
    assert source[3] == make(3) and list(source._readers) == [0]
    copy = pickle.loads(pickle.dumps(source))
    assert not copy._readers and copy[39] == make(39)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(copy.__getitem__, range(40))) == [make(i) for i in range(40)]


def test_an_interrupted_write_leaves_nothing_that_looks_whole(tmp_path):
    def broken():
        yield make(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "set", broken(), size=2)
    assert not (tmp_path / "set").exists()
    with pytest.raises(DatasetError, match="no dataset here"):
        RecordSource(tmp_path / "set")
    write_dataset(tmp_path / "set", [make(1), make(2)])
    with pytest.raises(KeyboardInterrupt):  # the dataset that stood there stays
        write_dataset(tmp_path / "set", broken(), size=2)
    assert [RecordSource(tmp_path / "set")[i].id for i in range(2)] == ["s-1", "s-2"]
    write_dataset(tmp_path / "set", [make(5)])
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert RecordSource(tmp_path / "set")[0] == make(5)


def test_a_wrong_number_of_samples_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="1 samples came, 2 were expected"):
        write_dataset(tmp_path / "set", iter([make(0)]), size=2)
    with pytest.raises(ValueError, match="more samples came than the 1 expected"):
        write_dataset(tmp_path / "set", iter([make(0), make(1)]), size=1)
    with pytest.raises(ValueError, match="3 shards for 2 samples; 1 to 2"):
        write_dataset(tmp_path / "set", [make(0), make(1)], shards=3)
    assert not (tmp_path / "set").exists()


def test_absent_or_incomplete_dataset_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match=r"absent: no dataset here .*launch\.prepare --dataset=embedded"):
        RecordSource(tmp_path / "absent")
    write_dataset(tmp_path / "set", [make(i) for i in range(4)], shards=2)
    (tmp_path / "set" / "set-00001-of-00002.array_record").unlink()
    with pytest.raises(DatasetError, match="1 of 2 shards are missing, the first set-00001-of-00002"):
        RecordSource(tmp_path / "set")
    manifest = tmp_path / "set" / records.MANIFEST
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(DatasetError, match=r"dataset\.json: format 7, expected 1"):
        RecordSource(tmp_path / "set")
    manifest.write_text("{}")
    with pytest.raises(DatasetError, match=r"dataset\.json: not a manifest"):
        RecordSource(tmp_path / "set")


def test_a_damaged_block_costs_one_sample(tmp_path):
    samples = [Sample(f"s-{i}", (), (bytes(range(256)) * 3,), {"i": i}) for i in range(30)]
    write_dataset(tmp_path / "set", samples)
    file = next((tmp_path / "set").glob("*.array_record"))
    data = bytearray(file.read_bytes())
    place = data.index(b"s-13")
    data[place : place + 4] = b"!!!!"
    file.write_bytes(data)
    source, read = RecordSource(tmp_path / "set"), []
    for i in range(30):
        try:
            read.append(source[i])
        except BadRecord as error:
            assert error.reason == "corrupt_block" and "sample 13" in str(error)
    assert read == samples[:13] + samples[14:]


def test_same_samples_same_bytes(tmp_path):
    first = write_dataset(tmp_path / "a", [make(i) for i in range(9)], shards=2)
    second = write_dataset(tmp_path / "b" / "a", [make(i) for i in range(9)], shards=2)
    assert first == second
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / "a" / file.name).read_bytes()
