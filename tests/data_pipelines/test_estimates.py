import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.estimates import decoder_tokens, read_lengths
from data_pipelines.records import DatasetError

ROWS = {"tiles": [[7], [], [1, 3], [5]], "prompt_tokens": [10, 300, 20, 40], "answer_tokens": [5, 100, 0, 2]}


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize(
    ("arch", "tokens"),
    [
        ("d", [24 + 15 + 6 + 7 * 261, 424, 24 + 20 + 12 + 4 * 261, 24 + 42 + 6 + 5 * 261]),
        ("x", [24 + 15 + 6 + 35, 424, 24 + 20 + 12 + 20, 24 + 42 + 6 + 25]),
        ("h", [24 + 15 + 6 + 261, 424, 24 + 20 + 12 + 2 * 261, 24 + 42 + 6 + 261]),
    ],
)
def test_an_index_gives_lengths_however_it_is_cut(tmp_path, arch, tokens):
    for size in (4, 1):
        found = read_lengths(write(tmp_path / "index.parquet", ROWS, row_group_size=size), arch)
        assert found[0].tolist() == tokens and found[1].tolist() == [7, 0, 4, 5]
        assert found[0].dtype == found[1].dtype == np.int32
    assert read_lengths(tmp_path / "index.parquet", arch, 3)[0].tolist() == tokens[:3]


def test_other_columns_serve_as_well(tmp_path):
    chars = {"prompt_chars": [40, 8], "answer_chars": [20, 0]}
    nulls = {"prompt_tokens": pa.nulls(2, pa.int32()), "answer_tokens": pa.nulls(2, pa.int32())}
    file = write(tmp_path / "a.parquet", {"tiles": [[], []]} | nulls | chars)
    assert read_lengths(file, "d")[0].tolist() == [24 + 15, 24 + 2]
    file = write(tmp_path / "b.parquet", {"tiles": [0, 3], "tokens": [100, 50]})
    tokens, tiles = read_lengths(file, "d")
    assert tokens.tolist() == [124, 24 + 50 + 6 + 3 * 261] == decoder_tokens(
        np.array([100, 50]), np.array([0, 1]), np.array([0, 3]), "d"
    ).tolist() and tiles.tolist() == [0, 3]


def test_files_that_are_no_index_are_errors_that_name_them(tmp_path):
    with pytest.raises(DatasetError, match=r"c\.parquet: not a readable"):
        read_lengths(tmp_path / "c.parquet", "d")
    with pytest.raises(DatasetError, match=r"d\.parquet: columns \['id'\]; it needs `tiles`"):
        read_lengths(write(tmp_path / "d.parquet", {"id": ["a"]}), "d")
