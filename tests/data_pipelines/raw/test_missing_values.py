"""NaN, null and what else tables put where a value is missing: missing means missing, 0 means 0."""

import datetime
import decimal
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.raw.entry import Spec
from data_pipelines.raw.values import is_missing, text_of, without_missing
from nvlm_jax.inputs.errors import BadSample
from tests.data_pipelines.raw_files import made, picture, put, rejected, tar, texts

NAN = float("nan")
ROWS = [
    {"question": 0, "answer": 1},
    {"question": "a?", "answer": NAN},
    {"question": NAN, "answer": "b"},
    {"question": "c?", "answer": "d", "image": NAN},
]


def parquet(root, columns):
    root.mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "train.parquet")
    return root


@pytest.mark.parametrize("layout", ["json_columns", "json list", "tar_columns"])
def test_missing_rows_of_json(tmp_path, layout):
    if layout == "tar_columns":
        root = tmp_path / "raw"
        tar(root / "0.tar", [(f"{i}.json", json.dumps(row).encode()) for i, row in enumerate(ROWS)])
    else:
        layout, name = ("json_columns", "t.json") if layout == "json list" else (layout, "t.jsonl")
        root = put(tmp_path / "raw", {name: ROWS})
    samples, report = made(tmp_path, Spec("set", layout), root)
    assert [texts(sample) for sample in samples] == [["0", "1"], ["c?", "d"]]
    assert list(rejected(report)) == ["missing_field"] and report["rejected"]["missing_field"]["count"] == 2


def test_missing_rows_of_parquet(tmp_path):
    root = parquet(
        tmp_path / "raw",
        {
            "question": ["0", "a?", None, "c?"],
            "answer": ["1", None, "b", "d"],
            "image": pa.array([None, None, None, NAN], pa.float64()),
        },
    )
    samples, report = made(tmp_path, Spec("set", "table_columns"), root)
    assert [texts(sample) for sample in samples] == [["0", "1"], ["c?", "d"]]
    messages = [example["message"] for example in report["rejected"]["missing_field"]["examples"]]
    assert "no value of 'answer'" in messages[0] and "no value of 'question'" in messages[1]


def test_numbers_of_a_column_that_lost_one_are_whole(tmp_path):
    root = parquet(
        tmp_path / "raw",
        {
            "question": [0.0, 1.5, 2.0, NAN],
            "answer": pa.array([3.0, 0.0, NAN, 1.0], pa.float64()),
            "id": pa.array([7.0, 8.0, NAN, 9.0], pa.float64()),
        },
    )
    samples, report = made(tmp_path, Spec("set", "table_columns"), root)
    assert [(sample.id, *texts(sample)) for sample in samples] == [("7", "0", "3"), ("8", "1.5", "0")]
    assert report["rejected"]["missing_field"]["count"] == 2


def test_truth_values_are_values(tmp_path):
    rows = [{"question": "?", "answer": answer} for answer in (False, True, 0)]
    samples, _ = made(tmp_path, Spec("set", "json_columns"), put(tmp_path / "raw", {"t.jsonl": rows}))
    assert [texts(sample)[1] for sample in samples] == ["False", "True", "0"]


@pytest.mark.parametrize("empty", ["", "  ", None, NAN])
def test_an_empty_question_is_missing_where_the_prompt_asks_for_it(tmp_path, empty):
    rows = [{"question": empty, "answer": "a", "image": "a.png"}, {"question": "?", "answer": "b", "image": "a.png"}]
    root = put(tmp_path / "raw", {"a.png": picture(), "t.jsonl": rows})
    samples, report = made(tmp_path, Spec("set", "json_columns"), root)
    assert len(samples) == 1 and rejected(report) == {"missing_field": ["t.jsonl#0"]}
    captions, _ = made(tmp_path, Spec("captions", "json_columns", "Describe it."), root)
    assert [texts(sample)[0] for sample in captions] == ["<image>\nDescribe it."] * 2


def test_answers_of_several_annotators_may_lack_some(tmp_path):
    rows = [{"question": "?", "answer": [NAN, "a", None, "a"]}, {"question": "?", "answer": [NAN, None]}]
    samples, report = made(tmp_path, Spec("set", "json_columns"), put(tmp_path / "raw", {"t.jsonl": rows}))
    assert texts(samples[0])[1] == "a" and rejected(report) == {"missing_field": ["t.jsonl#1"]}


def test_choices_that_were_filled_up_and_a_choice_that_became_a_float(tmp_path):
    rows = [
        {"question": "?", "choices": ["x", "y", None, NAN], "correct": 1.0},
        {"question": "?", "choices": ["x", "y"], "correct": NAN},
        {"question": "?", "choices": ["x", None, "y"], "correct": 0},
        {"question": "?", "choices": ["x", "y"], "correct": 0},
    ]
    spec = Spec("set", "json_columns", "{question}\n{choices}")
    samples, report = made(tmp_path, spec, put(tmp_path / "raw", {"t.jsonl": rows}))
    assert [texts(sample) for sample in samples] == [["?\nA. x\nB. y", "B"], ["?\nA. x\nB. y", "A"]]
    assert rejected(report) == {"missing_field": ["t.jsonl#1", "t.jsonl#2"]}


@pytest.mark.parametrize("key", ["value", "content"])
def test_a_turn_without_text_is_missing(tmp_path, key):
    def talk(answer):
        return {"messages": [{"role": "user", key: 0}, {"role": "assistant", key: answer}]}

    rows = [talk(0), talk(NAN), talk(None), talk(False)]
    samples, report = made(tmp_path, Spec("set", "json_conversations"), put(tmp_path / "raw", {"t.jsonl": rows}))
    assert [texts(sample) for sample in samples] == [["0", "0"], ["0", "False"]]
    assert rejected(report) == {"missing_field": ["t.jsonl#1", "t.jsonl#2"]}


def test_annotations_of_one_dataset_with_missing_values(tmp_path):
    held = {"data": [{"question_id": i, "image_id": "a", "question": q, "answers": a}
                     for i, (q, a) in enumerate([("one?", ["1"]), (NAN, ["2"]), ("three?", [NAN])])]}  # fmt: skip
    root = put(tmp_path / "raw", {"TextVQA_0.5.1_train.json": held, "train_images/a.jpg": picture(kind="JPEG")})
    samples, report = made(tmp_path, Spec("set", "textvqa"), root)
    assert [texts(sample)[1] for sample in samples] == ["1"] and list(rejected(report)) == ["missing_field"]


class NAType:
    """Compares like pandas' NA: to nothing at all."""

    def __ne__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


@pytest.mark.parametrize(
    "value",
    [None, NAN, np.float32("nan"), np.datetime64("NaT"), decimal.Decimal("nan"), NAType()],
    ids=lambda v: type(v).__name__,
)
def test_every_word_for_missing(value):
    assert is_missing(value) and without_missing({"a": [value, {"b": value}]}) == {"a": [None, {"b": None}]}
    with pytest.raises(BadSample) as caught:
        text_of(value, "answer")
    assert caught.value.reason == "missing_field"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "0"), (0.0, "0"), (-0.0, "0"), (3.0, "3"), (2.5, "2.5"), (True, "True"), (False, "False"), ("", "")],
        *[(1e300, "1e+300"), (2**70, str(2**70)), (np.float32(4), "4"), (np.int64(5), "5"), (b"\xc3\xa9", "é")],
        *[("nan", "nan"), ("NA", "NA"), (decimal.Decimal("3.50"), "3.50"), (np.bool_(False), "False")],
    ],
    ids=repr,
)
def test_values_and_their_texts(value, text):
    assert not is_missing(value) and text_of(value, "answer") == text


@pytest.mark.parametrize("value", [float("inf"), [], {}, ["a"], datetime.date(2024, 1, 1), decimal.Decimal("inf")])
def test_values_without_a_text(value):
    with pytest.raises(BadSample, match="a text or a number is expected") as caught:
        text_of(value, "answer")
    assert caught.value.reason == "wrong_field"
