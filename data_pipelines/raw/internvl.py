"""InternVL's `meta.json`: {name: {"root": images, "annotation": JSON Lines, ...}}, several datasets in one file."""

from __future__ import annotations

import os
import pathlib
import re

from data_pipelines.raw.entry import LayoutError, Spec
from data_pipelines.raw.root import Root, load_json


def meta_specs(raw: str | os.PathLike[str], meta: str | os.PathLike[str]) -> list[Spec]:
    """A spec for each dataset of a meta.json.

    Args:
        raw: the directory that `root` and `annotation` are relative to.
        meta: the file.

    Raises:
        LayoutError: no such file, no mapping of datasets, or a path that is not below `raw`.
    """
    root = Root(raw)
    if not pathlib.Path(meta).is_file():
        raise LayoutError(f"{meta}: no such file; an InternVL meta.json is expected")
    held = load_json(pathlib.Path(meta))
    if not isinstance(held, dict) or not all(isinstance(item, dict) and "annotation" in item for item in held.values()):
        raise LayoutError(f"{meta}: expected {{name: {{root, annotation, ...}}}}, as InternVL's training reads it")
    return [_spec(root, name, item) for name, item in held.items()]


def _spec(root: Root, name: str, item: dict[str, object]) -> Spec:
    annotation = str(item["annotation"])
    if not root.exists(annotation):
        raise LayoutError(f"{root.path}: dataset {name!r}: no annotation {annotation!r} below it")
    safe = re.sub(r"[^\w.-]+", "_", name)
    fields = {"folder": str(item.get("root") or ""), "place_images": "first"}
    return Spec(safe, "json_conversations", task=safe, files=annotation, fields=fields)
