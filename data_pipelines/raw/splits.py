"""Files that are named after splits: train.json beside val.json are not read together unless someone says so."""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_pipelines.raw.entry import LayoutError, Spec
from data_pipelines.raw.root import Root

SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
LISTED = 4  # files in a message


def of_one_split(root: Root, spec: Spec, files: Sequence[str]) -> list[str]:
    """Those of the files that are to be read: all of them where they are named after one split or none.

    Args:
        root: of the raw dataset.
        spec: whose split, where one was chosen, decides among files of several.
        files: below the root.

    Raises:
        LayoutError: files of several splits and none was chosen, or none of the chosen split.
    """
    named = {file: split_of(file) for file in files}
    there = sorted({split for split in named.values() if split})
    if spec.split_chosen or spec.split != "train":
        wanted = SPLIT_OF.get(spec.split.lower(), spec.split)
        chosen = [file for file in files if named[file] == wanted] or [file for file in files if not named[file]]
        if not chosen:
            text = f"{root.path}: no file of split {spec.split!r}; {', '.join(there)} are there: {_few(files)}"
            raise LayoutError(text)
        return chosen
    if len(there) > 1 or (there not in ([], ["train"]) and len(files) > sum(map(bool, named.values()))):
        raise LayoutError(
            f"{root.path}: {_few(files)} would be read together, though their names are those of several splits "
            f"({', '.join(there)}). Say which: --split={there[-1] if 'train' not in there else 'train'}, or name files "
            "by --files=GLOB (a glob of all of them reads them together)"
        )
    return list(files)


def split_of(file: str) -> str:
    """The split that a word of the path names, the last such word first; empty if none does.

    >>> [split_of(name) for name in ("train/0.tar", "pages_val.json", "latest.json")]
    ['train', 'val', '']
    """
    words = re.split(r"[-_./\s]", file.lower())
    return next((SPLIT_OF[word] for word in reversed(words) if word in SPLIT_OF), "")


def _few(files: Sequence[str]) -> str:
    more = f" and {len(files) - LISTED} more" if len(files) > LISTED else ""
    return ", ".join(files[:LISTED]) + more
