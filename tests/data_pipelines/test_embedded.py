import concurrent.futures

import pytest

from data_pipelines import embedded
from data_pipelines.generated.samples import generate
from data_pipelines.records import RecordSource


def test_every_embedded_dataset_is_made_as_its_spec_says(tmp_path):
    made = embedded.prepare(tmp_path, samples=3, seed=4, processes=0)
    assert made == list(embedded.DATASETS)
    for name, spec in embedded.DATASETS.items():
        source = RecordSource(tmp_path / name)
        assert [source[i] for i in range(3)] == [
            generate(spec.variant, spec.split, 4, i, **spec.options) for i in range(3)
        ]
    assert RecordSource(tmp_path / "caption-1")[2].meta["grid"] == [1, 1]


def test_what_is_ready_stays_and_other_settings_make_it_anew(tmp_path):
    assert embedded.prepare(tmp_path, ["text"], samples=5, processes=0) == ["text"]
    calls = []
    again = embedded.prepare(tmp_path, ["text"], samples=5, processes=0, progress=lambda *a: calls.append(a))
    assert again == [] and calls == [("text", 5, 5)]
    assert embedded.prepare(tmp_path, ["text"], samples=6, processes=0) == ["text"]
    assert embedded.prepare(tmp_path, ["text"], samples=6, seed=1, processes=0) == ["text"]
    assert RecordSource(tmp_path / "text")[0].id == "text-train-1-0"
    (tmp_path / "text" / "index.parquet").unlink()
    assert embedded.prepare(tmp_path, ["text"], samples=6, seed=1, processes=0) == ["text"]


def test_processes_change_nothing(tmp_path):
    embedded.prepare(tmp_path / "one", ["text", "qa"], samples=70, processes=0)
    embedded.prepare(tmp_path / "two", ["text", "qa"], samples=70, processes=2)
    for file in (tmp_path / "one").glob("*/*"):
        assert file.read_bytes() == (tmp_path / "two" / file.parent.name / file.name).read_bytes()


def test_two_that_want_the_same_dataset_at_once_make_it_once(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(embedded.prepare, tmp_path, ["text"], samples=300, processes=0) for _ in range(2)]
        made = [run.result() for run in runs]
    assert sorted(made) == [[], ["text"]]
    assert len(RecordSource(tmp_path / "text")) == 300


def test_an_unknown_name_is_an_error_that_lists_the_right_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no embedded dataset 'qu'; there are caption-1, aligned, qa-1, qa-2, qa"):
        embedded.prepare(tmp_path, ["qa", "qu"])
    assert not list(tmp_path.iterdir())
