"""A headless Chromium for tests of pages, what it complained of, and what axe finds in them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
# Software WebGL: the machine of a test may have no GPU. As root Chromium has no sandbox.
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SERIOUS = ("serious", "critical")


def chromium_path() -> str:
    """Give the browser's program, or skip the test that asks for it."""
    found = os.environ.get("NPHM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium: install one (Debian: chromium-headless-shell), or name it in NPHM_CHROMIUM")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser; its pages reach no network."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `dev` is not installed")
    path = chromium_path()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Page:
    """A page with everything that went wrong on it."""

    page: Any
    folder: Path
    troubles: list[str] = field(default_factory=list)
    """Console messages, errors, and requests that failed or left the disk."""

    def open(self, address: str, ready: str) -> Any:
        """Go to a page of the folder and wait for what shows that it is there."""
        # From another page of the same file only the part after # would change.
        self.page.goto("about:blank")
        self.page.goto(f"file://{self.folder}/{address}")
        self.page.wait_for_selector(ready)
        return self.page

    def axe(self) -> list[str]:
        """Give axe's serious findings."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra `dev` is not installed")
        # It would fetch style sheets, which no page from a disk may.
        found = axe.Axe().run(self.page, options={"preload": False}).response["violations"]
        return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found if v["impact"] in SERIOUS]

    def is_wider_than_the_screen(self) -> bool:
        """Say whether one has to scroll sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


@contextmanager
def page_of(
    browser: Any, folder: Path, *, scheme: str = "light", width: int = 1400, height: int = 900
) -> Iterator[Page]:
    """Give a fresh page, without anything kept from others."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = Page(context.new_page(), folder)
    page.page.on("console", lambda message: page.troubles.append(f"{message.type}: {message.text}"))
    page.page.on("pageerror", lambda error: page.troubles.append(f"error: {error}"))
    page.page.on("requestfailed", lambda request: _note_failure(request, page.troubles))
    context.on("request", lambda request: _check_local(request.url, page.troubles))
    try:
        yield page
    finally:
        context.close()


def _note_failure(request: Any, troubles: list[str]) -> None:
    # What was still on its way when the page was left; a file that is not there fails otherwise.
    if request.failure != "net::ERR_ABORTED":
        troubles.append(f"failed: {request.url}: {request.failure}")


def _check_local(url: str, troubles: list[str]) -> None:
    if not url.startswith(("file:", "data:", "blob:", "about:")):
        troubles.append(f"network: {url}")
