"""MATH and GSM8K: what counts as the answer of a worked solution, and when two answers are the same."""

from __future__ import annotations

import re

from nvlm_jax.evaluation.metrics._checks import check_rule

# ---- MATH (Hendrycks et al. 2021)

_RATIO_OF_INTEGERS = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")
# In this order: what an earlier one leaves can make a later one apply ("\\!" loses "\!" first).
_REPLACEMENTS = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)


class _MalformedError(ValueError):
    """An expression that the normal form is not defined for."""


def math_equivalent(prediction: str | None, answer: str | None) -> bool:
    """Whether two LaTeX answers are the same once written alike.

    Blanks, sizes (left, right, dfrac), degrees, percent and escaped dollar signs and a unit after "\\text{ " go; "x ="
    in front goes; "1/2", "0.5" and "\\frac12" become "\\frac{1}{2}", "\\sqrt2" becomes "\\sqrt{2}", ".5" becomes "0.5".
    Where either cannot be rewritten (it ends in "\\frac", say) the raw texts must be equal. Nothing is calculated:
    "0.25" is not "1/4", and "-1/2" is not "-\\frac{1}{2}". Source: hendrycks/math `modeling/math_equivalence.py`,
    is_equiv; lm-eval `hendrycks_math/utils.py` agrees.

    Args:
      prediction: the extracted answer, or None where nothing was extracted.
      answer: the true answer.
    """
    if prediction is None or answer is None:
        return prediction is answer
    try:
        return _math_normal_form(prediction) == _math_normal_form(answer)
    except _MalformedError:
        return prediction == answer


def math_extract(prediction: str, *, rule: str = "hendrycks") -> str | None:
    """What the last \\boxed{...} of a solution holds, or None.

    Args:
      prediction: the model's output.
      rule: whose rule to follow.
        "hendrycks": None without a box, for one that is never closed, and for \\fbox (hendrycks/math `dataset/util.py`,
          last_boxed_only_string, and `eval_math_gpt.py`, remove_boxed). Braces are counted escaped or not. The default.
        "lm-eval": the same, but after the last "\\boxed " (with a blank) the text up to the next "$" (lm-eval
          `hendrycks_math/utils.py`).

    Raises:
      ValueError: `rule` is unknown.
    """
    check_rule("math_extract", rule, ("hendrycks", "lm-eval"))
    if rule == "lm-eval" and "\\boxed " in prediction:
        return prediction.rpartition("\\boxed ")[2].partition("$")[0]
    _, box, rest = prediction.rpartition("\\boxed")
    if not box or not rest.startswith("{"):
        return None
    depth = 0
    for at, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[1:at]
    return None


def _math_normal_form(text: str) -> str:
    for old, new in _REPLACEMENTS:
        text = text.replace(old, new)
    text = _without_unit(text).replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = "0" + text
    name, equals, value = text.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        text = value
    text = _brace_fractions(_brace_roots(text).replace(" ", ""))
    if text == "0.5":
        return "\\frac{1}{2}"
    ratio = _RATIO_OF_INTEGERS.fullmatch(text)
    return f"\\frac{{{ratio[1]}}}{{{ratio[2]}}}" if ratio else text


def _without_unit(text: str) -> str:
    before, *units = text.split("\\text{ ")
    if len(units) > 1:
        raise _MalformedError("two units")
    return before


def _brace_roots(text: str) -> str:
    """Braces around the one character that follows a root, where there are none."""
    before, *rests = text.split("\\sqrt")
    if "" in rests:
        raise _MalformedError("a root of nothing")
    return before + "".join("\\sqrt" + (rest if rest[0] == "{" else f"{{{rest[0]}}}{rest[1:]}") for rest in rests)


def _brace_fractions(text: str) -> str:
    """Braces around a fraction's two one-character parts, where there are none."""
    before, *rests = text.split("\\frac")
    done = before
    for rest in rests:
        if not rest:
            raise _MalformedError("a fraction of nothing")
        if rest[0] == "{":
            done += "\\frac" + rest
        elif len(rest) == 1:
            return text
        else:
            below = rest[1:] if rest[1] == "{" else f"{{{rest[1]}}}{rest[2:]}"
            done += f"\\frac{{{rest[0]}}}{below}"
    return done


# ---- GSM8K (Cobbe et al. 2021)

_NUMBER_LIKE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_AFTER_HASHES = re.compile(r"#### (-?[0-9.,]+)")


def gsm8k(response: str, answer: str, *, rule: str = "flexible-extract") -> bool:
    """Whether the number that `gsm8k_extract` finds in the response equals the answer, as text.

    Both sides lose commas, "$", everything up to the last "#### " and one last period; "42.0" is not "42".

    Args:
      response: the model's output.
      answer: the true answer, alone or as the data set's worked solution that ends in "#### 42".
      rule: which extraction, see `gsm8k_extract`.

    Raises:
      ValueError: `rule` is unknown.
    """
    given = gsm8k_extract(response, rule=rule)
    return given is not None and _gsm8k_bare(given) == _gsm8k_bare(answer)


def gsm8k_extract(response: str, *, rule: str = "flexible-extract") -> str | None:
    """The number-like text that counts as a response's answer, raw, or None.

    Args:
      response: the model's output.
      rule: whose rule to follow.
        "flexible-extract": the last run of digits, "$", "." and "," (two at least) or of digits alone; a minus sign in
          front belongs to it (lm-eval and lmms-eval `gsm8k.yaml`). The default.
        "strict-match": the number after the first "#### " (the same file).

    Raises:
      ValueError: `rule` is unknown.
    """
    check_rule("gsm8k", rule, ("flexible-extract", "strict-match"))
    found = (_NUMBER_LIKE if rule == "flexible-extract" else _AFTER_HASHES).findall(response)
    if not found:
        return None
    return found[-1] if rule == "flexible-extract" else found[0]


def _gsm8k_bare(text: str) -> str:
    text = text.replace(",", "").replace("$", "").rpartition("#### ")[2]
    return re.sub(r"\.$", "", text).lower()
