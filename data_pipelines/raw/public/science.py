"""Diagrams and school questions: AI2D and ScienceQA. Both are multiple choice, answered by a letter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipelines.raw.entry import LETTERS, Spec
from data_pipelines.raw.public.grouping import Asked, Found, by_image
from data_pipelines.raw.root import Root, load_json


def ai2d(root: Root, spec: Spec) -> Iterator[Found]:
    """`questions/0.png.json` {imageName, questions: {text: {answerTexts: [4], correctAnswer: 3, questionId}}} and
    `images/0.png`, also below `ai2d/`. `ai2d_test_ids.csv` lists the diagrams of the test split, one number a line."""
    files = root.files("**/questions/*.png.json")
    held_out = _test_ids(root)
    chosen = [file for file in files if (_number(file) in held_out) == (spec.split == "test")]
    folder = files[0].rpartition("questions/")[0]
    notes = (
        (f"{folder}images/{note['imageName']}", question, held)
        for note in (load_json(root.find(file)) for file in chosen)
        for question, held in note["questions"].items()
    )

    def asked_of(item: tuple[str, str, dict[str, Any]]) -> Asked:
        image, question, held = item
        choices = held["answerTexts"]
        return Asked(held["questionId"], image, question, _letter(held["correctAnswer"], choices), tuple(choices))

    return by_image(notes, asked_of, spec, f"{folder}questions")


def scienceqa(root: Root, spec: Spec) -> Iterator[Found]:
    """`problems.json` {id: {question, choices, answer: 0, hint, image: "image.png" or null, split}} (also below
    `data/scienceqa/`) and `train/ID/image.png` (also below `images/`). Questions without an image are kept, as text."""
    file = root.files("**/problems.json")[0]
    folder = "images/" if root.files(f"images/{spec.split}/*/*", optional=True) else ""
    problems = ((name, note) for name, note in root.json(file).items() if note["split"] == spec.split)

    def asked_of(item: tuple[str, dict[str, Any]]) -> Asked:
        name, note = item
        image = f"{folder}{spec.split}/{name}/{note['image']}" if note["image"] else ""
        choices = note["choices"]
        answer = _letter(note["answer"], choices)
        return Asked(name, image, note["question"], answer, tuple(choices), note.get("hint") or "")

    return by_image(problems, asked_of, spec, file)


def _test_ids(root: Root) -> set[str]:
    files = root.files("**/ai2d_test_ids.csv", optional=True)
    return set(root.read(files[0]).decode().split()) if files else set()


def _number(file: str) -> str:
    return file.rpartition("/")[2].split(".")[0]


def _letter(place: Any, choices: list[str]) -> str:
    """The choice's letter; empty, which counts as no answer, where there is no such choice."""
    return LETTERS[place] if isinstance(place, int) and 0 <= place < min(len(choices), len(LETTERS)) else ""
