"""Every page in a real browser, on a phone, a laptop and a large screen: none is wider than its window."""

import re

import pytest

from tests.browser import IN_BROWSER, browser  # noqa: F401
from tests.webpage import made

pytestmark = IN_BROWSER

WIDTHS = (390, 1366, 1920)
HEIGHTS = {"quickstart": 6500, "evaluation": 9500, "sweep": 5500, "plan": 2200, "batch": 5000, "chat": 844}  # at 390
TALL = {"quickstart": 3600, "evaluation": 4200, "sweep": 3500, "plan": 1100, "batch": 2800, "chat": 844}  # from 1366
LUMINANCE = """() => {
    const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
    return (r + g + b) / 3;
}"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    paths = {}

    def write(name):
        if name not in paths:
            paths[name] = tmp_path_factory.mktemp(name) / "page.html"
            made.PAGES[name](paths[name])
        return paths[name].as_uri()

    return write


@pytest.fixture
def visit(browser, written):  # noqa: F811
    opened, errors = [], []

    def go(name, width, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        opened.append(page)
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(written(name))
        return page

    yield go
    for page in opened:
        page.close()
    assert not errors


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", list(made.PAGES))
def test_no_page_is_wider_than_its_window_or_taller_than_it_need(visit, name, width):
    page = visit(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    most = HEIGHTS[name] if width == 390 else TALL[name]
    page.wait_for_function(f"document.documentElement.scrollHeight <= {most}")


@pytest.mark.parametrize("name", list(made.PAGES))
def test_dark_where_the_reader_asks_for_it(visit, name):
    assert visit(name, 1366, "light").evaluate(LUMINANCE) > 240
    assert visit(name, 1366, "dark").evaluate(LUMINANCE) < 40


def test_the_quickstarts_curves_stand_side_by_side_and_fill_the_page(visit):
    page = visit("quickstart", 1366)
    boxes = [svg.bounding_box() for svg in page.query_selector_all("svg") if svg.is_visible()]
    assert len(boxes) == 2 and boxes[0]["y"] == boxes[1]["y"]
    assert all(box["width"] > 600 for box in boxes)
    phone = [svg.bounding_box() for svg in visit("quickstart", 390).query_selector_all("svg") if svg.is_visible()]
    assert all(340 < box["width"] <= 390 for box in phone)


def test_a_switch_shows_one_panel_by_mouse_and_keys_and_a_group_folds(visit):
    page = visit("quickstart", 1366)
    titles = "figure:visible .label:has-text('{}')"
    assert page.locator(titles.format("loss")).count() == 2 and page.locator(titles.format("tanh")).count() == 0
    page.click("label[for='training-2']")
    assert page.locator(titles.format("NVLM-X, sft: tanh")).count() == 2
    assert page.locator(titles.format("loss")).count() == 0
    page.keyboard.press("ArrowRight")
    assert page.locator(titles.format("NVLM-H, sft: tanh")).count() == 2
    page.click("summary:has-text('Training')")
    assert page.locator("figure:visible .label").count() == 0
    page.emulate_media(media="print")  # on paper every panel stands
    page.click("summary:has-text('Training')")
    assert page.locator("figure:visible .label").count() == 10


@pytest.mark.parametrize("name", ["quickstart", "evaluation", "sweep", "plan"])
def test_no_word_of_a_table_is_broken(visit, name):
    """A word that is broken has boxes on two lines."""
    broken = visit(name, 390).evaluate("""() => {
        const found = [];
        for (const cell of document.querySelectorAll("th, td")) {
            const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
            for (let node; (node = texts.nextNode());)
                for (const word of node.data.matchAll(/\\S+/g)) {
                    const range = document.createRange();
                    range.setStart(node, word.index);
                    range.setEnd(node, word.index + word[0].length);
                    const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
                    if (tops.size > 1) found.push([word[0], cell.matches(".words td, .pairs td, .facts td, .prose")]);
                }
        }
        return found;
    }""")
    # Running text may go on after a hyphen; names and numbers may not.
    assert [word for word, running_text in broken if not (running_text and re.search(r"[-/]", word))] == []


FILLED = """() => [...document.querySelectorAll(".plotly-graph-div")].every((chart) =>
    Math.abs((chart.querySelector(".main-svg")?.getBoundingClientRect().width ?? 0) - chart.offsetWidth) <= 1)"""


@pytest.mark.parametrize(("width", "beside"), [(390, 1), (1366, 3)])
def test_plotly_charts_are_as_wide_as_their_boxes(visit, width, beside):
    page = visit("sweep", width)
    page.wait_for_function(FILLED)
    boxes = [chart.bounding_box() for chart in page.query_selector_all(".plotly-graph-div")]
    assert len(boxes) == 7 and max(box["x"] + box["width"] for box in boxes) <= width
    assert len({box["y"] for box in boxes[:3]}) == 3 // beside


def test_a_chart_fills_its_box_after_its_group_was_folded_and_the_window_turned(visit):
    page = visit("sweep", 1366)
    page.wait_for_function(FILLED)
    page.click("summary:has-text('Learning curves')")
    page.set_viewport_size({"width": 390, "height": 844})
    page.click("summary:has-text('Learning curves')")
    page.wait_for_function(FILLED)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_plotly_writes_on_dark_in_light(visit):
    for scheme, colour in (("dark", "rgb(227, 233, 239)"), ("light", "rgb(29, 39, 51)")):
        tick = visit("sweep", 1366, scheme).wait_for_selector(".plotly-graph-div .xtick text", state="attached")
        assert tick.evaluate("tick => getComputedStyle(tick).fill") == colour
