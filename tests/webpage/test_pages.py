"""What every page has in common, read without a browser: it fits a phone, requests nothing, and shows no Python."""

import html.parser
import re

import jinja2
import pytest

from nvlm_jax.number_format import flops
from nvlm_jax.webpage import template
from tests.webpage import made

STYLE = (template.SHARED / "style.css").read_text().strip()


class Reader(html.parser.HTMLParser):
    """Tags with attributes, and the text that a reader sees, a line for each element."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.lines, self._inside = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style") and data.strip():
            self.lines.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """name -> the page's text; each is made once."""
    texts: dict[str, str] = {}

    def write(name: str) -> str:
        if name not in texts:
            path = tmp_path_factory.mktemp(name) / "page.html"
            made.PAGES[name](path)
            texts[name] = path.read_text(encoding="utf-8")
        return texts[name]

    return write


@pytest.mark.parametrize("name", list(made.PAGES))
def test_a_page_fits_any_window_follows_the_readers_scheme_and_requests_nothing(written, name):
    text = written(name)
    tags = Reader(text).tags
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags
    assert text.lower().startswith("<!doctype html>") and STYLE in text
    assert "@media (prefers-color-scheme: dark)" in STYLE and "@media print" in STYLE
    outside = [value for _, given in tags for key, value in given.items() if key in ("src", "href") and value]
    assert [value for value in outside if not value.startswith("data:image/")] == []
    assert not re.search(r"""(src|href)=["']?http""", re.sub(r"<script.*?</script>", "", text, flags=re.S))
    assert "@import" not in STYLE and "url(" not in STYLE


@pytest.mark.parametrize("name", list(made.PAGES))
def test_no_page_prints_python(written, name):
    shown = Reader(written(name)).text
    assert not re.search(r"\{'|\['|\('|\bNone\b(?!\.| of the)|\bTrue\b|\bFalse\b|<[a-z_.]+ object at", shown)


def test_a_wide_table_stands_in_a_box_that_scrolls(written):
    for name in ("quickstart", "evaluation", "sweep", "plan"):
        tables = re.findall(r"(?:<div class=\"wide\">)?<table(?! class=\"pairs\")", written(name))
        assert tables and [found for found in tables if not found.startswith("<div")] == []


def test_words_of_a_table_are_not_broken():
    cells = re.search(r"\nth, td \{(.*?)\}", STYLE, re.S)[1]
    assert "white-space: nowrap" in cells
    assert [rule for rule in re.findall(r"[^{}]*\btd\b[^{}]*\{[^{}]*\}", STYLE) if "anywhere" in rule] == []


# ---- the reports of evaluations


def test_the_quickstarts_charts_and_pages_are_panels_of_a_switch_in_groups_that_fold(written):
    tags = Reader(written("quickstart")).tags
    groups = [given for tag, given in tags if tag == "details" and given.get("class") == "group"]
    assert len(groups) == 6 and all("open" in given for given in groups)
    switches = [given for tag, given in tags if tag == "input" and given["type"] == "radio"]
    first = [given["id"] for given in switches if "checked" in given]
    assert first == ["training-1", "pages-1", "mistakes-1"]
    labels = [given["for"] for tag, given in tags if tag == "label"]
    assert labels == [given["id"] for given in switches] and len(set(labels)) == len(labels)
    assert sum(given["name"] == "training" for given in switches) == 3  # the losses, the gates of X, the gates of H
    svg = [given for tag, given in tags if tag == "svg"]
    assert len(svg) == 2 + 2 * 2 + 2 * 2 and all("width" not in given for given in svg)


def test_views_that_nothing_was_asked_in_have_no_column(tmp_path, written):
    assert "blanked" in written("quickstart") and "thumbnail</th>" in written("quickstart")
    run = made._embedded_run("NVLM-D", "d", 0)
    seen = [p for p in run.predictions if p.view in ("vision", "text")]
    summary = dict(run.results, accuracy=made.results.accuracy(seen))
    made.report.write_report(tmp_path / "r.html", [made.report.Run("NVLM-D", summary, seen, run.pages)])
    text = (tmp_path / "r.html").read_text()
    assert "blanked" not in text.lower() and "thumbnail</th>" not in text


def test_answers_of_many_parts_are_small_tables(written):
    text, reader = written("evaluation"), Reader(written("evaluation"))
    for shown in ("letter", "options", "mitochondrion", "4 May 1971, May 4, 1971", "entry_point", "precision"):
        assert shown in reader.text
    assert text.count('<table class="pairs">') == 3 * (2 + 1 + 1)  # MMMU's options are a table within a table


def test_papers_models_without_a_number_have_no_column(written):
    text = Reader(written("evaluation")).text
    assert "paper: NVLM-D-72B" in text and "NVLM-D-34B" not in text  # the paper has text benchmarks of 72B alone


# ---- one format for FLOPs


def test_flops_are_written_alike(written):
    sweep, plan = Reader(written("sweep")).text, Reader(written("plan")).text
    assert flops(1.34e11 * 1.3) in sweep and "174 GFLOP" in sweep  # the mean of two seeds
    assert "120 PFLOP useful, 155 PFLOP executed" in plan and "143 PFLOP" in plan
    axes = re.findall(r'"title":\{"text":"(training FLOPs[^"]*)"', written("sweep"))
    assert axes == ["training FLOPs, GFLOP"]  # the chart's numbers are of this unit; Plotly's own would be "140B"
    for shown in (sweep, plan):
        assert not re.search(r"\d(\.\d+)? ?[BGTP]\b(?!i?B)|\d[eE]\+?\d", shown)


# ---- sweeps


def test_a_run_that_waits_is_named(written):
    assert "h-without-tags/seed=1: waiting" in Reader(written("sweep")).text


# ---- the template


def test_a_name_that_is_not_given_is_an_error_and_text_is_escaped(tmp_path):
    page = tmp_path / "page.html.j2"
    page.write_text('{% extends "base.html.j2" %}{% block body %}{{ said }}{% endblock %}')
    assert "<body>\n&lt;b&gt;</body>" in template.render(page, said="<b>")
    with pytest.raises(jinja2.UndefinedError, match="said"):
        template.render(page)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "none"),
        (True, "true"),
        ("a <b>", "a &lt;b&gt;"),
        (["a", 2, None], "a, 2, none"),
        ([], "none"),
        ({"k": [1, 2]}, '<table class="pairs"><tr><th>k</th><td>1, 2</td></tr></table>'),
        ([{"k": 1}], '<table class="pairs"><tr><th>k</th><td>1</td></tr></table>'),
    ],
)
def test_values(tmp_path, value, shown):
    page = tmp_path / "page.html.j2"
    page.write_text('{% import "parts.html.j2" as parts %}{{ parts.value(it) }}')
    assert re.sub(r"\n\s*", "", template.render(page, it=value)) == shown


def test_every_template_of_a_page_extends_the_shared_base():
    root = template.SHARED.parents[1]
    found = [path for folder in ("nvlm_jax", "data_pipelines", "launch") for path in (root / folder).rglob("*.html*")]
    pages = [path for path in found if path.parent != template.SHARED]
    assert len(pages) == len(made.PAGES) - 1  # the quickstart's page is the evaluation's
    for path in pages:
        text = path.read_text()
        assert text.startswith('{% extends "base.html.j2" %}') and "<style" not in text and "<html" not in text, path
