"""Conversations with content parts, system texts and turns that are not trained on: obeyed, or refused by name."""

import base64
import pathlib
import shutil

import pytest

from data_pipelines.raw.entry import Spec
from tests.data_pipelines.raw_files import made, picture, put, rejected, texts

CASES = pathlib.Path(__file__).parents[2] / "goldens" / "chat_parts"
SPEC = Spec("set", "json_conversations", task="chat")
NAN = float("nan")
PNG, OTHER = picture(), picture(50)


def uri(data=PNG):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def asked(*parts, answer="red", **record):
    return {"messages": [{"role": "user", "content": [*parts]}, {"role": "assistant", "content": answer}], **record}


def text(value="Colour?"):
    return {"type": "text", "text": value}


SOUND = {"messages": asked("Sound?")["messages"], "question": "Sound?", "answer": "Yes",
         "texts": [{"user": "Sound?", "assistant": "Yes"}]}  # fmt: skip


def one(tmp_path, record, spec=SPEC, file="t.jsonl", **files):
    """What becomes of the record: its sample, or the reason and message of its rejection. A sound one follows it."""
    root = put(tmp_path / "raw", {"page.png": PNG, "b.png": OTHER, file: [record, SOUND], **files})
    samples, report = made(tmp_path, spec, root)
    if len(samples) == 2:
        return samples[0]
    ((reason, held),) = report["rejected"].items()
    return reason, held["examples"][0]["message"]


def test_the_publishers_forms_in_one_file(tmp_path):
    shutil.copytree(CASES, tmp_path / "raw")
    samples, report = made(tmp_path, SPEC, tmp_path / "raw")
    page = (CASES / "page.png").read_bytes()
    assert not report["rejected"] and [texts(sample) for sample in samples] == [
        ["What is 2 + 2?", "4"],
        ["<image>\nColour?", "red"],
        ["<image>\nColour?", "red"],
        ["Answer in French.", "Two?", "deux"],
        ["1+1?", "3", "Sure?", "2"],
    ]
    assert [sample.images for sample in samples] == [(), (page,), (page,), (), ()]
    assert samples[3].messages[0].role == "system"
    assert [m.trained for m in samples[4].messages] == [True, False, True, True]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": uri(), "detail": "high"}},
        {"type": "image_url", "image_url": uri()},
        {"type": "image_url", "image_url": "page.png"},
        {"type": "input_image", "image_url": uri()},
        {"type": "image", "image": "page.png"},
        {"type": "image", "image": uri()},
        {"type": "image", "image": {"path": "page.png", "bytes": None}},
        {"type": "image", "path": "./page.png"},
        {"type": "image", "url": "page.png"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": uri().split(",")[1]}},
        {"image": "page.png"},
        {"image_url": {"url": "page.png"}, "type": None},
    ],
    ids=str,
)
def test_every_way_to_name_an_image(tmp_path, part):
    sample = one(tmp_path, asked(part, text()))
    assert sample.images == (PNG,) and texts(sample) == ["<image>\nColour?", "red"]


@pytest.mark.parametrize("kind", ["text", "input_text"])
def test_texts_and_images_keep_their_order(tmp_path, kind):
    parts = [{"type": kind, "text": "A"}, {"type": "image"}, {"type": kind, "text": "B"}, {"type": "image"}]
    sample = one(tmp_path, asked(*parts, images=["page.png", "b.png"]))
    assert texts(sample)[0] == "A\n<image>\nB\n<image>" and sample.images == (PNG, OTHER)


def test_an_index_names_an_image_of_the_record(tmp_path):
    parts = [{"type": "image", "index": 1, "text": None}, {"type": "image", "index": 0}, text()]
    assert one(tmp_path, asked(*parts, images=["page.png", "b.png"])).images == (OTHER, PNG)


def test_a_column_that_repeats_the_parts_counts_once(tmp_path):
    sample = one(tmp_path, asked({"type": "image", "image": "page.png"}, text(), images=["page.png"]))
    assert sample.images == (PNG,)


def test_images_over_several_turns(tmp_path):
    record = asked({"type": "image"}, text("1?"), images=["page.png", "b.png"])
    record["messages"] += [
        {"role": "user", "content": [{"type": "image"}, "2?"]},
        {"role": "assistant", "content": "x"},
    ]
    sample = one(tmp_path, record)
    assert texts(sample) == ["<image>\n1?", "red", "<image>\n2?", "x"] and sample.images == (PNG, OTHER)


def test_where_parts_place_images_the_word_in_a_text_is_text(tmp_path):
    sample = one(tmp_path, asked({"type": "image", "image": "page.png"}, text("What is <image> in HTML?")))
    assert sample.images == (PNG,) and texts(sample)[0] == "<image>\nWhat is < image > in HTML?"


def test_placeholders_in_texts_take_the_images_column(tmp_path):
    record = {"conversations": [{"from": "human", "value": "<image>Colour?"}, {"from": "gpt", "value": "red"}],
              "images": ["page.png"]}  # fmt: skip
    assert texts(one(tmp_path, record)) == ["<image>Colour?", "red"]


@pytest.mark.parametrize(
    ("record", "reason", "words"),
    [
        (asked({"type": "image"}, text()), "extra_placeholder", "the record has 0 images"),
        (asked({"type": "image", "index": 2}, text(), images=["page.png"]), "extra_placeholder", "image 2"),
        (asked(text(), {"type": "image"}, images=["page.png", "b.png"]), "missing_placeholder", "'b.png'"),
        (asked({"type": "input_audio", "input_audio": {}}, text()), "unsupported_part", "'input_audio'"),
        (asked({"type": "video", "video": "a.mp4"}, text()), "unsupported_part", "'video'"),
        (asked({"type": "input_image", "file_id": "f-1"}, text()), "unsupported_part", "'file_id'"),
        (asked({"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}), "remote_image", "https://x.org"),
        (asked({"type": "image", "image": "data:image/png;base64,!!"}), "bad_data_uri", "no base64"),
        (asked({"type": "image", "image": "data:image/png"}), "bad_data_uri", "no comma"),
        (asked(text(), answer=[{"type": "image", "image": "page.png"}]), "unsupported_part", "the assistant's turn"),
        (asked(text(), answer=None), "missing_field", "turn 1 has no text"),
        (asked(text(), tools=[{"name": "f"}]), "unsupported_field", "'tools'"),
        (asked(text(), videos=["a.mp4"]), "unsupported_field", "'videos'"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named(tmp_path, record, reason, words):
    got, message = one(tmp_path, record)
    assert got == reason and words in message


@pytest.mark.parametrize("role", ["tool", "function", "observation", "function_call", "narrator", 3])
def test_other_roles_are_named(tmp_path, role):
    record = asked(text())
    record["messages"].insert(1, {"role": role, "content": "{}"})
    got, message = one(tmp_path, record)
    assert got == "bad_role" and repr(role) in message


@pytest.mark.parametrize("pair", [("Human", "GPT"), ("User", "Assistant"), ("user", "model"), ("human", "gpt")])
def test_roles_of_many_makers(tmp_path, pair):
    record = {"conversations": [{"from": pair[0], "value": "Hi"}, {"from": pair[1], "value": "Ho"}]}
    assert [m.role for m in one(tmp_path, record).messages] == ["user", "assistant"]


@pytest.mark.parametrize("key", ["system", "system_prompt"])
@pytest.mark.parametrize("layout", ["json_conversations", "json_columns", "json_pairs"])
def test_a_record_brings_its_system_text(tmp_path, key, layout):
    record = {"question": "Two?", "answer": "deux", "texts": [{"user": "Two?", "assistant": "deux"}],
              "messages": asked("Two?", answer="deux")["messages"], key: "French."}  # fmt: skip
    sample = one(tmp_path, record, Spec("set", layout))
    assert [(m.role, m.content) for m in sample.messages] == [
        ("system", "French."), ("user", "Two?"), ("assistant", "deux")]  # fmt: skip


def test_empty_and_equal_system_texts_do_no_harm_and_two_are_refused(tmp_path):
    def record(turn, own):
        turns = [{"from": "system", "value": turn}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
        return {"system": own, "conversations": turns}

    cases = [("", "", None), (None, " ", None), ("Be kind.", "Be kind.", "Be kind.")]
    for i, (turn, own, expected) in enumerate(cases):
        sample = one(tmp_path / str(i), record(turn, own))
        assert (texts(sample)[0] if sample.messages[0].role == "system" else None) == expected
    assert one(tmp_path / "two", record("Be kind.", "Be rude."))[0] == "unsupported_field"


@pytest.mark.parametrize("key", ["loss", "weight", "train", "train_on_turn", "loss_weight", "training", "loss_mask"])
@pytest.mark.parametrize("no", [False, 0, 0.0])
def test_a_turn_may_be_left_out_of_the_loss(tmp_path, key, no):
    record = asked("1+1?", answer="3")
    record["messages"][1][key] = no
    record["messages"] += [{"role": "user", "content": "Sure?", key: no}, {"role": "assistant", "content": "2", key: 1}]
    sample = one(tmp_path, record)
    assert [m.trained for m in sample.messages] == [True, False, True, True] and texts(sample)[1] == "3"


@pytest.mark.parametrize("layout", ["json_conversations", "json_columns", "json_pairs"])
@pytest.mark.parametrize(
    ("keys", "reason", "words"),
    [
        ({"loss": False}, "not_trained", "loss: False"),
        ({"weight": 0}, "not_trained", "weight: 0"),
        ({"train": False}, "not_trained", "train: False"),
        ({"weight": 0.5}, "unsupported_field", "'weight' is 0.5"),
        ({"loss_weight": -1}, "unsupported_field", "'loss_weight' is -1"),
        ({"loss": "no"}, "unsupported_field", "'loss' is 'no'"),
        ({"mask": True}, "unsupported_field", "'mask' is True"),
        ({"mask": [0, 1]}, "unsupported_field", "'mask' is [0, 1]"),
        ({"mask": "Assistant"}, "unsupported_field", "'mask' is 'Assistant'"),
        ({"train_on_inputs": True}, "unsupported_field", "'train_on_inputs'"),
        ({"loss": True, "weight": 0}, "unsupported_field", "disagree"),
    ],
    ids=str,
)
def test_what_a_record_says_of_the_loss_is_obeyed_or_refused(tmp_path, layout, keys, reason, words):
    record = {"question": "Two?", "answer": "deux", "texts": [{"user": "Two?", "assistant": "deux"}],
              "messages": asked("Two?", answer="deux")["messages"], **keys}  # fmt: skip
    got, message = one(tmp_path, record, Spec("set", layout))
    assert got == reason and words in message


@pytest.mark.parametrize(
    "keys",
    [
        {"loss": True},
        {"weight": 1},
        {"mask": "User"},
        {"mask": None},
        {"train_on_inputs": False},
        {"tools": []},
        {"weight": 1.0, "loss": 1},
    ],
    ids=str,
)
def test_what_asks_for_what_is_done_anyway_is_read(tmp_path, keys):
    assert one(tmp_path, asked("Two?", **keys)).messages[1].trained


@pytest.mark.parametrize(("key", "value"), [("mask", 1), ("weight", 0.3), ("tool_calls", [{"id": 1}])])
def test_a_turn_that_asks_for_more_is_refused(tmp_path, key, value):
    record = asked("Two?")
    record["messages"][1][key] = value
    got, message = one(tmp_path, record)
    assert got == "unsupported_field" and repr(key) in message and "turn 1" in message


def test_a_users_turn_cannot_be_trained_on(tmp_path):
    record = asked("Two?")
    record["messages"][0]["train_on_turn"] = True
    assert one(tmp_path, record)[0] == "unsupported_field"


def test_a_conversation_without_a_trained_answer_is_left_out_and_no_fault(tmp_path):
    records = [asked("Two?"), asked("Three?")]
    records[1]["messages"][1]["loss"] = False
    samples, report = made(tmp_path, SPEC, put(tmp_path / "raw", {"t.jsonl": records}), max_bad_share=0.0)
    assert len(samples) == 1 and rejected(report) == {"not_trained": ["t.jsonl#1"]}


def test_keys_that_are_meant_otherwise_can_be_passed_over(tmp_path):
    spec = Spec("set", "json_columns", fields={"ignore": "weight|mask"})
    sample = one(tmp_path, {"question": "Which?", "answer": "a", "weight": 70.5, "mask": True}, spec)
    assert texts(sample) == ["Which?", "a"]


def test_pairs_may_leave_an_answer_out(tmp_path):
    pairs = [{"user": "1?", "assistant": "one", "loss": False}, {"user": "2?", "assistant": "two"}]
    sample = one(tmp_path, {"texts": pairs}, Spec("set", "json_pairs"))
    assert [m.trained for m in sample.messages] == [True, False, True, True]


@pytest.mark.parametrize("file", ["t.jsonl", "t.json"])
def test_what_nothing_reads_is_counted(tmp_path, file):
    records = [asked("1?", source="web", lang="en"), asked("2?", source="web", note=None), asked("3?")]
    records[2]["messages"][0]["name"] = "Bo"
    _, report = made(tmp_path, SPEC, put(tmp_path / "raw", {file: records}))
    assert report["unread_keys"] == {"source": 2, "lang": 1, "turns.name": 1}


def test_images_beside_the_file_that_names_them(tmp_path):
    files = {"sets/a/c.png": picture(60), "sets/a/page.png": picture(70)}
    record = asked({"type": "image", "image": "c.png"}, {"type": "image", "image": "page.png"}, text())
    sample = one(tmp_path, record, file="sets/a/t.jsonl", **files)
    assert sample.images == (picture(60), PNG)  # the root comes first, as where --raw is a folder of images


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_absolute_paths_below_the_root_and_elsewhere(tmp_path, scheme):
    put(tmp_path, {"elsewhere.png": PNG})
    inside = asked({"type": "image", "image": f"{scheme}{tmp_path}/raw/page.png"}, text())
    assert one(tmp_path, inside).images == (PNG,)
    outside = asked({"type": "image", "image": f"{scheme}{tmp_path}/elsewhere.png"}, text())
    reason, message = one(tmp_path / "2", outside)
    assert reason == "outside_root" and "elsewhere.png" in message


@pytest.mark.parametrize("file", ["t.jsonl", "t.json"])
@pytest.mark.parametrize("image", [uri(), base64.b64encode(picture(300, 200)).decode(), {"bytes": uri().split(",")[1]}])
def test_encoded_images_in_fields_of_any_layout(tmp_path, file, image):
    record = {"image": image, "question": "Q?", "answer": "A"}
    sample = one(tmp_path, record, Spec("set", "json_columns"), file)
    assert len(sample.images) == 1 and sample.images[0].startswith(b"\x89PNG") and texts(sample)[0] == "<image>\nQ?"


@pytest.mark.parametrize("image", [[""], [None], "", None, [], NAN, [NAN], {"bytes": None, "path": None}], ids=str)
@pytest.mark.parametrize("layout", ["json_conversations", "json_columns"])
def test_an_image_that_says_nothing_is_none(tmp_path, image, layout):
    record = asked("Hi") | {"image": image, "question": "Hi", "answer": "red"}
    sample = one(tmp_path, record, Spec("set", layout))
    assert sample.images == () and texts(sample) == ["Hi", "red"]


def test_turns_as_tables_hold_them(tmp_path):
    columns = {"conversations": {"from": ["human", "gpt"], "value": ["Hi", "Ho"]}}
    assert texts(one(tmp_path / "1", columns)) == ["Hi", "Ho"]
    as_text = {"messages": '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]'}
    assert texts(one(tmp_path / "2", as_text)) == ["Hi", "Ho"]
