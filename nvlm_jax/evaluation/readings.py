"""Answers read out of free text by rules, as an attentive reader would: a number, one of several choices, a list.

    read_number("The area is 12 cm^2 (see step 3).")               -> "12"
    read_choice("So it is not round: no.", ["Yes", "No"])          -> "B"

What is looked at, in this order: what a box holds; what follows "answer is", "answer:" and their like, the last place
that says something; the beginning; the conclusion, which is the last sentence with something to read. Where a model
goes on with questions of its own, only what stands before them counts.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation.metrics import math_extract

# ---- where an answer stands

# A model that was shown solved questions goes on with further ones; so does one that repeats its prompt.
_NEXT_QUESTION = re.compile(
    r"\n[ \t]*(?:\*\*|#+ *)?(?:(?:next )?question|problem|hint|choices|image|user|human|q)(?: ?\d+)?(?:\*\*)? ?[:：]",
    re.IGNORECASE,
)
_CUE = re.compile(
    r"\b(?:answer|option|choice|solution|result)s?(?: letter)?\b\)?(?: (?:to|for|of|from)\b[^.:\n]{0,60}?)?"
    r" ?(?:(?:is|are|would be|will be|should be|must be)\b|[:：=])(?: (?:therefore|thus|so|then|that|indeed)\b)? ?"
    r"|答案 ?(?:是|为|：|:|选)|[故应选]选[择项]? ?[:：]?|#{4} ?",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？；])|\n+")
_MARKUP = (
    (re.compile(r"\\[dt]?frac ?\{ ?(-?[\d.]+) ?\} ?\{ ?([\d.]+) ?\}"), r"\1/\2"),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|operatorname) ?\{([^{}]*)\}"), r" \1"),
    (re.compile(r"\^ ?\{? ?\\circ ?\}?|°|º|˚"), " degrees"),
    (re.compile(r"\\times|×|\\cdot|·"), " x "),
    (re.compile(r"\\approx|≈|≒|＝"), " = "),
    (re.compile(r"\{,\}|(?<=\d)\\,(?=\d)"), ","),
    (re.compile(r"\\[()\[\],;! ]|\\?\$(?=[^\d])|(?<=\d)\$|\*\*|__|`|\\boxed|\\left|\\right"), " "),
    (re.compile(r"[−–—]"), "-"),
    (re.compile(r"[²³]"), "^2"),
)


def own_part(text: str) -> str:
    """The text up to a further question that the model asks itself."""
    text = text.strip()
    further = _NEXT_QUESTION.search(text)
    return text[: further.start()].rstrip() if further else text


def plain(text: str) -> str:
    """The text without the marks of LaTeX and Markdown; fractions of numbers as "1/2"."""
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return re.sub(r"[ \t]+", " ", text).strip()


def _regions(text: str) -> Iterator[str]:
    """The first sentences behind every cue, the last cue first."""
    for cue in reversed(list(_CUE.finditer(text))):
        rest = text[cue.end() :].lstrip(" \n:*\"'")
        if rest:
            yield sentences(rest)[0]


def sentences(text: str) -> list[str]:
    """The sentences of a text."""
    return [part.strip() for part in _SENTENCE.split(text) if part and part.strip()] or [""]


# ---- numbers

_NUMBER = re.compile(
    r"(?<![\w.^/\\])(?<!\^\{)(?<!\^\()(?<!\d,)(?P<sign>(?<![\w)\]])-(?=[\d.$])|(?<==\s)- )?(?:[$€£¥] ?)?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|\.\d+)(?!(?:st|nd|rd|th)\b)"
    r"(?: ?(?:x|\*) ?10 ?\^ ?[{(]?(?P<power>[-+]?\d+)[)}]?|[eE](?P<e>[-+]?\d+)\b)?"
    r"(?: ?/ ?(?P<below>\d+(?:\.\d+)?)\b(?! ?/))?"
)
_LABEL = re.compile(
    r"(?:\b(?:step|figure|fig\.?|part|case|equation|eq\.?|method|question|example|line|row|column|image|note|no\.)s? ?"
    r"|(?:^|\n) ?)[(#]?$",
    re.IGNORECASE,
)
_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)
_SAID = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals?|equal to|gives?|get|got|has|have|had|of|find|makes?|were|leaves?|by|to)|[=:])"
    r"(?: (?:about|approximately|roughly|around|only|exactly|just|now|also|still|then|a total of|equal to|given by))*"
    r" ?[\"'({\[$]*$",
    re.IGNORECASE,
)
_ASIDE = re.compile(r"[,;(]| (?:because|since|as|so|which|where|when|and|but)\b")


def read_number(response: str) -> str | None:
    """The number that a response gives for its answer, in plain digits; None where there is none.

    Units, exponents, thousands' commas and what stands in brackets behind it do not count; "1/2" is 0.5 and
    "3 x 10^2" is 300. The words zero to twenty count where no digits do.
    """
    response = own_part(response)
    box = math_extract(response)
    bold = [b for b in re.findall(r"\*\*([^*\n]{1,40})\*\*", response) if _number_at_start(plain(b))]
    text = plain(response)
    for region in [*([plain(box)] if box else []), *_regions(text)]:
        if found := _first_said(region):
            return found
    if bold:
        return _number_at_start(plain(bold[-1]))
    for sentence in reversed(sentences(text)):
        if found := _concluded(sentence):
            return found
    words = [] if _REFUSED.search(text) else _WORD.findall(text)
    return str(_WORDS.index(words[-1].lower())) if words else None


def _number_at_start(text: str) -> str | None:
    number = _NUMBER.match(text)
    return _value(number) if number and len(text[number.end() :].split()) <= 3 else None


def _first_said(region: str) -> str | None:
    """The number that a text begins to name, behind the sum or the "x =" that leads to it."""
    numbers = _numbers(region)
    if not numbers:
        words = _WORD.match(region)
        return str(_WORDS.index(words[0].lower())) if words else None
    aside = _ASIDE.search(region, numbers[0].end())
    part = region[: aside.start()] if aside else region
    behind = [number for number in numbers if number.start() > part.rfind("=") and number.end() <= len(part)]
    return _value((behind or numbers)[0])


def _concluded(sentence: str) -> str | None:
    """The number that a sentence without a cue comes to."""
    numbers = _numbers(sentence)
    if not numbers:
        return None
    last_equal = sentence.rfind("=")
    behind = [number for number in numbers if number.start() > last_equal >= 0]
    if behind:
        return _value(behind[0])
    said = [n for n in numbers if _SAID.search(sentence[: n.start()])]
    return _value(said[-1] if said else numbers[-1])


def _numbers(text: str) -> list[re.Match[str]]:
    """The numbers of a text that could be an answer: no labels such as "step 2" and no marks of a list's items."""
    numbers = list(_NUMBER.finditer(text))
    return [n for n in numbers if not _is_label(text, n)]


def _is_label(text: str, number: re.Match[str]) -> bool:
    before = text[: number.start()][-24:]
    label = _LABEL.search(before)
    if not label:
        return False
    if label[0].strip(" (#\n"):
        return True
    return re.match(r"[.):] ?(?=[A-Za-z])", text[number.end() :]) is not None


def _value(number: re.Match[str]) -> str:
    digits = number["digits"].replace(",", "")
    power, below = number["power"] or number["e"], number["below"]
    if power or (below and float(below)):
        value = float(digits) * 10.0 ** max(-300, min(300, int(power or 0))) / float(below or 1)
        digits = str(int(value)) if value == int(value) else repr(value)
    return ("-" if number["sign"] else "") + digits


# ---- choices

_LETTER = re.compile(
    r"[\s\"'*({\[]*(?:(?:option|choice|letter|the|is) )*[\s\"'*({\[]*"
    r"(?P<letter>[A-Z])(?P<after>[)\]}.,:;*\"' \n。，、-]|$)"
)
_LONE = re.compile(r"[\s\"'*(\[]*(?:option |choice )?(?P<letter>[A-Z])[)\]*.。\"'\s]*", re.IGNORECASE)
_BRACKETED = re.compile(r"\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice) \(?([A-Z])\b")
_PARTICLES = frozenset(("yes", "no", "none", "all", "both", "a", "i", "neither", "either"))
_ARTICLE = re.compile(r" (?!(?:because|since|as|which|and|is|for|in|with|due)\b)[a-z]")
_DENIAL = re.compile(r"\bnot\b|n't\b|\bno\b|\bneither\b")
_CONTRARIES = (
    ("less|fewer|smaller|lower", "greater|more|larger|higher|bigger"),
    ("above", "below"),
    ("left", "right"),
    ("maximum|highest|most", "minimum|lowest|least"),
    ("even", "odd"),
    ("roughest", "smoothest"),
    ("same|equal", "different|unequal"),
)
_REFUSED = re.compile(
    r"\b(?:cannot|can't|can not|not possible to|impossible to|unable to|not enough|insufficient|does not provide"
    r"|doesn't provide|do not have|don't have|no information|without (?:more|additional|any|further)"
    r"|none of (?:the|these|them)|not (?:provided|listed|among|one of))\b",
    re.IGNORECASE,
)


def read_choice(response: str, choices: Sequence[str], question: str = "") -> str | None:
    """The letter of the choice that a response picks, A for the first, or None.

    A choice is named by its letter or by its text, which has to stand there as words of its own ("No" is not in
    "not"), or, where all choices are numbers, by the number that the response gives. Of yes and no it is also named by
    a statement in the words of the question, or by its contrary.
    """
    letters = string.ascii_uppercase[: len(choices)]
    response = own_part(response)
    texts = [_comparable(choice) for choice in choices]
    if _comparable(response) in texts:
        return letters[texts.index(_comparable(response))]
    box = math_extract(response)
    text = plain(response)
    for region in [*([plain(box)] if box else []), *_regions(text)]:
        if found := _at_start(region, letters, texts) or _named(region, letters, texts):
            return found
    parts = sentences(text)
    if found := _at_start(text, letters, texts):
        return found
    lone = _LONE.fullmatch(parts[-1])
    if lone and lone["letter"] in letters:
        return lone["letter"]
    refused = _REFUSED.search(text) and not any(_REFUSED.search(choice) for choice in texts)
    if refused and _REFUSED.search(parts[-1]):
        return None
    for sentence in reversed(parts):
        if not (refused and _REFUSED.search(sentence)) and (found := _named(sentence, letters, texts)):
            return found
    if refused:
        return None
    return _by_number(response, letters, texts) or _by_statement(parts[-1], question, letters, texts)


def _by_statement(said: str, question: str, letters: str, texts: Sequence[str]) -> str | None:
    """Yes or no, where a statement affirms or denies what the question asks in the same words."""
    if sorted(texts) != ["no", "yes"] or said.endswith("?"):
        return None
    asked = plain(question.rpartition("Question:")[2].partition("Choices:")[0]).lower()
    said = said.lower()
    content = set(re.findall(r"[a-z]{4,}", asked))
    if not content or len(content & set(re.findall(r"[a-z]{4,}", said))) < len(content) / 2:
        return None
    contrary = any(
        re.search(rf"\b(?:{one})\b", asked) and re.search(rf"\b(?:{other})\b", said)
        and not re.search(rf"\b(?:{one})\b", said) for pair in _CONTRARIES for one, other in (pair, pair[::-1])
    )  # fmt: skip
    denied = bool(_DENIAL.search(said)) != bool(_DENIAL.search(asked))
    return letters[texts.index("no" if contrary != denied else "yes")]


def _comparable(text: str) -> str:
    return " ".join(plain(str(text)).lower().strip(" .,;:!?\"'").split())


def _at_start(text: str, letters: str, texts: Sequence[str]) -> str | None:
    """The choice that a text begins with; "A: elm" is an answer that says elm, whichever letter elm has."""
    answer = re.match(r"A(?:nswer)? ?[:：] ?", text)
    said = _text_at_start(text[answer.end() :], letters, texts) if answer else None
    return said or _letter_at_start(text, letters) or _text_at_start(text, letters, texts)


def _letter_at_start(text: str, letters: str) -> str | None:
    found = _LETTER.match(text)
    if not found or found["letter"] not in letters:
        return None
    if found["letter"] in "AI" and found["after"] == " " and _ARTICLE.match(text[found.end() - 1 :]):
        return None  # "A circle": an article
    return found["letter"]


def _text_at_start(text: str, letters: str, texts: Sequence[str]) -> str | None:
    start = _comparable(text[:400])
    pairs = zip(letters, texts, strict=True)
    starts = [(len(text), x) for x, text in pairs if text and re.match(rf"{re.escape(text)}(?!\w|\.\d| or )", start)]
    return max(starts)[1] if starts else None


def _named(sentence: str, letters: str, texts: Sequence[str]) -> str | None:
    """The choice that a sentence names, by a letter in brackets or its text; None where it names several."""
    marked = {a or b for a, b in _BRACKETED.findall(sentence)} & set(letters)
    if len(marked) == 1:
        return marked.pop()
    sentence = _comparable(sentence)
    spans = [
        (found.start(), -len(text), letter)
        for letter, text in zip(letters, texts, strict=True)
        if text and text not in _PARTICLES and len(text) > 1
        for found in re.finditer(rf"(?<![\w.]){re.escape(text)}(?![\w]|\.\d)", sentence)
    ]
    # Of texts within each other ("quarter" in "quarter past") the longer one is meant.
    named: set[str] = set()
    end = -1
    for start, length, letter in sorted(spans):
        if start >= end:
            named.add(letter)
            end = start - length
    return named.pop() if len(named) == 1 else None


def _by_number(response: str, letters: str, texts: Sequence[str]) -> str | None:
    values = [_number_at_start(text) for text in texts]
    given = read_number(response)
    if given is None or None in values:
        return None
    equal = [x for x, value in zip(letters, values, strict=True) if float(value) == float(given)]
    return equal[0] if len(equal) == 1 else None


# ---- texts and lists


def read_text(response: str) -> str | None:
    """The text behind the last "answer is", or else the whole response, without a last period; None if it is empty."""
    response = own_part(response)
    text = next(_regions(plain(response)), response)
    return text.rstrip(".").strip() or None


_LIST = re.compile(r"\[[^\[\]]*\]")


def read_list(response: str) -> str | None:
    """The last list in square brackets, or None."""
    found = _LIST.findall(own_part(response))
    return found[-1] if found else None
