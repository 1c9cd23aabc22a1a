"""The page at `/` in a real browser: a conversation with pictures, stopped answers, errors, phones and desktops."""

import pytest

from tests.browser import IN_BROWSER, browser  # noqa: F401
from tests.serving.conftest import TEXT, data_uri

pytestmark = IN_BROWSER

DROP = """([names, base64]) => {
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
    const data = new DataTransfer();
    for (const name of names)
        data.items.add(new File([bytes], name, {type: name.endsWith(".png") ? "image/png" : "text/plain"}));
    for (const kind of ["dragover", "drop"])
        document.getElementById("drop").dispatchEvent(
            new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@pytest.fixture
def page(browser):  # noqa: F811
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    opened.set_default_timeout(20_000)
    errors: list = []
    opened.on("pageerror", lambda error: errors.append(error))
    yield opened
    opened.close()
    assert not errors


def drop(page, *names: str) -> None:
    page.evaluate(DROP, [list(names), data_uri().split(",")[1]])


def answered(page, turns: int) -> list[str]:
    """The texts of the model's turns, when so many have been answered."""
    page.wait_for_selector(f":nth-match(.assistant .facts div, {turns})")  # the page's policy forbids scripts of ours
    return [turn.text_content() for turn in page.query_selector_all(".assistant .text")]


def tokens_and_tiles(request) -> tuple[int, int]:
    """How much the engine was asked to read."""
    return len(request.example.tokens), len(request.example.tiles)


def test_two_turns_and_two_pictures(serve, page):
    running = serve()
    page.goto(running.url)
    drop(page, "one.png", "two.png")
    page.wait_for_selector(":nth-match(form .pictures img, 2)")
    page.fill("#question", "What are these?")
    page.press("#question", "Enter")
    assert answered(page, 1) == [TEXT]
    assert page.query_selector_all("form .pictures img") == []
    page.fill("#question", "And the first?")
    page.press("#question", "Shift+Enter")  # a line, not a question
    assert page.input_value("#question") == "And the first?\n" and len(running.engine.requests) == 1
    page.click("#send")
    assert answered(page, 2) == [TEXT, TEXT]
    shown = [turn.text_content() for turn in page.query_selector_all(".user .text")]
    assert shown == ["What are these?", "And the first?"]
    assert len(page.query_selector_all(".user .pictures img")) == 2
    first, second = (tokens_and_tiles(request) for request in running.engine.requests)
    assert first[1] == second[1] == 2 * 3  # both pictures go with the second question too
    assert second[0] > first[0] + 10  # with the first answer


def test_a_picture_is_removed_and_what_is_none_is_named(serve, page):
    running = serve()
    page.goto(running.url)
    drop(page, "one.png", "notes.txt", "two.png")
    assert page.text_content("#problem") == "no picture: notes.txt"
    page.wait_for_selector(":nth-match(form .pictures img, 2)")
    page.click("[aria-label='Remove one.png']")
    page.click("#send")  # a picture alone may be asked
    answered(page, 1)
    assert running.engine.requests[0].example.tiles.shape[0] == 3


def test_stop_keeps_what_was_said_and_a_new_chat_forgets(serve, page):
    running = serve()
    running.engine.gate.clear()
    page.goto(running.url)
    page.fill("#question", "Hello?")
    page.press("#question", "Enter")
    running.wait_for(lambda: running.engine.requests)
    page.click("#stop")
    page.wait_for_selector(".assistant .facts:has-text('stopped')")
    assert page.input_value("#question") == "Hello?"  # nothing was said: the question can be sent again
    running.engine.gate.set()
    page.click("#send")
    assert answered(page, 2) == ["", TEXT]
    page.click("#new")
    assert page.query_selector_all(".turn") == []
    before = len(running.engine.requests[-1].example.tokens)
    page.fill("#question", "Hello?")
    page.press("#question", "Enter")
    answered(page, 1)
    assert len(running.engine.requests[-1].example.tokens) == before  # none of the turns before


def test_a_refusal_is_shown_and_what_was_asked_is_not_lost(serve, page):
    running = serve(keys=("secret",))
    page.goto(running.url)
    drop(page, "one.png")
    page.wait_for_selector("form .pictures img")
    page.fill("#question", "Hello?")
    page.press("#question", "Enter")
    page.wait_for_selector(".assistant.failed .problem")
    assert "with a valid key" in page.text_content(".problem:not(#problem)")
    assert page.input_value("#question") == "Hello?" and page.query_selector("form .pictures img")
    page.fill("#key", "secret")
    page.click("#send")
    assert answered(page, 2) == ["", TEXT]
    assert len(running.engine.requests) == 1 and len(running.engine.requests[0].example.tiles) == 3


def test_a_server_that_is_gone_is_said(serve, page):
    running = serve()
    page.goto(running.url)
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.fill("#question", "Hello?")
    page.press("#question", "Enter")
    page.wait_for_selector(".assistant.failed .problem:has-text('the server cannot be reached')")
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=502, body="<html>bad gateway</html>"))
    page.click("#send")
    page.wait_for_selector(".problem:has-text('502')")


@pytest.mark.parametrize("width", [390, 1366, 1920])
def test_a_conversation_fits_the_window(serve, page, width):
    running = serve()
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(running.url)
    drop(page, "one.png", "two.png")
    page.wait_for_selector(":nth-match(form .pictures img, 2)")
    page.fill("#question", "oneverylongword" * 30)
    page.press("#question", "Enter")
    answered(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
