"""ChartQA: relaxed accuracy (Masry et al. 2022, section 5.1; Methani et al. 2020)."""

from __future__ import annotations

from nvlm_jax.evaluation.metrics._checks import check_rule
from nvlm_jax.evaluation.metrics.vqa import normalize_vqa_megatron


def relaxed_accuracy(prediction: str, answer: str, *, rule: str = "lmms-eval") -> float:
    """1.0 when a number is within 5 % of the answer or a text equals it, else 0.0.

    Args:
      prediction: the model's answer.
      answer: the true answer.
      rule: whose rule to follow.
        "lmms-eval": when both read as numbers ("x%" is x / 100) and the answer is not 0, |p - a| / |a| <= 0.05;
          else equality without case, blanks kept, "Yes " is not "Yes" (lmms-eval `tasks/chartqa/utils.py`). The
          default.
        "megatron": VQA normalization of both sides, "%" cut off, then 0.95 a <= p <= 1.05 a for numbers, else
          equality (Megatron-LM `evaluate_vqav2.py`, the paper's evaluator). So "1,000" equals "1000" and "two" equals
          "2", but also "-5" equals "5".

    Other evaluators: VLMEvalKit strips the prediction and reads an answer that looks like a Python list as several.
    1.05 for 1 is right by the closed interval and wrong by the quotient, which is just over 0.05 in floating point.

    Raises:
      ValueError: `rule` is unknown.
    """
    check_rule("relaxed_accuracy", rule, ("lmms-eval", "megatron"))
    return float(_megatron(prediction, answer) if rule == "megatron" else _lmms_eval(prediction, answer))


def _lmms_eval(prediction: str, answer: str) -> bool:
    value, target = _number(prediction), _number(answer)
    if value is None or not target:
        return prediction.lower() == answer.lower()
    return abs(value - target) / abs(target) <= 0.05


def _megatron(prediction: str, answer: str) -> bool:
    prediction, answer = (normalize_vqa_megatron(text).rstrip("%") for text in (prediction, answer))
    value, target = _float(prediction), _float(answer)
    if value is None or target is None:
        return prediction == answer
    return target * 0.95 <= value <= target * 1.05


def _number(text: str) -> float | None:
    """The text as a number, a percentage as its share, or None. NaN and inf read as such and match nothing."""
    value = _float(text.rstrip("%"))
    return value / 100 if value is not None and text.endswith("%") else value


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
