"""Files that are missing or damaged: the message names the file, what is wrong, and what would be right."""

import csv
import gzip
import json
import re

import pyarrow.parquet
import pytest

from nvlm_jax.evaluation import sandbox
from nvlm_jax.evaluation.benchmarks import registry
from nvlm_jax.evaluation.files import BenchmarkError
from tests.evaluation.benchmarks import miniature


def load(data, name: str) -> list:
    return list(registry()[name].load(data))


def refused(data, name: str) -> str:
    with pytest.raises(BenchmarkError) as error:
        load(data, name)
    return str(error.value)


@pytest.mark.parametrize("name", miniature.LAYOUTS)
def test_missing_files_say_what_is_expected_and_where_to_get_it(tmp_path, name):
    message = refused(tmp_path / "nowhere", name)
    assert message.startswith(name.split("_")[0]) and "no files in" in message and "expected one of" in message
    assert re.search(r"get them: (hf download|https://)", message)


def test_a_folder_may_be_named_in_any_case_or_be_the_data_itself(tmp_path):
    miniature.docvqa_parquet(tmp_path / "DocVQA")
    assert len(load(tmp_path, "docvqa")) == len(load(tmp_path / "DocVQA", "docvqa")) == miniature.COUNT


def test_another_benchmarks_files_are_not_taken(tmp_path):
    miniature.parquet(tmp_path / "other/test-00000-of-00001.parquet", miniature.GSM8K)
    assert "math: no files in" in refused(tmp_path, "math") and "mmlu: no files in" in refused(tmp_path, "mmlu")
    miniature.write(tmp_path, "math", "parquet")
    assert len(load(tmp_path, "math")) == len(load(tmp_path / "math", "math")) == 3


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    root = miniature.write(tmp_path, "docvqa", "parquet")
    [path] = root.glob("*/*.parquet")
    table = pyarrow.parquet.read_table(path)
    names = [name.replace("question", "Question") if name == "question" else name for name in table.column_names]
    pyarrow.parquet.write_table(table.rename_columns(names), path)
    message = refused(tmp_path, "docvqa")
    assert f"{path}: no column question; it has questionId, Question, " in message


def test_a_missing_shard_is_named(tmp_path):
    root = miniature.write(tmp_path, "realworldqa", "parquet")
    (root / "data/test-00001-of-00002.parquet").unlink()
    assert "test-00001-of-00002.parquet is missing; there are 2 files" in refused(tmp_path, "realworldqa")


def test_a_damaged_parquet_file_is_named(tmp_path):
    root = miniature.write(tmp_path, "textvqa", "parquet")
    [path] = root.glob("*/*.parquet")
    path.write_bytes(path.read_bytes()[:200])
    assert f"{path}: cannot be read as Parquet" in refused(tmp_path, "textvqa")


def test_a_row_without_a_picture_is_named(tmp_path):
    root = tmp_path / "ocrbench"
    row = {"dataset": "IIIT5K", "question": "?", "question_type": miniature.PARTS[0], "answer": ["x"]}
    miniature.parquet(root / "data/test-00000-of-00001.parquet", [row | {"image": miniature.cell(b"")}])
    assert "row 0: no picture; expected" in refused(tmp_path, "ocrbench")


def test_a_missing_image_file_names_its_question(tmp_path):
    root = miniature.write(tmp_path, "docvqa", "challenge")
    (root / "documents/xnbl0037_3.png").unlink()
    message = refused(tmp_path, "docvqa")
    assert "val_v1.0_withQT.json, data[3]: its image" in message and "documents/xnbl0037_3.png is missing" in message


def test_missing_annotations_are_named(tmp_path):
    root = miniature.write(tmp_path, "vqav2", "json")
    (root / "v2_mscoco_val2014_annotations.json").unlink()
    assert "v2_mscoco_val2014_annotations.json: is missing" in refused(tmp_path, "vqav2")


def test_a_question_without_annotation_is_named(tmp_path):
    path = miniature.write(tmp_path, "vqav2", "json") / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    miniature.dump(path, content | {"annotations": content["annotations"][:2]})
    assert "questions[2]: no annotation of question 262148002" in refused(tmp_path, "vqav2")


def test_json_that_is_none_or_has_other_keys(tmp_path):
    path = miniature.write(tmp_path, "textvqa", "json") / "TextVQA_0.5.1_val.json"
    path.write_text(path.read_text()[:-20])
    assert f"{path}: not JSON" in refused(tmp_path, "textvqa")
    miniature.dump(path, {"rows": []})
    assert f"{path}: no column data; it has rows" in refused(tmp_path, "textvqa")
    miniature.dump(path, {"data": [[1, 2]]})
    assert f"{path}, data[0]: expected an object with question_id" in refused(tmp_path, "textvqa")


def edit_table(path, change) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    miniature.tsv(path, [change(row) for row in rows])


def test_tables_of_vlmevalkit_that_are_wrong(tmp_path):
    path = miniature.write(tmp_path, "ocrbench", "tsv") / "OCRBench.tsv"
    good = path.read_text()
    edit_table(path, lambda row: row | {"category": "Reading"})
    assert "index 0: part 'Reading' is none of Regular Text Recognition" in refused(tmp_path, "ocrbench")
    path.write_text(good)
    edit_table(path, lambda row: row | {"image": "77"})
    assert "index 0: its image '77' is neither base64 nor the index of a row" in refused(tmp_path, "ocrbench")
    path.write_text(good)
    edit_table(path, lambda row: row | {"image": "*" * 100})
    assert "index 0: its image is not base64" in refused(tmp_path, "ocrbench")
    path.write_text(good)
    edit_table(path, lambda row: {key: row[key] for key in ("index", "image", "question", "answer")})
    assert "OCRBench.tsv: no column category; it has index, image, question, answer" in refused(tmp_path, "ocrbench")
    path.write_text(good + "1\t2\n")
    assert "row 8: 2 cells; the header has 5" in refused(tmp_path, "ocrbench")


def test_rows_without_any_picture_are_left_out_as_vlmevalkit_does(tmp_path):
    path = miniature.write(tmp_path, "textvqa", "tsv") / "TextVQA_VAL.tsv"
    edit_table(path, lambda row: row | {"image": "" if row["index"] == "2" else row["image"]})
    assert len(load(tmp_path, "textvqa")) == miniature.COUNT - 1


def test_chartqa_needs_both_halves(tmp_path):
    root = miniature.write(tmp_path, "chartqa", "folder")
    (root / "ChartQA Dataset/test/test_human.json").unlink()
    assert "has test_augmented.json; expected test_human.json, test_augmented.json" in refused(tmp_path, "chartqa")


def test_ai2d_answers_are_indices(tmp_path):
    row = {"question": "?", "options": ["x", "y"], "answer": "2", "image": miniature.cell(miniature.pages()[0].picture)}
    miniature.parquet(tmp_path / "ai2d/data/test-00000-of-00001.parquet", [row])
    assert "row 0: answer '2' is no index of 2 options" in refused(tmp_path, "ai2d")


def test_mmlu_needs_five_solved_questions(tmp_path):
    root = miniature.write(tmp_path, "mmlu", "csv")
    dev = root / "data/dev/abstract_algebra_dev.csv"
    dev.write_text("".join(dev.read_text().splitlines(keepends=True)[:3]))
    assert "abstract_algebra has 3 solved questions beside it; expected 5" in refused(tmp_path, "mmlu")
    dev.unlink()
    assert f"{dev}: is missing" in refused(tmp_path, "mmlu")


def test_solutions_without_an_answer_are_named(tmp_path):
    path = miniature.write(tmp_path, "gsm8k", "jsonl") / "grade_school_math/data/test.jsonl"
    path.write_text('{"question": "?", "answer": "It is 4."}\n')
    assert 'test.jsonl, row 0: the solution has no "#### "' in refused(tmp_path, "gsm8k")
    path.write_text('{"question": "?"}\n')
    assert "test.jsonl, line 1: no column answer; it has question" in refused(tmp_path, "gsm8k")
    miniature.dump(tmp_path / "math/test/algebra/1.json", miniature.MATH[0] | {"solution": "It is 4."})
    assert "algebra/1.json: the solution has no \\boxed answer" in refused(tmp_path, "math")


def test_a_truncated_gzip_file_is_named(tmp_path):
    path = miniature.write(tmp_path, "humaneval", "jsonl") / "HumanEval.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"task_id": "x"}\n' * 100)[:-8])
    with pytest.raises(BenchmarkError, match=r"HumanEval\.jsonl\.gz.*(no column prompt|cannot be read as JSON lines)"):
        load(tmp_path, "humaneval")


def test_humaneval_refuses_without_a_sandbox(tmp_path, monkeypatch):
    def none() -> None:
        raise sandbox.SandboxError("there is no way here")

    miniature.write(tmp_path, "humaneval")
    monkeypatch.setattr(sandbox, "isolation", none)
    assert refused(tmp_path, "humaneval") == (
        "humaneval: programs that a model wrote are not run without a sandbox: there is no way here"
    )
