"""Tokens to text as they come."""

import pytest

from nvlm_jax.generation import text
from nvlm_jax.generation.text import AnswerText
from nvlm_jax.inputs.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer("nvlm_jax/assets/tiny")


def pieces(tokenizer, content: str, stop=(), step: int = 1) -> list[str]:
    ids = tokenizer.encode(content)
    out = AnswerText(tokenizer, stop)
    found = [out.add(ids[i : i + step], last=i + step >= len(ids)) for i in range(0, len(ids), step)]
    assert out.text == "".join(found)
    return found


@pytest.mark.parametrize("step", [1, 3, 100])
def test_the_pieces_are_the_text(tokenizer, step):
    content = "FOX 12 — größer 狐 🦊 end"
    found = pieces(tokenizer, content, step=step)
    assert "".join(found) == content and not any("\ufffd" in piece for piece in found)


@pytest.mark.parametrize("step", [1, 2, 100])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["dog"], "the cat, the "),
        (["t, the", "dog"], "the ca"),
        (["the d", "the dog!"], "the cat, "),
        (["!!!", "!! an"], "the cat, the dog"),
        (["at, ", "cat, the cow", "t, "], "the c"),
        (["owl"], None),
    ],
)
def test_a_stop_string_ends_the_text_before_it(tokenizer, step, stop, expected):
    content = "the cat, the dog!! and more"
    assert "".join(pieces(tokenizer, content, stop, step)) == (content if expected is None else expected)


def test_what_may_become_a_stop_string_is_held_back(tokenizer):
    ids = tokenizer.encode("a stop")
    out = AnswerText(tokenizer, ["stopped"])
    shown = [out.add([i]) for i in ids]
    assert "".join(shown) == "a " and out.add([], last=True) == "stop"


def test_until_sees_a_stop_string_across_tokens(tokenizer):
    ids = tokenizer.encode("the cat sat")
    until = AnswerText(tokenizer, ["t sa"]).until
    assert not until(ids[:2]) and until(ids)


def test_until_begins_anew_where_an_answer_does(tokenizer):
    """As when an answer is chosen again: fewer tokens than it saw before."""
    until = AnswerText(tokenizer, ["t sa"]).until
    ids = tokenizer.encode("the cat sat")
    assert until(ids) and not until(ids[:2]) and until(ids)


def test_long_stop_strings_take_steps_in_proportion(tokenizer, monkeypatch):
    """Of a stop string of 20,000 characters that the answer almost has: at most two comparisons a character."""
    stop = "a" * 20_000 + "b"
    steps = 0
    step = text._Match.step

    class Counting(str):
        def __getitem__(self, place):
            nonlocal steps
            steps += 1
            return super().__getitem__(place)

    def count(match, character):
        match.text = match.text if isinstance(match.text, Counting) else Counting(match.text)
        return step(match, character)

    monkeypatch.setattr(text._Match, "step", count)
    out = AnswerText(tokenizer, [stop])
    ids = tokenizer.encode("a" * 15_000 + "c")
    assert "".join([*(out.add([i]) for i in ids), out.add([], last=True)]) == "a" * 15_000 + "c"
    assert steps <= 4 * 15_001


def test_an_empty_stop_string_is_refused(tokenizer):
    with pytest.raises(ValueError, match="stop: an empty string"):
        AnswerText(tokenizer, ["x", ""])
