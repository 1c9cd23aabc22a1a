"""Every record read before anything is asked: all faults at once, each with file and record."""

import json
import pathlib
import shutil

import pytest

from nvlm_jax.evaluation import session
from nvlm_jax.evaluation.benchmark import ask
from nvlm_jax.evaluation.benchmarks import registry
from nvlm_jax.evaluation.check import check, write_faults
from nvlm_jax.evaluation.files import BenchmarkError
from nvlm_jax.evaluation.metrics import ocrbench
from tests.evaluation.benchmarks import miniature

CASES = pathlib.Path(__file__).parent / "cases"
BOM = b"\xef\xbb\xbf"
TEXTS = (".json", ".jsonl", ".csv", ".tsv")


def faults(data: pathlib.Path, name: str) -> tuple[str, ...]:
    return check(registry()[name], data).faults


@pytest.mark.parametrize("name", [name for name in miniature.LAYOUTS if name != "humaneval"])
def test_published_files_have_no_fault_with_and_without_a_byte_order_mark(tmp_path, name):
    for layout in miniature.LAYOUTS[name]:
        data = tmp_path / layout
        root = miniature.write(data, name, layout)
        plain = check(registry()[name], data)
        for path in root.rglob("*"):
            if path.suffix in TEXTS:
                path.write_bytes(BOM + path.read_bytes())
        assert plain.questions > 0 and not plain.faults
        assert check(registry()[name], data) == plain


def test_labels_of_chartqa_are_texts():
    questions = list(registry()["chartqa"].load(CASES / "chartqa_lists"))
    assert [q.answer for q in questions] == ["3.5", "[Aland, Borduria]", "[2017, 2023]", "14"]
    score = registry()["chartqa"].score
    for rule in ("lmms-eval", "megatron"):
        assert [score(questions[2], said, rule).score for said in ("[2017, 2023]", "2017")] == [1.0, 0.0]


def test_a_label_that_is_a_list_is_written_as_the_authors_write_it(tmp_path):
    image = miniature.cell(miniature.pages()[0].picture)
    rows = [{"image": image, "query": "?", "label": [*label], "human_or_machine": 0} for label in (["a", "b"], ["x"])]
    miniature.parquet(tmp_path / "chartqa/data/test-00000-of-00001.parquet", rows)
    assert [q.answer for q in registry()["chartqa"].load(tmp_path)] == ["[a, b]", "x"]


@pytest.mark.parametrize("layout", ["folder", "parquet", "m4", "tsv"])
def test_lists_in_labels_whatever_the_layout(tmp_path, layout):
    miniature.write(tmp_path, "chartqa", layout)
    assert [q.answer for q in registry()["chartqa"].load(tmp_path)][1:3] == list(miniature.LISTS)


@pytest.mark.parametrize("layout", ["json", "parquet", "tsv"])
def test_a_formula_in_brackets_is_an_answer(tmp_path, layout):
    miniature.write(tmp_path, "ocrbench", layout)
    *_, last = registry()["ocrbench"].load(tmp_path)
    assert last.answer["references"] == [miniature.FORMULA]
    assert ocrbench("It is [\\arccos\\frac{1}{4},\\pi]", last.answer["references"], last.answer["dataset"]) == 1


def test_ids_that_repeat_over_parts_are_told_apart_and_the_others_stay(tmp_path):
    path = miniature.write(tmp_path, "ocrbench", "json") / "OCRBench/OCRBench.json"
    rows = json.loads(path.read_text())
    rows[0]["id"] = 99  # once only: an earlier run's answer to it is still its answer
    miniature.dump(path, rows)
    ids = [q.id for q in registry()["ocrbench"].load(tmp_path)]
    assert ids == ["99", "7", "8@2", "8@3", "9@4", "9@5"]


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ("['a', 'b']", ["a", "b"]),
        ("['a' 'b']", ["a", "b"]),  # as NumPy writes it
        ("[\"it's\", 'x']", ["it's", "x"]),
        ("[2017, 2023]", ["[2017, 2023]"]),
        ("[Aland, Borduria]", ["[Aland, Borduria]"]),
        ("[ \\pi , 1 ]", ["[ \\pi , 1 ]"]),
        ("[0, 1)", ["[0, 1)"]),
        ("[", ["["]),
        ("FOX", ["FOX"]),
    ],
)
def test_a_tables_answer_is_a_list_only_if_it_quotes_its_texts(tmp_path, cell, answers):
    image = miniature.base64_of(miniature.pages()[0].picture)
    for name, table in (("docvqa", "DocVQA_VAL.tsv"), ("textvqa", "TextVQA_VAL.tsv")):
        miniature.tsv(tmp_path / name / table, [{"index": 1, "question": "?", "answer": cell, "image": image}])
        assert next(registry()[name].load(tmp_path)).answer == answers


# ---- MMLU


def mmlu_case(tmp_path: pathlib.Path, test: str, header: str = "question,subject,A,B,C,D,answer\n") -> pathlib.Path:
    solved = 'Which is cold?,astronomy,sun,ice,fire,"lamp, lit",{}\n'
    if not header:
        solved = 'Which is cold?,sun,ice,fire,"lamp, lit",{}\n'
    root = tmp_path / "mmlu"
    for folder, text in (("dev", solved.format("1" if header else "B") * 5), ("test", test)):
        (root / folder).mkdir(parents=True)
        (root / folder / f"astronomy_{folder}.csv").write_text(header + text)
    return tmp_path


def test_the_case_with_a_header_is_refused_for_its_one_solved_question():
    [fault] = faults(CASES / "mmlu_header", "mmlu")
    assert fault.endswith("astronomy_test.csv: astronomy has 1 solved questions beside it; expected 5")


def test_a_header_and_indices_are_read_as_what_they_are(tmp_path):
    data = mmlu_case(tmp_path, "Which is hottest?,astronomy,ice,sun,snow,rain,1\nWhich?,astronomy,1,2,3,4,D\n")
    questions = list(registry()["mmlu"].load(data))
    assert [q.answer["letter"] for q in questions] == ["B", "D"]
    assert questions[0].answer["options"] == ["ice", "sun", "snow", "rain"]
    assert "Which is cold?\nA. sun\nB. ice\nC. fire\nD. lamp, lit\nAnswer: B\n\n" in questions[0].text
    assert "subject" not in questions[0].text


def test_choices_in_one_column_are_read(tmp_path):
    root = tmp_path / "mmlu"
    for folder, count in (("dev", 5), ("test", 1)):
        (root / folder).mkdir(parents=True)
        row = "What?,astronomy,\"['ice' 'sun' 'it is snow' 'rain']\",2\n"
        (root / folder / f"astronomy_{folder}.csv").write_text("question,subject,choices,answer\n" + row * count)
    [question] = registry()["mmlu"].load(tmp_path)
    assert question.answer == {"letter": "C", "options": ["ice", "sun", "it is snow", "rain"]}


def test_indices_without_a_header_are_refused_row_by_row(tmp_path):
    rows = "Which?,ice,sun,snow,rain,1\nWhich?,1,2,3,4,B\nWhich?,1,2,3,4,E\nWhich?,1,2\n"
    data = mmlu_case(tmp_path, rows, header="")
    path = data / "mmlu/test/astronomy_test.csv"
    assert faults(data, "mmlu") == (
        f"{path}, row 1: answer '1' is none of A, B, C, D",
        f"{path}, row 3: answer 'E' is none of A, B, C, D",
        f"{path}, row 4: 3 cells; expected 6: question, A, B, C, D, letter",
    )


@pytest.mark.parametrize("answer", [-1, 4])
def test_an_index_of_no_choice_is_refused(tmp_path, answer):
    root = miniature.write(tmp_path, "mmlu", "parquet")
    rows = [row | {"answer": answer if i else 1} for i, row in enumerate(miniature._mmlu("astronomy", 5))]
    miniature.parquet(root / "all/test-00000-of-00001.parquet", rows[:2])
    miniature.parquet(root / "all/dev-00000-of-00001.parquet", miniature._mmlu("astronomy", 5))
    [fault] = faults(tmp_path, "mmlu")
    assert fault == f"{root}/all/test-00000-of-00001.parquet, row 1: answer '{answer}' is none of A, B, C, D"


# ---- what only all records tell


def test_all_faults_are_listed_at_once(tmp_path):
    root = miniature.write(tmp_path, "chartqa", "folder")
    for number in (0, 3):
        (root / f"ChartQA Dataset/test/png/human_{number}.png").unlink()
    path = root / "ChartQA Dataset/test/test_augmented.json"
    rows = json.loads(path.read_text())
    rows[1] = {"imgname": "augmented_1.png", "query": "?"}
    rows[2]["label"] = None
    rows[4] = "text"
    miniature.dump(path, rows)
    human = path.with_name("test_human.json")
    expected = [
        f"{path}, [1]: no column label",
        f"{path}, [2]: label is 'None'; expected a text",
        f"{path}, [4]: expected an object with imgname, query, label, got str",
        f"{human}, [0]: its image {human.parent / 'png/human_0.png'} is missing",
        f"{human}, [3]: its image {human.parent / 'png/human_3.png'} is missing",
    ]
    checked = check(registry()["chartqa"], tmp_path)
    assert checked.questions == 2 * miniature.COUNT - 5
    assert all(fault.startswith(start) for fault, start in zip(checked.faults, expected, strict=True))


def test_ids_that_repeat_are_named_with_both_records(tmp_path):
    path = miniature.write(tmp_path, "textvqa", "json") / "TextVQA_0.5.1_val.json"
    content = json.loads(path.read_text())
    content["data"][4]["question_id"] = content["data"][1]["question_id"]
    miniature.dump(path, content)
    assert faults(tmp_path, "textvqa") == (
        f"{path}, data[4]: its id '34603' is that of {path}, data[1] too; ids must be unique",
    )


@pytest.mark.parametrize(
    ("name", "layout", "column", "value", "fault"),
    [
        ("ai2d", "tsv", "answer", "E", "index 0: answer 'E' is none of A, B, C, D"),
        ("realworldqa", "tsv", "answer", "C", "index 0: answer 'C' is none of A, B"),
        ("mmmu", "tsv", "answer", "7", "index 1: answer '7' is none of A, B, C, D"),
        ("mathvista", "tsv", "answer", "neither", "answer 'neither' is none of the choices"),
        ("mathvista", "tsv", "answer_type", "number", "answer_type is 'number'; expected one of text, integer"),
        ("docvqa", "tsv", "answer", "", "index 0: answer is ''; expected a text"),
        ("chartqa", "tsv", "question", " ", "index 0: question is ' '; expected a text"),
    ],
)
def test_answers_that_no_response_could_equal(tmp_path, name, layout, column, value, fault):
    [path] = miniature.write(tmp_path, name, layout).glob("*.tsv")
    lines = path.read_text().splitlines()
    header = lines[0].split("\t")
    first = 2 if name == "mmmu" else 1  # the row before is of another split
    cells = lines[first].split("\t")
    cells[header.index(column)] = value
    lines[first] = "\t".join(cells)
    path.write_text("\n".join(lines) + "\n")
    assert any(fault in found for found in faults(tmp_path, name)), faults(tmp_path, name)


def test_validation_questions_need_answers(tmp_path):
    """A split with answers whose column is missing would be scored as if the server had them."""
    for name, layout in (("docvqa", "parquet"), ("vqav2", "parquet")):
        root = miniature.write(tmp_path, name, layout)
        [path] = root.rglob("validation-*.parquet")
        table = miniature.pyarrow.parquet.read_table(path)
        miniature.pyarrow.parquet.write_table(table.drop_columns(["answers"]), path)
        assert len(faults(tmp_path, name)) == miniature.COUNT


def test_a_person_may_have_answered_nothing_but_not_all_of_them(tmp_path):
    root = miniature.write(tmp_path, "vqav2", "json")
    path = root / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["answers"][3]["answer"] = ""
    content["annotations"][1]["answers"] = [{"answer": ""}] * 10
    miniature.dump(path, content)
    [fault] = faults(tmp_path, "vqav2")
    assert fault.startswith(f"{path}, annotations[1]: answers is ")


def test_a_loader_that_stops_at_its_first_fault_is_checked_too(tmp_path):
    def load(data):
        yield ask("a", "?", ("nowhere.png",))
        yield ask("a", "?")
        raise BenchmarkError("file, record 2: is wrong")

    benchmark = registry()["gsm8k"].__class__("mine", "Mine", load, None, 8, rule="exact")
    assert check(benchmark, tmp_path).faults == (
        "mine, question 0: its image nowhere.png is missing",
        "mine, question 1: its id 'a' is that of mine, question 0 too; ids must be unique",
        "file, record 2: is wrong",
    )


def test_many_faults_are_cut_in_messages_and_whole_in_the_file(tmp_path):
    path = miniature.write(tmp_path, "gsm8k", "jsonl") / "grade_school_math/data/test.jsonl"
    path.write_text('{"question": "?", "answer": "It is 4."}\n{"question": \n' * 6)
    checked = check(registry()["gsm8k"], tmp_path)
    assert len(checked.faults) == 12 and checked.reason.count("\n") == 5 and checked.reason.endswith("\n... and 7 more")
    assert checked.brief.endswith("... and 11 more") and "\n" not in checked.brief
    written = write_faults(tmp_path / "out", {"gsm8k": checked})
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert [line["fault"] for line in lines] == list(checked.faults) and lines[0]["benchmark"] == "gsm8k"
    assert write_faults(tmp_path / "out", {}) is None and not written.exists()


def test_one_bad_benchmark_does_not_end_the_others(tmp_path):
    miniature.write(tmp_path, "gsm8k")
    miniature.write(tmp_path, "math500")
    (tmp_path / "math500/test.jsonl").write_text('{"problem": "?"}\n')
    chosen = [registry()[name] for name in ("gsm8k", "math500", "mmlu")]
    plans, faulty = session.checked_plans(chosen, tmp_path)
    assert [plan.benchmark.name for plan in plans] == ["gsm8k"] and list(faulty) == ["math500", "mmlu"]
    assert (faulty["math500"].missing, faulty["mmlu"].missing) == (False, True)
    assert faulty["mmlu"].brief == f"mmlu: no files in {tmp_path}"
    with pytest.raises(BenchmarkError, match=r"line 1: no column answer, subject, unique_id(.|\n)*mmlu: no files in"):
        session.make_plans(chosen, tmp_path)


def test_gsm8ks_answer_is_the_number_behind_the_marks(tmp_path):
    path = tmp_path / "gsm8k/test.jsonl"
    path.parent.mkdir()
    ends = ("#### 1,200", "####7", "#### $-3.50 dollars", "#### 5\nSo she has 5 of 9.")
    path.write_text("".join(json.dumps({"question": "?", "answer": f"Thus.\n{end}"}) + "\n" for end in ends))
    assert [q.answer for q in registry()["gsm8k"].load(tmp_path)] == ["1,200", "7", "-3.50", "5"]
    path.write_text(json.dumps({"question": "?", "answer": "#### seven"}))
    assert faults(tmp_path, "gsm8k") == (f"{path}, row 0: no number behind \"####\", but 'seven'",)


def test_humaneval_must_be_testable(tmp_path):
    root = miniature.write(tmp_path, "humaneval", "jsonl")
    shutil.rmtree(root)
    root.mkdir()
    rows = [miniature.HUMANEVAL[0] | {"entry_point": "other"}, miniature.HUMANEVAL[1] | {"test": "assert True"}]
    (root / "HumanEval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = faults(tmp_path, "humaneval")
    assert "line 1: the prompt does not define 'other'" in found[0]
    assert "line 2: the test does not define 'check'" in found[1]
