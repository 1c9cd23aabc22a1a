"""Tokens to text as they come."""

import pytest

from nvlm_jax.generation.text import AnswerText
from nvlm_jax.inputs.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer("nvlm_jax/assets/tiny")


def pieces(tokenizer, text: str, stop=(), step: int = 1) -> list[str]:
    ids = tokenizer.encode(text)
    out = AnswerText(tokenizer, stop)
    found = [out.add(ids[i : i + step], last=i + step >= len(ids)) for i in range(0, len(ids), step)]
    assert out.text == "".join(found)
    return found


@pytest.mark.parametrize("step", [1, 3, 100])
def test_the_pieces_are_the_text(tokenizer, step):
    text = "FOX 12 — größer 狐 🦊 end"
    found = pieces(tokenizer, text, step=step)
    assert "".join(found) == text and not any("\ufffd" in piece for piece in found)


@pytest.mark.parametrize("step", [1, 2, 100])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [(["dog"], "the cat, the "), (["t, the", "dog"], "the ca"), (["the d", "the dog!"], "the cat, "), (["owl"], None)],
)
def test_a_stop_string_ends_the_text_before_it(tokenizer, step, stop, expected):
    text = "the cat, the dog!! and more"
    assert "".join(pieces(tokenizer, text, stop, step)) == (text if expected is None else expected)


def test_what_may_become_a_stop_string_is_held_back(tokenizer):
    ids = tokenizer.encode("a stop")
    out = AnswerText(tokenizer, ["stopped"])
    shown = [out.add([i]) for i in ids]
    assert "".join(shown) == "a " and out.add([], last=True) == "stop"


def test_until_sees_a_stop_string_across_tokens(tokenizer):
    ids = tokenizer.encode("the cat sat")
    until = AnswerText(tokenizer, ["t sa"]).until
    assert not until(ids[:2]) and until(ids)


def test_an_empty_stop_string_is_refused(tokenizer):
    with pytest.raises(ValueError, match="stop: an empty string"):
        AnswerText(tokenizer, ["x", ""])
