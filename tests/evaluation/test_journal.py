"""Answers outlive a kill, are asked for once, and do not mix with those of another evaluation."""

import pytest

from nvlm_jax.evaluation import journal
from nvlm_jax.evaluation.question import Prediction

WHO = {"checkpoint_hash": "abc", "docvqa": "rule lmms-eval"}


def answer(number: int, view: str = "vision") -> Prediction:
    text = "line\u2028one\ntwo \ud800"
    return Prediction(f"q/{number}", "s", view, "", "content", "what?", ["A"], text, True, "docvqa", 1.0, ids=(1, 2))


def test_what_is_added_is_there_after_a_kill(tmp_path):
    killed = journal.Journal(tmp_path, WHO)
    killed.add([answer(0), answer(1)])
    with (tmp_path / "predictions.jsonl").open("a") as file:
        file.write('{"id": "q/2", "sam')  # what a kill leaves
    with journal.Journal(tmp_path, WHO) as again:
        assert list(again.predictions.values()) == [answer(0), answer(1)]
        assert set(again.done) == {("docvqa", "q/0", "vision"), ("docvqa", "q/1", "vision")}
        again.add([answer(2)])
        keys = [("docvqa", f"q/{i}", "vision") for i in (2, 0)]
        assert again.finish(keys) == [answer(2), answer(0)]
    assert journal.read(tmp_path / "predictions.jsonl") == [answer(2), answer(0), answer(1)]


def test_another_evaluation_is_refused_with_what_differs(tmp_path):
    journal.Journal(tmp_path, WHO).add([answer(0)])
    with pytest.raises(journal.OtherEvaluation, match=r"checkpoint_hash: abc there, xyz now; give another --out"):
        journal.Journal(tmp_path, WHO | {"checkpoint_hash": "xyz"})
    with pytest.raises(journal.OtherEvaluation, match=r"docvqa: rule lmms-eval there, rule megatron now"):
        journal.Journal(tmp_path, WHO | {"docvqa": "rule megatron"})


def test_a_further_benchmark_joins(tmp_path):
    journal.Journal(tmp_path, WHO).add([answer(0)])
    journal.Journal(tmp_path, {"checkpoint_hash": "abc", "mmlu": "rule vlmevalkit"})
    with pytest.raises(journal.OtherEvaluation, match="docvqa"):
        journal.Journal(tmp_path, WHO | {"docvqa": "rule megatron"})


def test_predictions_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "predictions.jsonl").write_text("")
    with pytest.raises(journal.OtherEvaluation, match=r"has predictions\.jsonl and no evaluation\.json"):
        journal.Journal(tmp_path, WHO)


def test_an_answer_that_is_missing_is_no_result(tmp_path):
    with journal.Journal(tmp_path, WHO) as empty:
        assert empty.finish([("docvqa", "q/0", "vision")]) is None


def test_processes_share_one_directory(tmp_path):
    first, second = (journal.Journal(tmp_path, WHO, (i, 2)) for i in range(2))
    keys = [("docvqa", f"q/{i}", "vision") for i in range(2)]
    first.add([answer(0)])
    with (tmp_path / "predictions-1-of-2.jsonl").open("a") as file:
        file.write('{"id": ')  # the other is in the middle of a line
    assert first.finish(keys) is None
    assert (tmp_path / "predictions-1-of-2.jsonl").read_text() == '{"id": '
    second = journal.Journal(tmp_path, WHO, (1, 2))
    second.add([answer(1)])
    assert second.finish(keys) == [answer(0), answer(1)] == first.finish(keys)
    assert journal.read(tmp_path / "predictions.jsonl") == [answer(0), answer(1)]
    assert set(journal.Journal(tmp_path, WHO).done) == set(keys)
