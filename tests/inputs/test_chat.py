import pickle

import pytest

from nvlm_jax.inputs.batch import Message, Sample
from nvlm_jax.inputs.chat import Piece, render, turns
from nvlm_jax.inputs.errors import BadSample

END = "<|im_end|>"


def messages(*pairs):
    return [Message(role, content, "g" if role == "assistant" else "") for role, content in pairs]


def pieces(conversation, template="chatml", system="", prompt=False):
    rendered = render(turns("s", conversation, template, prompt), template, system, END, prompt)
    return [list(turn) for turn in rendered]


def start(role):
    return [Piece("special", "<|im_start|>"), Piece("text", role + "\n")]


STOP = [Piece("special", END), Piece("text", "\n")]
TRAINED_STOP = [Piece("special", END, -1, True, "g"), Piece("text", "\n")]


def test_chatml_turns_by_hand():
    talk = messages(("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d"))
    first = [*start("user"), Piece("text", "a?"), *STOP, *start("assistant"), Piece("text", "b", -1, True, "g")]
    second = [*start("user"), Piece("text", "c?"), *STOP, *start("assistant"), Piece("text", "d", -1, True, "g")]
    assert pieces(talk) == [first + TRAINED_STOP, second + TRAINED_STOP]
    system = [*start("system"), Piece("text", "Be good."), *STOP]
    assert pieces(talk, system="Be good.") == [system + first + TRAINED_STOP, second + TRAINED_STOP]


def test_a_system_message_of_the_conversation_replaces_the_default():
    talk = messages(("system", "Mine."), ("user", "a?"), ("assistant", "b"))
    assert pieces(talk, system="Default.")[0][:4] == [*start("system"), Piece("text", "Mine."), STOP[0]]
    assert pieces(talk, system="Default.") == pieces(talk)


def test_plain_by_hand():
    talk = messages(("user", "<image>\na?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d"))
    end = Piece("special", END, -1, True, "g")
    assert pieces(talk, "plain", "Default.") == [
        [
            *(Piece("text", "<Image>"), Piece("image", image=0), Piece("text", "</Image>\na?")),
            *(Piece("text", "b", -1, True, "g"), end),
        ],
        [Piece("text", "c?"), Piece("text", "d", -1, True, "g"), end],
    ]


def test_images_stand_where_their_placeholders_stand_and_are_numbered_through():
    talk = messages(
        ("user", "see <image> and <image>!"), ("assistant", "no <image> here"), ("user", "<image>"), ("assistant", "d")
    )
    first, second = pieces(talk)
    assert first[2:7] == [
        *(Piece("text", "see <Image>"), Piece("image", image=0), Piece("text", "</Image> and <Image>")),
        *(Piece("image", image=1), Piece("text", "</Image>!")),
    ]
    assert Piece("text", "no <image> here", -1, True, "g") in first
    assert second[2:5] == [Piece("text", "<Image>"), Piece("image", image=2), Piece("text", "</Image>")]


def test_a_prompt_ends_where_the_answer_begins():
    talk = messages(("user", "a?"), ("assistant", "b"), ("user", "c?"))
    assert pieces(talk, prompt=True)[-1] == [*start("user"), Piece("text", "c?"), *STOP, *start("assistant")]
    assert pieces(talk, "plain", prompt=True)[-1] == [Piece("text", "c?")]


@pytest.mark.parametrize(
    ("talk", "template", "reason", "text"),
    [
        ([("user", "a"), ("robot", "b")], "chatml", "bad_role", "message 1: role 'robot'; .* takes user and assistant"),
        ([("user", "a"), ("system", "b"), ("assistant", "c")], "chatml", "bad_role", "system for the first message"),
        ([("system", "a"), ("user", "b"), ("assistant", "c")], "plain", "bad_role", "role 'system'"),
        ([("user", " \n"), ("assistant", "b")], "chatml", "empty_text", "message 0: the user's text is empty"),
        ([("user", "a"), ("assistant", "")], "chatml", "empty_answer", "message 1: the assistant's text is empty"),
        ([("user", "a")], "chatml", "no_answer", "ends in no answer; the last role is user"),
        ([], "plain", "no_answer", "the last role is none"),
    ],
)
def test_bad_conversations(talk, template, reason, text):
    with pytest.raises(BadSample, match=f"sample 's'.*{text}") as caught:
        pieces(messages(*talk), template)
    assert caught.value.reason == reason
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.reason, str(again)) == (BadSample, reason, str(caught.value))


def test_a_prompt_must_end_in_a_question():
    with pytest.raises(BadSample, match="a prompt ends in a user's message; the last role is assistant"):
        pieces(messages(("user", "a"), ("assistant", "b")), prompt=True)


TALK = [Message("user", "1+1?"), Message("assistant", "3", trained=False), Message("user", "Sure?"),
        Message("assistant", "2")]  # fmt: skip


@pytest.mark.parametrize("template", ["chatml", "plain"])
def test_an_answer_that_is_history_is_read_without_loss(builder, template):
    build = builder("d", template=template, system="")
    example = build.build(Sample("s", tuple(TALK)))
    carried = build.tokenizer.decode(example.targets[example.loss_weights > 0], skip_special=False)
    assert carried == "2<|im_end|>"
    assert "3<|im_end|>" in build.tokenizer.decode(example.tokens, skip_special=False)


def test_a_conversation_cut_before_its_first_trained_answer_is_too_long(builder):
    build = builder("d")
    whole = len(build.build(Sample("s", tuple(TALK))).tokens)
    with pytest.raises(BadSample) as caught:
        build.build(Sample("s", tuple(TALK)), max_tokens=whole - 1)
    assert caught.value.reason == "too_long"
    with pytest.raises(BadSample) as caught:
        build.build(Sample("s", tuple(TALK[:2])))
    assert caught.value.reason == "not_trained"
