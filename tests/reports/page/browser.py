"""Chromium without a window, for tests that use the page as a reader does."""

from __future__ import annotations

import base64
import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def missing() -> str:
    """What a browser test lacks on this machine, and how to get it; empty for nothing."""
    if CHROMIUM is None or DRIVER is None:
        return "needs chromium and chromedriver (Debian: chromium, chromium-driver)"
    if importlib.util.find_spec("selenium") is None:
        return "needs selenium: pip install selenium"
    return ""


@contextmanager
def browser(
    profile: Path, *, width: int = 1280, dark: bool = False, scripts: bool = True
) -> Iterator[Any]:
    """A Chromium with a profile of its own, which it leaves behind in `profile`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM or ""
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not scripts:
        off = {"profile.managed_default_content_settings.javascript": 2}
        options.add_experimental_option("prefs", off)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.set_script_timeout(120)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        if dark:
            scheme = {"name": "prefers-color-scheme", "value": "dark"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def printed_pages(driver: Any) -> int:
    """How many pages of A4 the page takes on paper."""
    paper = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True}
    document = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", paper)["data"])
    # Objects are compressed, save for those that the writer keeps plain: the pages.
    return document.count(b"/Type /Page\n") + document.count(b"/Type /Page/")
