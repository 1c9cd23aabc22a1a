"""DocVQA: average normalized Levenshtein similarity (Biten et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from nvlm_jax.evaluation.metrics._checks import check_references, check_rule
from nvlm_jax.evaluation.metrics.vqa import normalize_vqa_megatron

_THRESHOLD = 0.5


def anls(prediction: str, references: Sequence[str], *, rule: str = "lmms-eval") -> float:
    """Similarity of one answer to the nearest reference: 0, or from 0.5 to 1.

    Args:
      prediction: the model's answer.
      references: the accepted answers.
      rule: whose rule to follow.
        "lmms-eval": 1 - edits / longer length, below 0.5 counts 0. Edits are counted in lower case with runs of
          blanks as one; the lengths are those of the raw texts, blanks and all (lmms-eval `api/metrics.py`). The
          default.
        "anls": both lengths after collapsing blanks, and exactly 0.5 counts 0 (PyPI `anls`, and Megatron-LM's
          `anls_score`).
        "megatron": "anls" after the VQA normalization of both sides (Megatron-LM `evaluate_vqav2.py` for DocVQA, the
          paper's evaluator), so "a." equals "a".

    Other evaluators: VLMEvalKit as lmms-eval; mmf keeps inner blanks and cannot score "" against "".

    Raises:
      TypeError: `references` is a string.
      ValueError: `references` is empty or `rule` is unknown.
    """
    check_rule("anls", rule, ("lmms-eval", "anls", "megatron"))
    check_references("anls", references)
    if rule == "lmms-eval":
        similarity = 1 - min(_distance(prediction, reference, raw_length=True) for reference in references)
        return similarity if similarity >= _THRESHOLD else 0.0
    if rule == "megatron":
        prediction, *references = (normalize_vqa_megatron(text) for text in (prediction, *references))
    distance = min(_distance(prediction, reference, raw_length=False) for reference in references)
    return 1 - distance if distance < _THRESHOLD else 0.0


def edit_distance(a: str, b: str) -> int:
    """The fewest insertions, deletions and replacements of code points that turn `a` into `b`."""
    if len(a) < len(b):
        a, b = b, a
    previous = list(range(len(b) + 1))
    for row, letter in enumerate(a, start=1):
        current = [row]
        for column, other in enumerate(b, start=1):
            replaced = previous[column - 1] + (letter != other)
            current.append(min(replaced, previous[column] + 1, current[-1] + 1))
        previous = current
    return previous[-1]


def _distance(prediction: str, reference: str, *, raw_length: bool) -> float:
    """Edits over the longer length; 0 when both are empty."""
    a, b = (" ".join(text.lower().split()) for text in (prediction, reference))
    # Upper case because it can be longer: "ß" counts two letters in every evaluator of this family.
    measured = (prediction, reference) if raw_length else (a, b)
    length = max(len(text.upper()) for text in measured)
    return edit_distance(a, b) / length if length else 0.0
