"""The page: complete, self-contained, and safe whatever a model says."""

import html.parser
import io

import numpy as np
from PIL import Image

from nvlm_jax.config import InputConfig
from nvlm_jax.evaluation import pages, report, results
from nvlm_jax.evaluation.question import Prediction

EVIL = "<script>alert(1)</script>"
TAGS = ["<tile_1>", "<tile_2>", "<tile_global_thumbnail>"]


def picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(32 * 64 * 3, dtype=np.uint8).reshape(32, 64, 3)).save(out, "PNG")
    return out.getvalue()


def make_run(label: str, right: bool, sample: str = "page-1", gates: bool = False) -> report.Run:
    predictions = [
        Prediction(
            f"{sample}/0", sample, "vision", "word", "content", "<image>\nwhat?", "FOX", "FOX" if right else EVIL, right
        ),
        Prediction(f"{sample}/0", sample, "vision_blind", "word", "content", "<image>\nwhat?", "FOX", "CAT", False),
        Prediction("text-1/0", "text-1", "text", "text", "text", f"repeat {EVIL}.", EVIL, EVIL, True),
    ]
    summary = {
        "checkpoint": "runs/x/sft",
        "step": 30,
        "accuracy": results.accuracy(predictions),
        "counts": results.counts(predictions),
        "params": {"vision": 1234567, "decoder": 890},
    }
    shown = pages.describe_pages([sample], {sample: (picture(),)}, InputConfig(), 32)
    metrics = [
        {"step": step, "loss": 1 / step} | ({"tanh_gate/mlp_gate/0": 0.1 * step} if gates else {}) for step in (1, 2)
    ]
    return report.Run(label, summary, predictions, shown, {"pretrain": metrics, "sft": metrics})


class Reader(html.parser.HTMLParser):
    """Tags with attributes, and all text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def rendered(tmp_path, *runs: report.Run) -> tuple[str, Reader]:
    report.write_report(tmp_path / "report.html", runs, "a report")
    page = (tmp_path / "report.html").read_text()
    return page, Reader(page)


def test_the_page_shows_accuracies_parameters_pages_tiles_and_answers(tmp_path):
    _, page = rendered(tmp_path, make_run("NVLM-D", True), make_run("NVLM-X", False, gates=True))
    for shown in ("NVLM-D", "NVLM-X", "100.0", "1,234,567", "1,235,457", "grid 2 x 1", "page-1", *TAGS):
        assert shown in page.text
    for shown in ("pretrain: loss", "sft: loss", "NVLM-X, sft: tanh(mlp gate)"):
        assert shown in page.text
    assert "NVLM-D, sft: tanh" not in page.text
    # Both models chose the same page: it stands there once, with both answers.
    assert sum(tag == "img" for tag, _ in page.tags) == 1 + len(TAGS)
    assert "✓ FOX" in page.text and "✗ <script>" in page.text


def test_nothing_that_was_said_becomes_markup(tmp_path):
    text, page = rendered(tmp_path, make_run("NVLM-X", False))
    assert "script" not in {tag for tag, _ in page.tags}
    assert EVIL in page.text and EVIL not in text


def test_the_page_makes_no_request(tmp_path):
    _, page = rendered(tmp_path, make_run("NVLM-D", True))
    links = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href", "xlink:href")]
    assert links and all(link.startswith("data:image/png;base64,") for link in links)
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe"} == set()


def test_a_report_without_training_metrics_or_text_questions(tmp_path):
    run = make_run("NVLM-D", True)
    run = report.Run(run.label, run.results, [p for p in run.predictions if p.view != "text"], run.pages)
    text, page = rendered(tmp_path, run)
    assert "<h2>Training</h2>" not in text and "Text-only questions" not in text
    assert "None." in page.text  # no mistakes


def test_pages_are_the_first_and_those_with_most_mistakes():
    def asked(sample: str, wrong: int) -> list[Prediction]:
        return [
            Prediction(f"{sample}/{i}", sample, "vision", "word", "content", "", "", "", i >= wrong) for i in range(4)
        ]

    predictions = asked("a", 4) + asked("b", 0) + asked("c", 1) + asked("d", 3) + asked("e", 2)
    assert pages.choose_pages(predictions, 4) == ["a", "b", "d", "e"]
