"""Charts: ChartQA and DVQA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipelines.raw.entry import Spec
from data_pipelines.raw.public.grouping import Asked, Found, by_image
from data_pipelines.raw.root import Root, load_json


def chartqa(root: Root, spec: Spec) -> Iterator[Found]:
    """`ChartQA Dataset/train/train_human.json` and `train_augmented.json` [{imgname, query, label}], and
    `ChartQA Dataset/train/png/NAME.png`. The root may be the inner directory."""
    kinds = {kind: f"**/{spec.split}/{spec.split}_{kind}.json" for kind in ("human", "augmented")}
    files = [(kind, file) for kind, pattern in kinds.items() for file in root.files(pattern, optional=True)]
    if not files:
        root.files(kinds["human"])  # raises, and says what was looked for
    notes = ((kind, file, i, note) for kind, file in files for i, note in enumerate(load_json(root.find(file))))

    def asked_of(item: tuple[str, str, int, dict[str, Any]]) -> Asked:
        kind, file, i, note = item
        return Asked(f"{kind}-{i}", f"{file.rpartition('/')[0]}/png/{note['imgname']}", note["query"], note["label"])

    return by_image(notes, asked_of, spec, files[0][1])


def dvqa(root: Root, spec: Spec) -> Iterator[Found]:
    """`train_qa.json` (also below `qa/`) [{image: "bar_train_00000001.png", question, answer, question_id,
    template_id, ...}] and `images/bar_train_00000001.png`."""
    file = root.files(f"**/{spec.split}_qa.json")[0]

    def asked_of(note: dict[str, Any]) -> Asked:
        chart = note["image"].removesuffix(".png")  # question ids count from 1 within a chart in some releases
        return Asked(f"{chart}-{note['question_id']}", f"images/{note['image']}", note["question"], note["answer"])

    return by_image(load_json(root.find(file)), asked_of, spec, file)
