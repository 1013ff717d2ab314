"""The browser that opens the pages of this project."""

import shutil
from contextlib import contextmanager

import pytest


@pytest.fixture(scope="module")
def browser():
    executable = shutil.which("chromium")
    if not executable:
        pytest.skip("needs Chromium on the PATH (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive a browser")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opening(browser):
    """Opens a page of a file; afterwards, it has neither complained nor asked the network for anything."""

    @contextmanager
    def opening(path, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        page = context.new_page()
        complaints, requests = [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        yield page
        context.close()
        assert complaints == []
        assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]

    return opening
