"""JSON Lines and lists: LLaVA, ShareGPT, InternVL, columns, pairs."""

import pytest

from data_pipelines.raw import lines
from data_pipelines.raw.entry import LayoutError, Spec
from data_pipelines.raw.internvl import meta_specs
from data_pipelines.raw.root import Root
from tests.data_pipelines.raw_files import made, picture, put, rejected, texts


def llava(name, image="images/a.png", question="<image>\nWhat is it?", answer="A cat."):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": turns} | ({"image": image} if image else {})


@pytest.mark.parametrize("file", ["train.jsonl", "train.json"])
def test_llava_conversations(tmp_path, file):
    root = put(
        tmp_path / "raw",
        {
            "images/a.png": picture(),
            file: [llava("1"), llava("2", image=None, question="Hi"), llava("3", image="../x.png"), {"id": "4"}],
        },
    )
    samples, report = made(tmp_path, Spec("set", "json_conversations", task="chat"), root)
    assert [sample.id for sample in samples] == ["1", "2"]
    assert texts(samples[0]) == ["<image>\nWhat is it?", "A cat."] and samples[0].images == (picture(),)
    assert [m.group for m in samples[0].messages] == ["", "chat"]
    assert rejected(report) == {"outside_root": ["3"], "wrong_field": ["4"]}


def test_several_images_anywhere(tmp_path):
    root = put(
        tmp_path / "raw",
        {
            "a.png": picture(),
            "b.png": picture(50),
            "t.jsonl": [llava("1", ["a.png", "b.png"], "<image> or <image>?")],
        },
    )
    samples, _ = made(tmp_path, Spec("set", "json_conversations"), root)
    assert samples[0].images == (picture(), picture(50))


def test_sharegpt_threads_begin_with_the_first_question(tmp_path):
    turns = [
        ("gpt", "..."),
        ("system", "Be kind."),
        ("user", "Hi"),
        ("chatgpt", "Hello"),
        ("human", "Bye"),
        ("bard", "So long"),
    ]
    record = {"id": "x_0", "conversations": [{"from": role, "value": value} for role, value in turns]}
    root = put(tmp_path / "raw", {"ShareGPT.json": [record]})
    samples, _ = made(tmp_path, Spec("set", "json_conversations"), root)
    assert [(m.role, m.content) for m in samples[0].messages] == [
        ("system", "Be kind."),
        *[("user", "Hi"), ("assistant", "Hello")],
        *[("user", "Bye"), ("assistant", "So long")],
    ]


def test_open_ai_messages(tmp_path):
    record = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    samples, _ = made(tmp_path, Spec("set", "json_conversations"), put(tmp_path / "raw", {"a.jsonl": [record]}))
    assert texts(samples[0]) == ["Hi", "Hello"] and samples[0].id == "a.jsonl#0"


def test_internvl_meta_names_roots_and_annotations(tmp_path):
    item = {"root": "data/coco/", "annotation": "opensource/cap.jsonl", "data_augment": False, "repeat_time": 1}
    root = put(
        tmp_path / "raw",
        {
            "data/coco/train/1.png": picture(),
            "opensource/cap.jsonl": [llava(7, "train/1.png"), llava(8, "train/1.png", "No placeholder?")],
            "meta.json": {"coco captions": item},
        },
    )
    (spec,) = meta_specs(root, root / "meta.json")
    assert spec.name == "coco_captions"
    samples, _ = made(tmp_path, spec, root)
    assert [texts(sample)[0] for sample in samples] == ["<image>\nWhat is it?", "<image>\nNo placeholder?"]
    put(root, {"meta.json": {"x": item | {"annotation": "../cap.jsonl"}}})
    with pytest.raises(LayoutError, match="no annotation"):
        meta_specs(root, root / "meta.json")


def test_columns_choices_and_a_prompt(tmp_path):
    rows = [
        {"q": "Which?", "options": ["red", "blue"], "right": 1, "hint": "", "img": "a.png"},
        {"q": "Which?", "options": ["red", "blue"], "right": "A", "hint": "Look.", "img": "a.png"},
        {"q": "Which?", "options": ["red", "blue"], "right": 2, "img": "a.png"},
        {"q": "How many?", "answer": 4, "img": "a.png"},
        {"q": "Who?", "answer": ["Bo", "Al", "Al"], "img": "a.png"},
        {"q": "Who?", "img": "a.png"},
    ]
    root = put(tmp_path / "raw", {"a.png": picture(), "t.jsonl": rows})
    fields = {"question": "q", "choices": "options", "correct": "right", "context": "hint", "image": "img"}
    samples, report = made(
        tmp_path, Spec("set", "json_columns", "{context}\n{question}\n{choices}", fields=fields), root
    )
    assert [texts(sample) for sample in samples] == [
        ["<image>\nWhich?\nA. red\nB. blue", "B"],
        ["<image>\nLook.\nWhich?\nA. red\nB. blue", "A"],
        ["<image>\nHow many?", "4"],
        ["<image>\nWho?", "Al"],
    ]
    assert rejected(report) == {"missing_field": ["t.jsonl#5"], "wrong_field": ["t.jsonl#2"]}


def test_a_field_that_nothing_reads_is_named(tmp_path):
    root = put(tmp_path / "raw", {"t.jsonl": [{"question": "?", "label": "a"}]})
    with pytest.raises(LayoutError, match="nothing reads a field 'anwser'; 'answer' would be near"):
        made(tmp_path, Spec("set", "json_columns", fields={"anwser": "label"}), root)


def test_pairs_share_their_images(tmp_path):
    record = {"images": ["a.png"], "texts": [{"user": "1?", "assistant": "one"}, {"user": "2?", "assistant": "two"}]}
    root = put(tmp_path / "raw", {"a.png": picture(), "t.jsonl": [record]})
    samples, _ = made(tmp_path, Spec("set", "json_pairs"), root)
    assert texts(samples[0]) == ["<image>\n1?", "one", "2?", "two"]


def test_parts_cover_every_line_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "GRAIN", 4)
    text = b"".join(b'{"n": %d}\n' % i for i in range(10)) + b"\n" + b'{"n": 10}'
    root, spec = Root(put(tmp_path, {"t.jsonl": text})), Spec("set", "json_columns")
    parts = lines.parts(root, spec)
    assert [(part.first, part.records) for part in parts] == [(0, 4), (4, 4), (8, 4)]
    read = [item for part in parts for item in lines.records(root, part, spec)]
    assert [record["n"] for _, record in read] == list(range(11))
    assert [place for place, _ in read][-2:] == ["t.jsonl#9", "t.jsonl#11"]
