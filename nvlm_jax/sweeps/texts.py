"""Plain-text files of a sweep from their templates: jobs and docs/claims.md."""

from __future__ import annotations

import pathlib

import jinja2

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def text_environment() -> jinja2.Environment:
    """Templates of this package for text that is not HTML; a name that is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
