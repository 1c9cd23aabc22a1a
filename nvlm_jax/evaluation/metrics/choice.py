"""Multiple choice: a letter out of free text. MMMU (and its open questions), AI2D and MMLU, RealWorldQA.

None of these guess: where a reference evaluator would draw a random option, the answer here is None, which is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from nvlm_jax.evaluation.metrics._checks import check_rule, option_letters
from nvlm_jax.evaluation.metrics.vqa import normalize_vqa_megatron

# ---- MMMU

# Before an answer in a sentence; the last line of a response may also give it after "=".
_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
# A number is tried at its first digit alone: what fails there fails at every later one, and to try them all takes the
# square of the digits.
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234,567
    re.compile(r"-?(?<!\d)\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.2e-3
    re.compile(r"-?(?:(?<!\d)\d+\.\d+|\.\d+|(?<!\d)\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 12 or 1.5 or .5
)


def mmmu_choice(response: str, options: Sequence[str], *, rule: str = "mmmu") -> str | None:
    """The letter that a response to an MMMU multiple-choice question picks, or None.

    Looked for in this order: "(X)"; X between blanks; in a response of more than five words, an option's text without
    case. Of several the one that occurs last. The marks , . ! ? ; : ' are first cut off the ends, in that order.

    Args:
      response: the model's output.
      options: the options' texts, A first.
      rule: whose rule to follow: "mmmu" (MMMU `eval/eval_utils.py`; the default) or "megatron" (Megatron-LM
        `mmmu_utils.py`), which takes "X)" as "(X)".

    Other evaluators: lmms-eval takes "X " and "X." anywhere ("NASA says" picks A). All draw at random, or take the
    first option, where this answers None.

    Raises:
      TypeError: `options` is a string.
      ValueError: there are no options, more than 26, or `rule` is unknown.
    """
    check_rule("mmmu_choice", rule, ("mmmu", "megatron"))
    letters = option_letters("mmmu_choice", options)
    response = " " + _cut_marks(response, ",.!?;:'") + " "
    bracketed = [x for x in letters if f"({x})" in response or (rule == "megatron" and f"{x})" in response)]
    if bracketed:
        return _last(bracketed, response, [f"({x})" for x in bracketed])
    alone = [x for x in letters if f" {x} " in response]
    if alone:
        return _last(alone, response, [f" {x} " for x in alone])
    if len(response.split()) <= 5:
        return None
    response = response.lower()
    texts = {x: text.lower() for x, text in zip(letters, options, strict=True) if text.lower() in response}
    return _last(list(texts), response, texts.values()) if texts else None


def mmmu_open(response: str, answer: str | Sequence[str]) -> bool:
    """Whether a response to an open MMMU question holds the answer, or any of the answers.

    The response's lines are cut to what follows the last cue ("answer ", "is ", ...; the shortest such rest); without
    any cue the response stays whole. A true number must equal, rounded to two decimals, a number found there; a true
    text must be a part of what was found, a single letter with a blank at its side. Source: Megatron-LM
    `mmmu_utils.py`, parse_open_response and eval_open; MMMU's own and lmms-eval's do the same.

    Worth knowing: "definitely not Paris" holds Paris, an empty true answer is part of any text, and "$1,234.56" does
    not hold 1,234.56: the patterns see 1,234 and 234.56.
    """
    accepted = [form for text in ([answer] if isinstance(answer, str) else answer) for form in _open_forms(text)]
    found = _open_candidates(response)
    found += [number for text in found for pattern in _NUMBERS for number in pattern.findall(text)]
    return any(_open_match(given, true) for text in found for given in _open_forms(text) for true in accepted)


def _open_candidates(response: str) -> list[str]:
    """What follows the cues, line by line, or the whole response."""
    response = response.strip().strip(".").lower()
    lines = response.split("\n")
    rests = [_shortest_rest(line, _CUES) for line in lines[:-1]] + [_shortest_rest(lines[-1], (*_CUES, "="))]
    rests = [rest for rest in rests if rest and rest not in set(":,.!?;'")]
    return rests or [response]


def _shortest_rest(line: str, cues: Iterable[str]) -> str:
    """The shortest text after a cue's last occurrence. One cue at the line's very end hides those before it."""
    shortest = ""
    for cue in cues:
        if cue in line:
            rest = line.rpartition(cue)[2].strip()
            if not shortest or len(rest) < len(shortest):
                shortest = rest
    return shortest


def _open_forms(text: str) -> list[str | float]:
    """A number to two decimals, or the text in lower case; a single letter with a blank at either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _open_match(given: str | float, true: str | float) -> bool:
    if isinstance(given, str):
        return isinstance(true, str) and true in given
    return given == true


# ---- any benchmark with options

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_API_FAILURE = "Failed to obtain answer via API"
_MARKS_TO_BLANKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)


def multiple_choice(response: str, options: Sequence[str], *, rule: str = "vlmevalkit") -> str | None:
    """The letter that a response picks, "Z" for a refusal, or None.

    Args:
      response: the model's output.
      options: the options' texts, A first.
      rule: whose rule to follow.
        "vlmevalkit": the only letter that stands as a word, if among the last four words; else the letter after
          "answer is"; else the only option whose text occurs, without case, in a response at most twice as long as
          all options together. Known refusals, and Z as a word with no other letter, give "Z" (VLMEvalKit
          `utils/matching_util.py`, can_infer). The default.
        "lmms-eval": the letter in the most telling place: first, last, after a phrase such as "the answer is", in
          brackets, before a period, colon or bracket, before a blank, anywhere; of equals the last
          (lmms-eval `mcq_extract.py`). It picks one nearly always ("Car" is C) and never gives "Z".

    Raises:
      TypeError: `options` is a string.
      ValueError: there are no options, more than 26, or `rule` is unknown.
    """
    check_rule("multiple_choice", rule, ("vlmevalkit", "lmms-eval"))
    letters = option_letters("multiple_choice", options)
    if rule == "lmms-eval":
        return _most_telling(response, letters)
    return _letter_as_word(response, letters) or _only_option_text(response, letters, options)


def _letter_as_word(response: str, letters: str) -> str | None:
    if _API_FAILURE in response:
        return None
    if any(refusal in response for refusal in _REFUSALS):
        return "Z"
    words = response.translate(_MARKS_TO_BLANKS).split()
    present = [letter for letter in letters if letter in words]
    if len(present) == 1 and words.index(present[0]) >= len(words) - 4:
        return present[0]
    if not present and "Z" in words:
        return "Z"
    named = _ANSWER_IS.search(response)
    return named[1].upper() if named and named[1].upper() in letters else None


def _only_option_text(response: str, letters: str, options: Sequence[str]) -> str | None:
    response = response.lower()
    texts = [str(option) for option in options]
    if len(response) > 2 * sum(map(len, texts)):
        return None
    present = [letter for letter, text in zip(letters, texts, strict=True) if text.lower() in response]
    return present[0] if len(present) == 1 else None


# ---- RealWorldQA

_ANSWER_PHRASES = (
    *(
        f"{the}{what} is"
        for what in (
            "answer", "correct answer", "best answer", "correct option", "best option", "choice", "correct choice"
        )
        for the in ("", "the ")
    ),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)  # fmt: skip
# The places of a letter, the most telling first; a letter anywhere else ranks 0.
_FIRST, _LAST, _PHRASE, _BRACKETS, _PERIOD, _COLON, _BRACKET, _BLANK = range(8, 0, -1)
_AROUND_LETTER = (("(", ")", _BRACKETS), ("", ".", _PERIOD), ("", ":", _COLON), ("", ")", _BRACKET), ("", " ", _BLANK))


def realworldqa(response: str, answer: str, *, rule: str = "lmms-eval") -> bool:
    """Whether a response to a RealWorldQA question is right.

    Args:
      response: the model's output.
      answer: the true answer, a letter or a short text.
      rule: whose rule to follow.
        "lmms-eval": for an answer A to D the letter found as by `multiple_choice(rule="lmms-eval")`; else equality
          without case, outer blanks and last periods (lmms-eval `tasks/realworldqa/utils.py`). The default. It takes
          "Both" for B.
        "megatron": equality after the VQA normalization (Megatron-LM `evaluate_vqav2.py`, the paper's evaluator):
          "two" is "2" and "b)" is "B", no sentence is read, and since it drops the article "a", "" is "A".

    Raises:
      ValueError: `rule` is unknown.
    """
    check_rule("realworldqa", rule, ("lmms-eval", "megatron"))
    if rule == "megatron":
        return normalize_vqa_megatron(response) == normalize_vqa_megatron(answer)
    answer = answer.strip()
    if answer.upper() in ("A", "B", "C", "D"):
        return _most_telling(response, "ABCD") == answer.upper()
    return response.lower().strip().rstrip(".") == answer.lower()


def _most_telling(response: str, letters: str) -> str | None:
    """lmms-eval's extraction: the letter of the highest rank, of equals the one that stands last."""
    stripped = _cut_marks(response.strip(), ",.!?;:'\"")
    text = f" {stripped} "
    found = [
        (rank, text.rfind(left + letter + right), letter)
        for left, right, rank in _AROUND_LETTER
        for letter in letters
        if left + letter + right in text
    ]
    found += _after_phrases(text, letters)
    found += _at_the_ends(text, letters)
    found = found or [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, key=lambda item: item[:2])[2] if response.strip() and found else None


def _after_phrases(text: str, letters: str) -> list[tuple[int, int, str]]:
    lower = text.lower()
    ends = [lower.find(phrase) + len(phrase) for phrase in _ANSWER_PHRASES if phrase in lower]
    places = [(text.find(letter, end), letter) for end in ends for letter in letters]
    return [(_PHRASE, place, letter) for place, letter in places if place != -1]


def _at_the_ends(text: str, letters: str) -> list[tuple[int, int, str]]:
    """A letter as the first or last character, unless it is part of a word."""
    inner = text.strip()
    found = []
    if inner[:1] and inner[0] in letters and not inner[1:2].isalpha():
        found.append((_FIRST, 0, inner[0]))
    if inner[-1:] and inner[-1] in letters and not inner[-2:-1].isalpha():
        found.append((_LAST, len(text) - 1, inner[-1]))
    return found


def _cut_marks(text: str, marks: str) -> str:
    """One mark after the other cut off both ends: ".,B" keeps its period, for the comma's turn came first."""
    for mark in marks:
        text = text.strip(mark)
    return text


def _last(letters: Sequence[str], text: str, patterns: Iterable[str]) -> str:
    """The letter whose pattern occurs last in the text; of equals the first letter."""
    places = [text.rfind(pattern) for pattern in patterns]
    return letters[places.index(max(places))]
