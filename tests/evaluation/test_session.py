"""An evaluation from files to files with a stand-in for the model: killed anywhere, it goes on, nothing twice."""

import collections
import itertools
import json
import pathlib

import pytest

from nvlm_jax.evaluation import compare, report, results, runner, session
from nvlm_jax.evaluation.benchmarks import registry
from nvlm_jax.evaluation.files import BenchmarkError
from nvlm_jax.evaluation.journal import OtherEvaluation
from nvlm_jax.generation.request import Answer
from tests.evaluation.benchmarks import miniature
from tests.evaluation.test_runner import make_builder

NAMES = ("docvqa", "chartqa", "gsm8k", "mmlu", "docvqa_test")


class Stopped(Exception):
    """A kill, as far as files are concerned."""


class Subject:
    """What `session` reads of a restored model."""

    name, arch, step, workdir, hash, model, end_ids = "test-x", "x", 7, None, "0123abcd", None, ()

    def __init__(self):
        self.params = {"decoder": 1000}
        self.builder = make_builder()


class Model:
    """Answers with `say`, one batch after the other; `stop` counts batches until it is killed."""

    def __init__(self, monkeypatch, subject, say="FOX", stop=10**9):
        asked = self.asked = collections.Counter()
        tokenizer = subject.builder.tokenizer
        left = [stop]

        class StandIn:
            def __init__(self, model, vocab_size, end_ids, slots, tag_tokens):
                self.slots = slots

            def answers(self, requests):
                numbered = enumerate(requests)
                while batch := list(itertools.islice(numbered, self.slots)):
                    left[0] -= 1
                    if left[0] < 0:
                        raise Stopped
                    for _, request in batch:
                        example = request.example
                        asked[tokenizer.decode(example.tokens.tolist()), example.tiles.tobytes()] += 1
                    yield [(i, self.answer(request.max_new_tokens)) for i, request in batch]

            def answer(self, limit):
                ids = tokenizer.encode(say)[:limit]
                return Answer(ids, "length" if len(ids) == limit else "stop", [])

        monkeypatch.setattr(runner, "Engine", StandIn)


@pytest.fixture
def subject() -> Subject:
    return Subject()


@pytest.fixture
def data(tmp_path) -> pathlib.Path:
    for name in NAMES:
        if name != "docvqa_test":
            miniature.write(tmp_path / "data", name)
    miniature.docvqa_parquet(tmp_path / "data/docvqa", "test")
    return tmp_path / "data"


def evaluate(out, subject, data, names=NAMES, share=(0, 1), **options) -> dict:
    plans, missing = session.make_plans([registry()[name] for name in names], data, **options)
    return session.evaluate(out, subject, plans, session.Settings("runs/x", batch_size=2, share=share), missing)


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_a_killed_evaluation_goes_on_and_asks_nothing_twice(tmp_path, monkeypatch, subject, data, stop):
    whole = Model(monkeypatch, subject)
    expected = evaluate(tmp_path / "whole", subject, data)
    first = Model(monkeypatch, subject, stop=stop)
    with pytest.raises(Stopped):
        evaluate(tmp_path / "out", subject, data)
    assert not (tmp_path / "out" / "results.json").exists()
    second = Model(monkeypatch, subject)
    summary = evaluate(tmp_path / "out", subject, data)
    assert first.asked + second.asked == whole.asked
    for name, entry in summary["scores"].items():
        timeless = {key: value for key, value in entry.items() if "second" not in key}
        assert timeless == {k: v for k, v in expected["scores"][name].items() if "second" not in k}
    ours, theirs = (results.read(tmp_path / name)[1] for name in ("out", "whole"))
    assert [(p.benchmark, p.id, p.output, p.score) for p in ours] == [
        (p.benchmark, p.id, p.output, p.score) for p in theirs
    ]
    third = Model(monkeypatch, subject)
    evaluate(tmp_path / "out", subject, data)
    assert not third.asked


def test_processes_share_the_questions(tmp_path, monkeypatch, subject, data):
    whole = Model(monkeypatch, subject)
    expected = evaluate(tmp_path / "whole", subject, data)
    shares = []
    for i in (1, 0, 2):
        shares.append(Model(monkeypatch, subject).asked)
        summary = evaluate(tmp_path / "out", subject, data, share=(i, 3))
        assert (summary is None) == (i != 2) == (not (tmp_path / "out" / "results.json").exists())
    assert sum(shares, start=type(shares[0])()) == whole.asked and all(shares)
    for name, entry in summary["scores"].items():
        assert entry["interval"] == expected["scores"][name]["interval"]
        assert entry["prompt_hash"] == expected["scores"][name]["prompt_hash"]


def test_results_say_everything_that_a_table_needs(tmp_path, monkeypatch, subject, data):
    Model(monkeypatch, subject)
    summary = evaluate(tmp_path / "out", subject, data)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == summary
    assert (summary["arch"], summary["step"], summary["checkpoint_hash"]) == ("x", 7, "0123abcd")
    assert summary["scores"]["docvqa"]["paper"] == {"NVLM-X-72B": 82.9, "NVLM-X-34B": 79.2}
    assert summary["scores"]["gsm8k"]["unparsed"] == 3 and summary["scores"]["chartqa"]["items"] == 12
    assert set(summary["scores"]["chartqa"]["parts"]) == {"human", "augmented"}
    assert "accuracy" not in summary and summary["versions"]["python"]
    submission = json.loads((tmp_path / "out" / "docvqa_test_submission.json").read_text())
    assert submission[0] == {"questionId": 1000, "answer": "FOX"} and len(submission) == miniature.COUNT


def test_a_larger_limit_asks_only_what_is_new(tmp_path, monkeypatch, subject, data):
    small = Model(monkeypatch, subject)
    assert evaluate(tmp_path, subject, data, ("gsm8k",), limit=2)["scores"]["gsm8k"]["items"] == 2
    more = Model(monkeypatch, subject)
    assert evaluate(tmp_path, subject, data, ("gsm8k", "mmlu"))["scores"]["gsm8k"]["items"] == 3
    assert sum(small.asked.values()) == 2 and sum(more.asked.values()) == 1 + 6
    again = Model(monkeypatch, subject)
    assert evaluate(tmp_path, subject, data, ("gsm8k",), limit=2)["scores"]["gsm8k"]["items"] == 2
    assert not again.asked and len(results.read(tmp_path)[1]) == 9


def test_another_checkpoint_or_rule_is_refused(tmp_path, monkeypatch, subject, data):
    Model(monkeypatch, subject)
    evaluate(tmp_path, subject, data, ("docvqa",))
    with pytest.raises(OtherEvaluation, match="docvqa: rule lmms-eval, at most 64 tokens there, rule megatron"):
        evaluate(tmp_path, subject, data, ("docvqa",), rules="paper")
    subject.hash = "other"
    with pytest.raises(OtherEvaluation, match="checkpoint_hash: 0123abcd there, other now"):
        evaluate(tmp_path, subject, data, ("docvqa",))


def test_changed_prompts_are_refused(tmp_path, monkeypatch, subject, data):
    Model(monkeypatch, subject)
    evaluate(tmp_path / "out", subject, data, ("gsm8k",))
    path = data / "gsm8k/main/test-00000-of-00001.parquet"
    miniature.parquet(path, [row | {"question": row["question"] + "?"} for row in miniature.GSM8K])
    with pytest.raises(runner.PromptsChanged, match="question '0' of gsm8k was asked in other words before"):
        evaluate(tmp_path / "out", subject, data, ("gsm8k",))


def test_all_takes_what_is_there_and_names_the_rest(data, tmp_path):
    plans, missing = session.make_plans(list(registry().values()), data, skip_missing=True)
    assert {plan.benchmark.name for plan in plans} == set(NAMES)
    assert "textvqa: no files in" in missing["textvqa"]
    with pytest.raises(BenchmarkError, match="no benchmark can be read"):
        session.make_plans(list(registry().values()), tmp_path / "nowhere", skip_missing=True)
    with pytest.raises(BenchmarkError, match="textvqa: no files in"):
        session.make_plans([registry()["textvqa"]], data)


def test_the_papers_rule_scores_vqa_as_the_paper_does(tmp_path, monkeypatch, subject):
    root = miniature.write(tmp_path / "data", "vqav2", "json")
    path = root / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        for number, answer in enumerate(annotation["answers"]):
            answer["answer"] = "fox" if number < 3 else "owl"
    path.write_text(json.dumps(content))
    Model(monkeypatch, subject)
    own = evaluate(tmp_path / "own", subject, tmp_path / "data", ("vqav2",))
    paper = evaluate(tmp_path / "paper", subject, tmp_path / "data", ("vqav2",), rules="paper")
    assert own["scores"]["vqav2"]["score"] == 90.0 and paper["scores"]["vqav2"]["score"] == 100.0
    with pytest.raises(compare.NotComparable, match="vqav2: scored by rule 'lmms-eval' in one and 'megatron'"):
        compare.compare(tmp_path / "own", tmp_path / "paper")


def test_two_runs_are_compared_on_the_same_questions(tmp_path, monkeypatch, subject, data):
    names = ("gsm8k", "mmlu", "chartqa")
    Model(monkeypatch, subject, say="B")
    evaluate(tmp_path / "a", subject, data, names)
    Model(monkeypatch, subject, say="7")
    evaluate(tmp_path / "b", subject, data, names, limit=5)
    found = {c.benchmark: c.paired for c in compare.compare(tmp_path / "a", tmp_path / "b")}
    assert list(found) == list(names) and found["mmlu"].items == 5 and found["mmlu"].difference == -1.0
    assert found["mmlu"].test == "McNemar" and found["mmlu"].p_value == pytest.approx(2 / 2**5)
    assert found["gsm8k"].only_second == 1
    with pytest.raises(compare.NotComparable, match="no scored question in common: gsm8k, mmlu, chartqa there"):
        evaluate(tmp_path / "c", subject, data, ("docvqa_test",))
        compare.compare(tmp_path / "a", tmp_path / "c")

    runs = [report.load_run(tmp_path / name, name) for name in "ab"]
    report.write_report(tmp_path / "report.html", runs, "a and b", compare.compare(tmp_path / "a", tmp_path / "b"))
    page = (tmp_path / "report.html").read_text()
    assert 'id="comparison"' in page and "-100.0" in page and "paper: NVLM-X-72B" in page and "<script" not in page
    assert page.count('class="example is-right') >= 4 and page.count("is-unparsed") >= 3
    assert "data:image/jpeg;base64," in page and "Embedded pages" not in page
