"""A Chromium that tests can drive, and a JupyterLab for it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import LabServer
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ENABLE = ".venv/bin/playwright install --with-deps chromium"


def chromium_path(playwright: Playwright) -> str | None:
    """The system's Chromium, else the one that `playwright install` fetched, else None."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    own = playwright.chromium.executable_path
    return found or (own if Path(own).is_file() else None)


# Of a module each: while Playwright is at work no other test of this process can start an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; without one the tests are skipped, in CI they fail."""
    with sync_playwright() as playwright:
        path = chromium_path(playwright)
        if path is None:
            needed = os.environ.get("CI") or os.environ.get("VLCL_REQUIRE_BROWSER") == "1"
            (pytest.fail if needed else pytest.skip)(f"there is no Chromium; to get one: {ENABLE}")
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=quiet)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """A JupyterLab with copies of the notebooks, their runs shortened."""
    server = LabServer(tmp_path_factory.mktemp("lab"))
    for notebook in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb"):
        server.copy_shortened(notebook)
    with server:
        yield server


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    yield context.new_page()
    context.close()
