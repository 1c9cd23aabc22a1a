"""The page at `/` in a real browser: a picture dropped, a question asked, the answer and an error shown."""

import shutil

import pytest

from tests.serving.conftest import TEXT, data_uri

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = [pytest.mark.parity, pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is here")]

DROP = """([base64, target]) => {
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "page.png", {type: "image/png"}));
    for (const kind of ["dragover", "drop"])
        target.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@pytest.fixture
def page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(20_000)
        yield page
        browser.close()


def test_drop_a_picture_and_ask(serve, page):
    running = serve()
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(running.url)
    page.evaluate(DROP, [data_uri().split(",")[1], page.query_selector("#drop")])
    page.wait_for_selector("#drop img")
    page.fill("#question", "What is this?")
    page.click("button")
    page.wait_for_selector("#facts:has-text('tokens read')")
    assert page.text_content("#answer") == TEXT
    (request,) = running.engine.requests
    assert len(request.example.tiles) == 3
    assert not errors


def test_a_refusal_is_shown(serve, page):
    running = serve(keys=("secret",))
    page.goto(running.url)
    page.fill("#question", "Hello?")
    page.press("#question", "Enter")
    page.wait_for_selector("#answer.error")
    assert "with a valid key" in page.text_content("#answer")
    page.fill("#key", "secret")
    page.click("button")
    page.wait_for_selector("#facts:has-text('tokens read')")
    assert page.text_content("#answer") == TEXT
