"""What a dataset's declaration holds, and how declared datasets become a blend."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

SHORT = "{question}\nAnswer the question using a single word or phrase."
LETTER = "{context}\n{question}\n{choices}\nAnswer with the option's letter from the given choices directly."
CAPTION = "Describe the image in one sentence."
READ = "Read all text in the image."


@dataclasses.dataclass(frozen=True)
class Row:
    """One dataset. The layouts are those of `data_pipelines/raw/layouts.py`."""

    name: str  # of the directory that it is prepared to, and in blends
    title: str  # as the paper has it
    task: (
        str  # caption | vqa | knowledge | reasoning | chart | table | document | ocr | math | science | instruction ...
    )
    licence: str  # of the annotations, as far as we know it; `see source` where we do not. Check before you train.
    layout: str
    source: str  # where it is published
    prompt: str = "{question}"
    split: str = "train"
    files: str = ""
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Share:
    """A dataset's place in a blend. Without a weight of its own it gets one by its size."""

    name: str
    group: str  # the row of the paper's table
    weight: float | None = None


def shares(table: Mapping[str, Iterable[str]], weights: Mapping[str, float] | None = None) -> tuple[Share, ...]:
    """A table's groups of names as shares.

    Raises:
        ValueError: a weight of a dataset that the table does not have, or a name twice.
    """
    weights = weights or {}
    found = tuple(Share(name, group, weights.get(name)) for group, names in table.items() for name in names)
    names = [share.name for share in found]
    if set(weights) - set(names) or len(set(names)) < len(names):
        raise ValueError(
            f"weights of {sorted(set(weights) - set(names))}; {len(names)} names, {len(set(names))} different"
        )
    return found


def blend(chosen: Iterable[Share], sizes: Mapping[str, int], root: str) -> list[dict[str, Any]]:
    """The `data.blend` of a run, of those datasets that are prepared.

    Shares with a weight keep it; the others divide what is left to one by their sizes, as the paper's blends do.

    >>> two = (Share("a", "g", 0.25), Share("b", "g"), Share("c", "g"))
    >>> [(d["name"], d["weight"]) for d in blend(two, {"a": 5, "b": 30, "c": 10}, "data")]
    [('a', 0.25), ('b', 0.5625), ('c', 0.1875)]

    Args:
        chosen: of one or several blends.
        sizes: samples of each prepared dataset.
        root: the directory that holds them.

    Raises:
        ValueError: none is prepared.
    """
    present = [share for share in chosen if sizes.get(share.name)]
    if not present:
        raise ValueError(f"no dataset of the blend is prepared in {root}; `python -m launch.prepare --list` names them")
    left = max(1 - sum(share.weight or 0 for share in present), 0)
    unweighted = sum(sizes[share.name] for share in present if share.weight is None)
    weights = [left * sizes[s.name] / unweighted if s.weight is None else s.weight for s in present]
    return [
        {"name": share.name, "path": f"{root}/{share.name}", "weight": weight}
        for share, weight in zip(present, weights, strict=True)
    ]
