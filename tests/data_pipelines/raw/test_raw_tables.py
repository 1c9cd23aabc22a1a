"""Parquet and Hugging Face `datasets` directories."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.raw.entry import LayoutError, Spec
from tests.data_pipelines.raw_files import made, picture, put, rejected, texts

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(first, count, **more):
    images = [{"bytes": picture(20 + i), "path": f"{i}.png"} for i in range(first, first + count)]
    columns = {"id": [f"r{i}" for i in range(first, first + count)], "image": pa.array(images, IMAGE)}
    columns |= {"question": ["What?"] * count, "answer": [str(i) for i in range(first, first + count)]}
    return pa.table(columns | more)


def test_parquet_files_of_a_split_in_row_groups(tmp_path):
    (tmp_path / "raw" / "data").mkdir(parents=True)
    pq.write_table(table(0, 5), tmp_path / "raw/data/train-00000-of-00002.parquet", row_group_size=2)
    pq.write_table(table(5, 2), tmp_path / "raw/data/train-00001-of-00002.parquet")
    pq.write_table(table(7, 2), tmp_path / "raw/data/test-00000-of-00001.parquet")
    samples, _ = made(tmp_path, Spec("set", "table_columns"), tmp_path / "raw", shard_records=3)
    assert [sample.id for sample in samples] == [f"r{i}" for i in range(7)]
    assert samples[6].images == (picture(26),) and texts(samples[6]) == ["<image>\nWhat?", "6"]
    samples, _ = made(tmp_path, Spec("test", "table_columns", split="test"), tmp_path / "raw")
    assert [sample.id for sample in samples] == ["r7", "r8"]
    with pytest.raises(LayoutError, match="no Parquet file of split 'validation'"):
        made(tmp_path, Spec("none", "table_columns", split="validation"), tmp_path / "raw")


def test_parquet_with_paths_of_images(tmp_path):
    root = put(tmp_path / "raw", {"images/0.png": picture()})
    rows = {"image": ["images/0.png", "../0.png"], "question": ["What?"] * 2, "answer": ["a", "b"]}
    pq.write_table(pa.table(rows), root / "all.parquet")
    samples, report = made(tmp_path, Spec("set", "table_columns"), root)
    assert [sample.images for sample in samples] == [(picture(),)]
    assert rejected(report) == {"outside_root": ["all.parquet#1"]}


def test_a_damaged_parquet_file_costs_its_row_group(tmp_path):
    (tmp_path / "raw").mkdir()
    file = tmp_path / "raw" / "train.parquet"
    pq.write_table(table(0, 6), file, row_group_size=2, compression="snappy")
    data = bytearray(file.read_bytes())
    middle = pq.read_metadata(file).row_group(1).column(3).data_page_offset
    data[middle : middle + 8] = b"\xff" * 8
    file.write_bytes(data)
    (tmp_path / "raw" / "train-1.parquet").write_bytes(b"PAR1 and no more")
    samples, report = made(tmp_path, Spec("set", "table_columns"), tmp_path / "raw")
    assert [sample.id for sample in samples] == ["r0", "r1", "r4", "r5"]
    assert rejected(report) == {"corrupt_block": ["train-1.parquet#0", "train.parquet#2"]}


def saved(folder, tables):
    """As `datasets` 3 and 4 write `save_to_disk`: streams of record batches, and their names."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{len(tables):05d}.arrow" for i in range(len(tables))]
    for name, held in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as out, pa.ipc.new_stream(out, held.schema) as writer:
            writer.write_table(held, max_chunksize=2)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "a8e8c2c43b24df5a",
        "_split": "train",
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"image": {"_type": "Image"}}}))


def test_a_saved_dataset_and_a_saved_dictionary(tmp_path):
    saved(tmp_path / "one", [table(0, 3), table(3, 2)])
    samples, _ = made(tmp_path, Spec("one", "table_columns"), tmp_path / "one", shard_records=2)
    assert [sample.id for sample in samples] == [f"r{i}" for i in range(5)]
    saved(tmp_path / "two" / "train", [table(0, 3)])
    saved(tmp_path / "two" / "test", [table(3, 1)])
    (tmp_path / "two" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    samples, _ = made(tmp_path, Spec("two", "table_columns", split="test"), tmp_path / "two")
    assert [sample.id for sample in samples] == ["r3"]
    with pytest.raises(LayoutError, match=r"no split 'dev'; dataset_dict\.json has \['train', 'test'\]"):
        made(tmp_path, Spec("three", "table_columns", split="dev"), tmp_path / "two")


def test_a_cut_arrow_stream_keeps_what_is_whole(tmp_path):
    saved(tmp_path / "raw", [table(0, 6)])
    file = next((tmp_path / "raw").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:-700])
    samples, report = made(tmp_path, Spec("set", "table_columns"), tmp_path / "raw")
    assert [sample.id for sample in samples] == ["r0", "r1", "r2", "r3"]
    assert list(report["rejected"]) == ["corrupt_block"]


def test_cauldron_pairs_and_onevision_conversations(tmp_path):
    (tmp_path / "raw").mkdir()
    text = pa.struct([("user", pa.string()), ("assistant", pa.string()), ("source", pa.string())])
    pairs = [[{"user": "Q?", "assistant": "A", "source": "s"}, {"user": "R?", "assistant": "B", "source": "s"}]]
    images = pa.array([[{"bytes": picture(), "path": None}]], pa.list_(IMAGE))
    pq.write_table(
        pa.table({"images": images, "texts": pa.array(pairs, pa.list_(text))}), tmp_path / "raw/train.parquet"
    )
    samples, _ = made(tmp_path, Spec("pairs", "table_pairs"), tmp_path / "raw")
    assert texts(samples[0]) == ["<image>\nQ?", "A", "R?", "B"] and samples[0].images == (picture(),)
    turn = pa.struct([("from", pa.string()), ("value", pa.string())])
    turns = pa.array([[{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "A"}]], pa.list_(turn))
    one = pa.table(
        {"id": ["7"], "image": pa.array([{"bytes": picture(), "path": None}], IMAGE), "conversations": turns}
    )
    pq.write_table(one, tmp_path / "raw/train.parquet")
    samples, _ = made(tmp_path, Spec("turns", "table_conversations"), tmp_path / "raw")
    assert samples[0].id == "7" and texts(samples[0]) == ["<image>\nQ?", "A"]
