"""A real Chromium without a window, and checks that a reader of the page would make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["CONTRAST", "PROBLEMS", "chromium", "requests_of", "size", "text"]

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--disable-dev-shm-usage",
)  # fmt: skip


def _found(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def chromium(profile: Path) -> Iterator:
    """A browser with a fresh profile. Skips the test where there is none."""
    selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'he-agg[dev]'")
    browser, driver = _found("chromium", "chromium-browser", "google-chrome"), _found("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    assert selenium
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield running
    finally:
        running.quit()


def requests_of(browser) -> list[str]:
    """The address of every request since this was asked last."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]


# What the well-known checkers would say first, as one function: it returns sentences, none if all is well.
PROBLEMS = (Path(__file__).parent / "problems.js").read_text()

# Text whose contrast to what is behind it is below 4.5 (3 where it is large).
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


def size(browser, width, height=800, *, dark=False):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def text(browser, selector):
    # The text of what is not drawn is none: `innerText` would give the text of a hidden element, drawn or not.
    script = "const one = document.querySelector(arguments[0]); return one?.checkVisibility() ? one.innerText : ''"
    return browser.execute_script(script, selector)
