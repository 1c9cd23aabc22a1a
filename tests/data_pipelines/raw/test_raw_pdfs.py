import io

import matplotlib
import pytest
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from PIL import Image

from data_pipelines.raw.entry import Spec
from tests.data_pipelines.raw_files import made, put, rejected, texts

pytest.importorskip("pypdfium2")


def pdf(*pages: str) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}), PdfPages(buffer) as out:
        for text in pages:
            figure = Figure((4, 3))
            figure.text(0.1, 0.5, text)
            out.savefig(figure)
    return buffer.getvalue()


def test_pages_are_rendered_and_read(tmp_path):
    root = put(tmp_path / "raw", {"a/one.pdf": pdf("first page", "second page", ""), "broken.pdf": b"%PDF-1.4 no"})
    spec = Spec("set", "pdf_pages", "Read the page.", fields={"answer": "text"})
    samples, report = made(tmp_path, spec, root)
    assert [sample.id for sample in samples] == ["a/one.pdf#0", "a/one.pdf#1"]
    assert texts(samples[1]) == ["<image>\nRead the page.", "second page"]
    page = Image.open(io.BytesIO(samples[1].images[0]))
    assert page.size == (576, 432) and page.format == "PNG"  # 4 x 3 inches at 144 dots an inch
    assert rejected(report) == {"bad_pdf": ["broken.pdf#0"], "empty_answer": ["a/one.pdf#2"]}
