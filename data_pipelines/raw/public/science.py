"""Diagrams and school questions: AI2D and ScienceQA. Both are multiple choice, answered by a letter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipelines.raw.entry import LETTERS, LayoutError, Spec
from data_pipelines.raw.public.grouping import Asked, Found, by_image
from data_pipelines.raw.root import Root, load_json
from nvlm_jax.inputs.errors import BadSample


def ai2d(root: Root, spec: Spec) -> Iterator[Found]:
    """`questions/0.png.json` {imageName, questions: {text: {answerTexts: [4], correctAnswer: 3, questionId}}} and
    `images/0.png`, also below `ai2d/`. `ai2d_test_ids.csv` lists the diagrams of the test split, one number a line."""
    files = root.files("**/questions/*.png.json")
    held_out = _test_ids(root)
    chosen = [file for file in files if (_number(file) in held_out) == (spec.split == "test")]
    folder = files[0].rpartition("questions/")[0]
    notes = (note for file in chosen for note in _questions(root, file))

    def asked_of(item: tuple[dict[str, Any], str]) -> Asked:
        note, question = item
        if "unreadable" in note:
            raise BadSample("bad_json", note["unreadable"])
        held = note["questions"][question]
        choices = held["answerTexts"]
        answer = _letter(held["correctAnswer"], choices)
        return Asked(held["questionId"], f"{folder}images/{note['imageName']}", question, answer, tuple(choices))

    return by_image(notes, asked_of, spec, f"{folder}questions")


def scienceqa(root: Root, spec: Spec) -> Iterator[Found]:
    """`problems.json` {id: {question, choices, answer: 0, hint, image: "image.png" or null, split}} (also below
    `data/scienceqa/`) and `train/ID/image.png` (also below `images/`). Questions without an image are kept, as text."""
    file = root.files("**/problems.json")[0]
    folder = "images/" if root.files(f"images/{spec.split}/*/*", optional=True) else ""
    held = root.json(file).items()
    problems = ((name, note) for name, note in held if note.get("split", spec.split) == spec.split)

    def asked_of(item: tuple[str, dict[str, Any]]) -> Asked:
        name, note = item
        image = f"{folder}{spec.split}/{name}/{note['image']}" if note["image"] else ""
        choices = note["choices"]
        answer = _letter(note["answer"], choices)
        return Asked(name, image, note["question"], answer, tuple(choices), note.get("hint") or "")

    return by_image(problems, asked_of, spec, file)


def _questions(root: Root, file: str) -> Iterator[tuple[dict[str, Any], str]]:
    """A diagram's annotation with each of its questions; of a file that is no JSON, what is wrong with it."""
    try:
        note = load_json(root.find(file))
        for question in note["questions"]:
            yield note, question
    except (LayoutError, LookupError, TypeError) as error:
        yield {"unreadable": f"{file}: {error}"}, ""


def _test_ids(root: Root) -> set[str]:
    files = root.files("**/ai2d_test_ids.csv", optional=True)
    return set(root.read(files[0]).decode().split()) if files else set()


def _number(file: str) -> str:
    return file.rpartition("/")[2].split(".")[0]


def _letter(place: Any, choices: list[str]) -> str:
    """The choice's letter; empty, which counts as no answer, where there is no such choice."""
    return LETTERS[place] if isinstance(place, int) and 0 <= place < min(len(choices), len(LETTERS)) else ""
