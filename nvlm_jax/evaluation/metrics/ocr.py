"""OCRBench: a reference must occur in the answer (Liu et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from nvlm_jax.evaluation.metrics._checks import check_references, check_rule

# The one source of OCRBench that is scored with case kept and blanks dropped: handwritten formulas.
_FORMULAS = "HME100k"
# "！" to "～" lie at a fixed distance from "!" to "~"; U+3000 is the blank of the same width.
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}


def ocrbench(prediction: str, references: str | Sequence[str], dataset: str, *, rule: str = "lmms-eval") -> int:
    """1 when any reference is a part of the answer, else 0.

    Args:
      prediction: the model's answer.
      references: the accepted answers, or the only one.
      dataset: the item's source, the benchmark's `dataset` field. For "HME100k" case counts and blanks and newlines
        (not tabs) are dropped; elsewhere case does not count and a newline is a blank.
      rule: whose rule to follow.
        "lmms-eval": full-width ASCII counts as ASCII outside HME100k (lmms-eval `tasks/ocrbench/utils.py`). The
          default.
        "megatron": full-width letters differ, and the score is the number of references that occur, 2 for one item
          where two do (Megatron-LM `evaluate_ocrbench.py`).

    Other evaluators: VLMEvalKit does not fold full-width letters either.

    Raises:
      ValueError: `references` is empty or `rule` is unknown.
    """
    check_rule("ocrbench", rule, ("lmms-eval", "megatron"))
    references = [references] if isinstance(references, str) else references
    check_references("ocrbench", references)
    prediction, *references = (_comparable(text, dataset, rule) for text in (prediction, *references))
    hits = sum(reference in prediction for reference in references)
    return hits if rule == "megatron" else min(1, hits)


def _comparable(text: str, dataset: str, rule: str) -> str:
    if dataset == _FORMULAS:
        return text.strip().replace("\n", "").replace(" ", "")
    if rule == "lmms-eval":
        text = text.translate(_FULL_WIDTH)
    return text.lower().strip().replace("\n", " ")
