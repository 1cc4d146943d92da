"""Chromium without a window, where there is one, and what tests do with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def opened(profile: Path) -> Iterator[Any]:
    """Chromium, 1280 × 900, with a folder for its profile; skips the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (BROWSER and DRIVER):
        pytest.skip("no Chromium with its driver on this machine")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    driver.set_window_size(1280, 900)
    yield driver
    driver.quit()


def wait(browser: Any, until: Callable[[], Any]) -> Any:
    """What `until` gives once it is true, within a minute."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda _: until())


def width(browser: Any, pixels: int) -> None:
    """Set the width of the page's window."""
    sizes = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)


def load(browser: Any, page: Path) -> None:
    """Open a page, until every plot is drawn; nothing may go wrong on the way."""
    browser.get_log("browser")
    browser.get(page.as_uri())
    wait(browser, lambda: browser.execute_script("return document.documentElement.dataset.ready"))
    log = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not log, log
