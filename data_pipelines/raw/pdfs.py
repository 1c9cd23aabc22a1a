"""Folders of PDFs: each page rendered to an image, and the text that the file says stands on it.

PDFium renders; what a PDF holds of scripts, forms and attachments is left alone.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator

from data_pipelines.raw.entry import Entry, LayoutError, Part, Record, Spec
from data_pipelines.raw.records import from_columns
from data_pipelines.raw.root import Root
from nvlm_jax.inputs.errors import BadSample

DPI = 144  # an A4 page is 1,191 x 1,684 pixels
MAX_SIDE = 4096  # pixels of a page's longer side; a larger page is rendered smaller
MAX_PDF_BYTES = 512 << 20
GUESS = 16  # pages of a file
PAGE = ("id", "image", "text")  # a page's fields
PROMPT = "Read the text of this page."  # where the spec has no prompt of its own
READ = ("question", "answer", "context")  # what may be one of a page's fields


def parts(root: Root, spec: Spec) -> list[Part]:
    """A part for each file that matches `spec.files` (default: every PDF).

    Raises:
        LayoutError: no file; or a field is asked for that no page has.
    """
    spec = with_defaults(spec)
    for field in READ:
        names = spec.fields.get(field, field).split("|")
        if (field == "answer" or field in spec.fields) and not {*names} & {*PAGE}:
            raise LayoutError(f"{spec.name}: field {field!r} is {names[0]!r}; a page of a PDF has {', '.join(PAGE)}")
    if "{question}" in spec.prompt and "question" not in spec.fields:
        raise LayoutError(f"{spec.name}: a page of a PDF has no question; give a --prompt without {{question}}")
    return [Part(file, records=GUESS) for file in root.files(spec.files or "**/*.pdf")]


def with_defaults(spec: Spec) -> Spec:
    """The spec; a page's text is the answer to PROMPT where it says nothing else."""
    prompt = PROMPT if spec.prompt == Spec.prompt else spec.prompt
    return dataclasses.replace(spec, prompt=prompt, fields={"answer": "text", **spec.fields})


def records(root: Root, part: Part, spec: Spec) -> Iterator[tuple[str, Record | BadSample]]:
    """A record {id, image, text} for each page; a file or page that cannot be read is a BadSample: `bad_pdf`.

    A page without the text that is its answer is not rendered: `empty_answer`.
    """
    import pypdfium2  # here, because no other layout needs it

    needs_text = with_defaults(spec).fields["answer"] == "text"
    try:
        document = pypdfium2.PdfDocument(root.read(part.file, MAX_PDF_BYTES))
    except (BadSample, pypdfium2.PdfiumError) as error:
        yield f"{part.file}#0", error if isinstance(error, BadSample) else _bad(part.file, 0, error)
        return
    with document:
        for number in range(len(document)):
            place = f"{part.file}#{number}"
            try:
                page = document[number]
                text = page.get_textpage().get_text_bounded().replace("\r\n", "\n").strip()
                if needs_text and not text:
                    yield place, BadSample("empty_answer", f"{part.file}, page {number}: no text is stored with it")
                    continue
                image = _render(page)
            except (pypdfium2.PdfiumError, MemoryError, ValueError, OSError) as error:
                yield place, _bad(part.file, number, error)
                continue
            yield place, {"id": place, "image": image, "text": text}


def from_page(place: str, record: Record, spec: Spec) -> Entry:
    """An entry from a page, as `from_columns`."""
    return from_columns(place, record, with_defaults(spec))._replace(unread=())


def _render(page: object) -> bytes:
    """The page as a PNG."""
    scale = min(DPI / 72, MAX_SIDE / max(*page.get_size(), 1))
    buffer = io.BytesIO()
    page.render(scale=scale).to_pil().convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _bad(file: str, page: int, error: Exception) -> BadSample:
    return BadSample("bad_pdf", f"{file}, page {page}: {error}")
