import io

import matplotlib
import pytest
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from PIL import Image

from data_pipelines.raw import pdfs
from data_pipelines.raw.entry import LayoutError, Spec
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


def test_the_layout_alone_is_enough(tmp_path):
    """As `--layout=pdf_pages` without fields and prompt; a page without text is not rendered."""
    root = put(tmp_path / "raw", {"one.pdf": pdf("first page", "")})
    samples, report = made(tmp_path, Spec("set", "pdf_pages"), root)
    assert texts(samples[0]) == ["<image>\nRead the text of this page.", "first page"]
    assert rejected(report) == {"empty_answer": ["one.pdf#1"]} and not report["unread_keys"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            Spec("set", "pdf_pages", fields={"answer": "label"}),
            "field 'answer' is 'label'; a page of a PDF has id, image",
        ),
        (Spec("set", "pdf_pages", "{question} Say.", fields={"answer": "text"}), "a page of a PDF has no question"),
        (Spec("set", "pdf_pages", fields={"question": "q"}), "field 'question' is 'q'"),
    ],
)
def test_what_no_page_has_is_said_before_any_is_rendered(tmp_path, monkeypatch, spec, words):
    monkeypatch.setattr(pdfs, "_render", lambda page: pytest.fail("rendered"))
    with pytest.raises(LayoutError, match=words):
        made(tmp_path, spec, put(tmp_path / "raw", {"one.pdf": pdf("first page")}))
