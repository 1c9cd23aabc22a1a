"""Files that ship with the package: the tiny encoder, LLM and tokenizer that the quickstart begins from."""

from __future__ import annotations

import pathlib

HERE = pathlib.Path(__file__).parent


def shipped(name: str) -> str:
    """The path of a shipped directory: relative in the repository's root, so that configs are alike on all machines."""
    path = HERE / name
    root = pathlib.Path.cwd()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
