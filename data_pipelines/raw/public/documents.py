"""Text in images: TextVQA, DocVQA, InfographicVQA, OCR-VQA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipelines.raw.entry import Spec
from data_pipelines.raw.public.grouping import Asked, Found, by_image
from data_pipelines.raw.root import Root

OCRVQA_SPLITS = {1: "train", 2: "val", 3: "test"}


def textvqa(root: Root, spec: Spec) -> Iterator[Found]:
    """`TextVQA_0.5.1_train.json` {data: [{question, question_id, image_id, answers: [10]}]} and
    `train_images/0054c91397f2fe05.jpg`, which hold the validation split's images too."""
    file = f"TextVQA_0.5.1_{spec.split}.json"
    folder = "test_images" if spec.split == "test" else "train_images"

    def asked_of(note: dict[str, Any]) -> Asked:
        return Asked(str(note["question_id"]), f"{folder}/{note['image_id']}.jpg", note["question"], note["answers"])

    return by_image(root.json(file)["data"], asked_of, spec, file)


def docvqa(root: Root, spec: Spec) -> Iterator[Found]:
    """`train_v1.0_withQT.json` (or `train_v1.0.json`, also below `train/`) {data: [{questionId, question, image:
    "documents/xnbl0037_1.png", answers: [...]}]} and `documents/xnbl0037_1.png` beside it."""
    file = root.files(f"**/{spec.split}_v1.0*.json")[0]
    folder = file.rpartition("/")[0]

    def asked_of(note: dict[str, Any]) -> Asked:
        image = f"{folder}/{note['image']}" if folder else note["image"]
        return Asked(str(note["questionId"]), image, note["question"], note["answers"][:1])

    return by_image(root.json(file)["data"], asked_of, spec, file)


def infographicvqa(root: Root, spec: Spec) -> Iterator[Found]:
    """`infographicsVQA_train_v1.0.json` (or `..._withQT.json`) {data: [{questionId, question, image_local_name:
    "20471.jpeg", answers: [...]}]} and `infographicsvqa_images/20471.jpeg`."""
    file = root.files(f"infographicsVQA_{spec.split}_v1.0*.json")[0]
    folder = spec.fields.get("images", "infographicsvqa_images")

    def asked_of(note: dict[str, Any]) -> Asked:
        image = f"{folder}/{note['image_local_name']}"
        return Asked(str(note["questionId"]), image, note["question"], note["answers"][:1])

    return by_image(root.json(file)["data"], asked_of, spec, file)


def ocrvqa(root: Root, spec: Spec) -> Iterator[Found]:
    """`dataset.json` {book id: {imageURL, questions: [...], answers: [...], split: 1, ...}} and `images/BOOK.jpg` with
    the ending of its URL."""
    notes = (
        (book, note, i)
        for book, note in root.json("dataset.json").items()
        if OCRVQA_SPLITS.get(note.get("split"), spec.split) == spec.split
        for i in range(len(note.get("questions") or [""]))
    )

    def asked_of(item: tuple[str, dict[str, Any], int]) -> Asked:
        book, note, i = item
        image = f"images/{book}.{note['imageURL'].rpartition('.')[2]}"
        return Asked(f"{book}-{i}", image, note["questions"][i], note["answers"][i])

    return by_image(notes, asked_of, spec, "dataset.json")
