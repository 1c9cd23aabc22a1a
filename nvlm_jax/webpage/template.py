"""Pages from templates that extend `base.html.j2`: each is one file, requests nothing, light or dark as asked."""

from __future__ import annotations

import pathlib
from typing import Any

import jinja2

from nvlm_jax import number_format

SHARED = pathlib.Path(__file__).parent


def render(template: pathlib.Path, **values: Any) -> str:
    """Draw a page. Every text is escaped; a name that is not given is an error.

    Args:
        template: a file that extends `base.html.j2`, and may import `parts.html.j2`.
        values: what it shows.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not among them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "digits": number_format.digits,
        "flops": number_format.flops,
        "percent": number_format.percent,
        "si": number_format.si,
        "thousands": number_format.thousands,
    }
    return environment.get_template(template.name).render(values)


def write(path: pathlib.Path, template: pathlib.Path, **values: Any) -> None:
    """As `render`, into a file; folders above it are made."""
    page = render(template, **values)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
