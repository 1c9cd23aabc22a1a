"""Folders of PDFs: each page rendered to an image, and the text that the file says stands on it.

PDFium renders; what a PDF holds of scripts, forms and attachments is left alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from data_pipelines.raw.entry import Part, Record, Spec
from data_pipelines.raw.root import Root
from data_pipelines.raw.splits import of_one_split
from nvlm_jax.inputs.errors import BadSample

DPI = 144  # an A4 page is 1,191 x 1,684 pixels
MAX_SIDE = 4096  # pixels of a page's longer side; a larger page is rendered smaller
MAX_PDF_BYTES = 512 << 20
GUESS = 16  # pages of a file


def parts(root: Root, spec: Spec) -> list[Part]:
    """A part for each file that matches `spec.files` (default: every PDF)."""
    files = root.files(spec.files) if spec.files else of_one_split(root, spec, root.files("**/*.pdf"))
    return [Part(file, records=GUESS) for file in files]


def records(root: Root, part: Part, spec: Spec) -> Iterator[tuple[str, Record | BadSample]]:
    """A record {id, image, text} for each page; a file or page that cannot be read is a BadSample: `bad_pdf`."""
    import pypdfium2  # here, because no other layout needs it

    try:
        document = pypdfium2.PdfDocument(root.read(part.file, MAX_PDF_BYTES))
    except (BadSample, pypdfium2.PdfiumError) as error:
        yield f"{part.file}#0", error if isinstance(error, BadSample) else _bad(part.file, 0, error)
        return
    with document:
        for number in range(len(document)):
            try:
                page = document[number]
                image, text = _render(page), page.get_textpage().get_text_bounded()
            except (pypdfium2.PdfiumError, MemoryError, ValueError, OSError) as error:
                yield f"{part.file}#{number}", _bad(part.file, number, error)
                continue
            text = text.replace("\r\n", "\n").strip()
            yield f"{part.file}#{number}", {"id": f"{part.file}#{number}", "image": image, "text": text}


def _render(page: object) -> bytes:
    """The page as a PNG."""
    scale = min(DPI / 72, MAX_SIDE / max(*page.get_size(), 1))
    buffer = io.BytesIO()
    page.render(scale=scale).to_pil().convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _bad(file: str, page: int, error: Exception) -> BadSample:
    return BadSample("bad_pdf", f"{file}, page {page}: {error}")
