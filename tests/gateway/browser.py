"""A real Chromium, driven by its own chromedriver, and what tests ask of a page."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

PATIENCE_S: Final = 60.0
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
CONTRASTS: Final = (Path(__file__).parent / "contrasts.js").read_text(encoding="utf-8")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window; the test is skipped where none is installed."""
    program = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-prefers-reduced-motion"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Browser(webdriver.Chrome(options=options, service=Service(driver)))
    try:
        yield browser
    finally:
        browser.driver.quit()


class Browser:
    """One tab."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Go there as a device of that size, with that preference of its owner; nothing is left of pages before."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        preference = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", preference)
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
        self.driver.get("about:blank")
        self.complaints()
        self.hosts_asked()
        self.driver.get(url)

    def js(self, script: str, *arguments: object) -> Any:
        """What a script returns."""
        return self.driver.execute_script(f"return ({script})", *arguments)

    def all(self, selector: str) -> list[WebElement]:
        """Elements by a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The first such element, once there is one."""
        self.wait(lambda: self.all(selector), selector)
        return self.all(selector)[0]

    def text(self, selector: str) -> str:
        """All its text, seen or not; nothing where there is no such element."""
        return str(self.js("document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Poll until true; fails after a long while."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}; it complained: {self.complaints()}"
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """What the console has said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def hosts_asked(self) -> set[str]:
        """Where requests went since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return {urlsplit(url).netloc for url in sent if not url.startswith(("data:", "about:"))}

    def poor_contrasts(self) -> list[str]:
        """Texts on the page whose contrast is below what WCAG 2.2 AA asks of them."""
        return [str(text) for text in self.js(f"({CONTRASTS})()")]
