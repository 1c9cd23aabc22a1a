"""An installed Chromium, for tests of pages; `pytestmark = IN_BROWSER` where they need it."""

from __future__ import annotations

import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
IN_BROWSER = [pytest.mark.parity, pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is here")]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()
