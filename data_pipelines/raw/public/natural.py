"""Photographs: COCO captions, VQAv2, GQA, Visual Genome, TallyQA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipelines.faults import Fault
from data_pipelines.raw.entry import Entry, Picture, Spec, ask
from data_pipelines.raw.public.grouping import Asked, Found, by_image
from data_pipelines.raw.root import Root
from nvlm_jax.inputs.batch import Message

COCO_YEAR = "2014"


def coco_captions(root: Root, spec: Spec) -> Iterator[Found]:
    """`annotations/captions_train2014.json` {images: [{id, file_name}], annotations: [{image_id, id, caption}]} and
    `train2014/COCO_train2014_000000000009.jpg`. An entry for each caption."""
    part = spec.split + spec.fields.get("year", COCO_YEAR)
    file = f"annotations/captions_{part}.json"
    held = root.json(file)
    names = {image.get("id"): image.get("file_name") for image in held["images"]}
    question = ask(spec.prompt, 1)
    for number, note in enumerate(held["annotations"]):
        try:
            answer = Message("assistant", note["caption"].strip(), spec.task)
            picture = Picture(f"{part}/{names[note['image_id']]}")
            yield Entry(str(note["id"]), (question, answer), (picture,), f"{file}#{number}")
        except (KeyError, TypeError, AttributeError) as error:
            yield Fault(f"{file}#{number}", "missing_field", f"{type(error).__name__} {error}: {note!r:.200}")


def vqav2(root: Root, spec: Spec) -> Iterator[Found]:
    """`v2_OpenEnded_mscoco_train2014_questions.json` {questions: [{image_id, question, question_id}]},
    `v2_mscoco_train2014_annotations.json` {annotations: [{question_id, multiple_choice_answer, answers: [10]}]} and
    `train2014/COCO_train2014_000000458752.jpg`."""
    part = spec.split + COCO_YEAR
    file = f"v2_OpenEnded_mscoco_{part}_questions.json"
    notes = root.json(f"v2_mscoco_{part}_annotations.json")["annotations"]
    answers = {note.get("question_id"): note.get("multiple_choice_answer", "") for note in notes}

    def asked_of(note: dict[str, Any]) -> Asked:
        image = f"{part}/COCO_{part}_{note['image_id']:012d}.jpg"
        return Asked(str(note["question_id"]), image, note["question"], answers[note["question_id"]])

    return by_image(root.json(file)["questions"], asked_of, spec, file)


def gqa(root: Root, spec: Spec) -> Iterator[Found]:
    """`train_balanced_questions.json` {question id: {question, answer, imageId, ...}} and `images/2354786.jpg`."""
    file = f"{spec.split}_balanced_questions.json"

    def asked_of(item: tuple[str, dict[str, Any]]) -> Asked:
        name, note = item
        return Asked(name, f"images/{note['imageId']}.jpg", note["question"], note["answer"])

    return by_image(root.json(file).items(), asked_of, spec, file)


def visual_genome(root: Root, spec: Spec) -> Iterator[Found]:
    """`question_answers.json` [{id, qas: [{qa_id, image_id, question, answer}]}], `image_data.json` [{image_id, url}]
    and `VG_100K/2.jpg` or `VG_100K_2/1.jpg`, whichever the url names."""
    urls = {image.get("image_id"): image.get("url", "") for image in root.json("image_data.json")}
    file = "question_answers.json"
    notes = (note for image in root.json(file) for note in image.get("qas", [image]))

    def asked_of(note: dict[str, Any]) -> Asked:
        image = "/".join(urls[note["image_id"]].split("/")[-2:])
        return Asked(str(note["qa_id"]), image, note["question"], note["answer"])

    return by_image(notes, asked_of, spec, file)


def tallyqa(root: Root, spec: Spec) -> Iterator[Found]:
    """`train.json` [{image: "VG_100K_2/2410408.jpg" or "train2014/COCO_...jpg", question, answer: 4, question_id}]
    with the two collections of images below the root."""
    file = f"{spec.split}.json"

    def asked_of(note: dict[str, Any]) -> Asked:
        return Asked(str(note["question_id"]), note["image"], note["question"], note["answer"])

    return by_image(root.json(file), asked_of, spec, file)
