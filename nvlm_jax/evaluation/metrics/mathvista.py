"""MathVista: an extracted answer against the true one (Lu et al. 2024)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nvlm_jax.evaluation.metrics._checks import check_rule, option_letters
from nvlm_jax.evaluation.metrics.anls import edit_distance
from nvlm_jax.evaluation.metrics.choice import mmmu_choice
from nvlm_jax.evaluation.metrics.vqa import normalize_vqa_megatron


def mathvista(
    prediction: str,
    answer: str,
    question_type: str,
    answer_type: str,
    precision: float | None,
    choices: Sequence[str] | None,
    *,
    rule: str = "lmms-eval",
) -> bool:
    """Whether an extracted answer is right.

    Args:
      prediction: the answer as extracted from the model's output.
      answer: the true answer; for "multi_choice" the choice's text.
      question_type: "multi_choice" or "free_form".
      answer_type: "integer", "float", "list" or "text", read for "free_form".
      precision: decimals of a float answer. It must be an int: 1.0, as the published file holds, makes the reference
        fail to round, and the item wrong. Loaders pass int(precision).
      choices: the choices' texts for "multi_choice", else None.
      rule: whose rule to follow.
        "lmms-eval": a choice is the letter in brackets, a bare letter, or the choice with the fewest edits; an integer
          is int(float(x)); a float is rounded; then equality as strings (lmms-eval `mathvista_evals.py`, after
          MathVista's own `calculate_score.py`). The default. Any text counts as some choice.
        "megatron": a choice as `mmmu_choice(rule="megatron")` finds it; else equality after the VQA normalization,
          decimals cut to two (Megatron-LM `evaluate_mathvista.py`, the paper's evaluator). Where that takes the first
          choice for want of any, or fails on an empty text, this is False.

    Other evaluators: VLMEvalKit compares numbers with numbers ("1.2" equals "1.20", nothing rounded) and finds choices
    as `multiple_choice` does.

    Raises:
      ValueError: "multi_choice" without choices, or `rule` is unknown.
    """
    check_rule("mathvista", rule, ("lmms-eval", "megatron"))
    if question_type == "multi_choice":
        letters = option_letters("mathvista", choices or ())
        if rule == "megatron":
            letter = mmmu_choice(prediction, choices, rule="megatron")
            return letter is not None and choices[letters.index(letter)] == answer
        return _nearest_choice(prediction, letters, choices).strip() == answer.strip()
    if rule == "megatron":
        prediction = _after_answer_is(_two_decimals(normalize_vqa_megatron(prediction)))
        return prediction != "" and prediction == _two_decimals(normalize_vqa_megatron(answer))
    return str(_as_type(prediction, answer_type, precision)).strip() == str(answer).strip()


def _nearest_choice(prediction: str, letters: str, choices: Sequence[str]) -> str:
    prediction = prediction.strip()
    bracketed = re.search(r"\(([a-zA-Z])\)", prediction)
    letter = bracketed[1].upper() if bracketed else prediction
    if len(letter) == 1 and letter in letters:
        return choices[letters.index(letter)]
    return min(choices, key=lambda choice: edit_distance(letter, choice))


def _as_type(prediction: str, answer_type: str, precision: float | None) -> str | int | float | None:
    """The prediction as the answer's type, None where it cannot be read as such."""
    try:
        if answer_type == "integer":
            return int(float(prediction))
        if answer_type == "float":
            return round(float(prediction), precision)
    except (ValueError, OverflowError, TypeError):
        return None
    return prediction


def _two_decimals(text: str) -> str:
    """A plain decimal without decimals if these are zeros, else cut to two; "%" and one last period go."""
    decimal = re.fullmatch(r"(\d+)\.(\d+)", text)
    if decimal:
        whole, decimals = decimal.groups()
        text = f"{whole}.{decimals[:2]}" if any(int(digit) for digit in decimals) else whole
    return text.replace("%", "").removesuffix(".")


def _after_answer_is(text: str) -> str:
    """The number after "answer is" where there is one, else the text."""
    number = re.search(r"answer is (-*\d+\.*\d*)", text)
    return number[1] if number and "e+" not in text else text
