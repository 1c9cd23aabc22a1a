"""Conversations taken apart into single questions."""

import pytest

from nvlm_jax.evaluation.embedded import questions
from nvlm_jax.inputs.batch import Message, Sample


def sample(**changes) -> Sample:
    fields = {
        "id": "qa-1",
        "messages": (
            Message("user", "<image>\nword at [k]?"),
            Message("assistant", "FOX", "word"),
            Message("user", "row 2 of <tile_3>?"),
            Message("assistant", "17", "line"),
        ),
        "images": (b"encoded",),
        "meta": {"types": ["word", "line"], "kinds": ["content", "place"], "answers": ["FOX", "17"]},
    }
    return Sample(**(fields | changes))


def test_each_question_is_asked_alone_about_the_whole_page():
    first, second = questions([sample()])
    assert (first.id, second.id) == ("qa-1/0", "qa-1/1")
    assert first.messages == (Message("user", "<image>\nword at [k]?"),)
    assert second.messages == (Message("user", "<image>\nrow 2 of <tile_3>?"),)
    assert (second.type, second.kind, second.answer, second.sample) == ("line", "place", "17", "qa-1")
    assert first.images == second.images == (b"encoded",)
    assert not any("FOX" in m.content for m in second.messages)


def test_a_text_question_has_no_placeholder():
    [question] = questions(
        [
            Sample(
                "text-1",
                (Message("user", "repeat 42."), Message("assistant", "42", "text")),
                meta={"types": ["text"], "kinds": ["text"], "answers": ["42"]},
            )
        ]
    )
    assert question.text == "repeat 42." and question.images == ()


def test_of_a_dataset_of_ones_own_the_assistants_words_are_the_answers():
    asked = list(questions([sample(meta={"source": "mine"})]))
    said = [m.content for m in sample().messages if m.role == "assistant"]
    assert [question.answer for question in asked] == said and len(said) == 2
    assert [(question.type, question.kind) for question in asked] == [("word", "content"), ("line", "content")]


@pytest.mark.parametrize("meta", [{"types": ["word"]}, {"types": ["word"], "kinds": ["content"], "answers": ["FOX"]}])
def test_a_sample_without_its_facts_is_named(meta):
    with pytest.raises(ValueError, match=r"'qa-1': 2 questions.*one entry of types, kinds and answers"):
        list(questions([sample(meta=meta)]))
