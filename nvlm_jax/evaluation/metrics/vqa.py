"""VQAv2 and TextVQA: soft agreement with ten people's answers, after the VQA challenge's normalization."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nvlm_jax.evaluation.metrics._checks import check_references, check_rule

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = {"a", "an", "the"}
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNTED)}

# Written forms whose misspelling, any one apostrophe left out, is repaired ("dont", "couldnt've", "couldn'tve").
_WITH_APOSTROPHES = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word
    for word in _WITH_APOSTROPHES.split()
    for at, letter in enumerate(word)
    if letter == "'"
}
# The challenge's table has this one entry the wrong way round; scores depend on it.
_CONTRACTIONS["somebody'd"] = "somebodyd"

# Finds "1,000"; the challenge's own script and open-flamingo overlook a run of commas ("1,,000").
_COMMAS = re.compile(r"(?<=\d),+(?=\d)")
_ONE_COMMA = re.compile(r"\d,\d")
_PERIOD_BEFORE_NO_DIGIT = re.compile(r"\.(?!\d)")
# All the evaluators pass re.UNICODE (32) in the place of `count`, so the 33rd period of an answer stays.
_PERIODS_REMOVED = int(re.UNICODE)


def normalize_vqa(text: str, *, comma: re.Pattern = _COMMAS) -> str:
    """An answer in the VQA challenge's normal form: no punctuation, lower case, digits for words, no articles.

    A mark is deleted everywhere when it stands beside a blank somewhere or the answer has a number such as "1,000"
    (`comma` finds it), else it becomes a blank. Periods before anything but a digit go. The words zero to ten and
    "none" become digits, a, an and the are dropped, missing apostrophes restored.
    """
    delete_all = comma.search(text) is not None
    beside_blank = {mark for mark in _PUNCTUATION if f"{mark} " in text or f" {mark}" in text}
    text = text.translate({ord(m): "" if delete_all or m in beside_blank else " " for m in _PUNCTUATION})
    text = _PERIOD_BEFORE_NO_DIGIT.sub("", text, count=_PERIODS_REMOVED)
    words = (_NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalize_vqa_megatron(text: str) -> str:
    """The normal form of open-flamingo's `vqa_metric.py`, which Megatron-LM applies to most of its benchmarks.

    It differs from `normalize_vqa` only for runs of commas between digits ("1,,000").
    """
    return normalize_vqa(text, comma=_ONE_COMMA)


def vqa_accuracy(prediction: str, references: Sequence[str], *, rule: str = "lmms-eval") -> float:
    """VQAv2 accuracy of one answer, in [0, 1].

    Args:
      prediction: the model's answer.
      references: the people's answers, ten in VQAv2.
      rule: whose rule to follow.
        "lmms-eval": min(1, matches / 3) among the other nine answers, averaged over which one is left out, so
          0, .3, .6, .9 or 1 of ten (lmms-eval `tasks/vqav2/utils.py`; Goyal et al. 2017). The default.
        "vqaeval": the challenge's own `vqaEval.py`: the same, but where all references are equal nothing is
          normalized, the prediction neither ("Yes" is wrong when all ten say "yes").
        "megatron": min(1, matches / 3) of all ten (Megatron-LM `evaluate_vqav2.py`, the paper's evaluator).

    Other evaluators: VLMEvalKit keeps the last period of "5."; mmf tokenizes first, as `textvqa_accuracy` does.

    Raises:
      TypeError: `references` is a string.
      ValueError: `references` is empty or `rule` is unknown.
    """
    check_rule("vqa_accuracy", rule, ("lmms-eval", "vqaeval", "megatron"))
    check_references("vqa_accuracy", references)
    if rule == "megatron":
        return _share_of_three(prediction, references)
    prediction, *references = (_one_line(text) for text in (prediction, *references))
    if rule == "lmms-eval":
        prediction, *references = (normalize_vqa(text) for text in (prediction, *references))
    elif len(set(references)) > 1:
        prediction, *references = (normalize_vqa(text, comma=_ONE_COMMA) for text in (prediction, *references))
    return _leave_one_out(prediction, references)


def textvqa_accuracy(prediction: str, references: Sequence[str], *, rule: str = "mmf") -> float:
    """TextVQA accuracy of one answer, in [0, 1].

    Args:
      prediction: the model's answer.
      references: the people's answers, ten in TextVQA.
      rule: whose rule to follow.
        "mmf": as `vqa_accuracy`, but first lower case, "," and "?" dropped and a blank put before "'s"
          (mmf `m4c_evaluators.py`, TextVQAAccuracyEvaluator; lmms-eval `tasks/textvqa/utils.py`). The default.
        "megatron": min(1, matches / 3) of all ten, without those steps (Megatron-LM `evaluate_vqav2.py`).

    Other evaluators: VLMEvalKit and `vqaEval.py` score TextVQA as VQAv2, so there "he's" equals "hes".

    Raises:
      TypeError: `references` is a string.
      ValueError: `references` is empty or `rule` is unknown.
    """
    check_rule("textvqa_accuracy", rule, ("mmf", "megatron"))
    check_references("textvqa_accuracy", references)
    if rule == "megatron":
        return _share_of_three(prediction, references)
    prediction, *references = (normalize_textvqa(text) for text in (prediction, *references))
    return _leave_one_out(prediction, references)


def normalize_textvqa(text: str) -> str:
    """An answer in mmf's normal form: its word tokenizer, then `normalize_vqa`."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalize_vqa(_one_line(text))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _leave_one_out(prediction: str, references: Sequence[str]) -> float:
    """Mean over the left-out reference of min(1, matches among the others / 3)."""
    matches, total = references.count(prediction), len(references)
    without_a_match = min(1.0, (matches - 1) / 3)
    without_another = min(1.0, matches / 3)
    return (matches * without_a_match + (total - matches) * without_another) / total


def _share_of_three(prediction: str, references: Sequence[str]) -> float:
    prediction = normalize_vqa_megatron(prediction)
    return min(1.0, sum(normalize_vqa_megatron(reference) == prediction for reference in references) / 3)
