"""A headless Chromium on the console: what it shows, what the gateway answered it, and what axe finds."""

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.waiting import wait_until

# Where screenshots go; none are taken where it is unset.
SCREENSHOTS = os.environ.get("ZEPHYRA_SCREENSHOTS")
WIDE, NARROW = (1280, 900), (390, 844)
SECONDS = 60.0

# Notes each answer's headers before the page sees them, so that what the page shows can be held against them.
SPY = """
window.answered = [];
const plain = window.fetch;
window.fetch = async (...given) => {
  const response = await plain(...given);
  const headers = Object.fromEntries(response.headers);
  window.answered.push({url: new URL(given[0], location).pathname, status: response.status, headers});
  return response;
};
"""
AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ['violations', 'incomplete']}).then(done, (error) => done({failed: String(error)}));
"""


@dataclass
class Page:
    """The console in a browser."""

    driver: Chrome
    url: str

    def open(self, tab: str = "try") -> None:
        # A page of its own each time: a changed fragment alone would load nothing.
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/console#{tab}")
        self.wait("[role=tab][aria-selected=true]")

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """The text of the first match; "" where there is none yet, or it is just being replaced."""
        found: str = self.run("return document.querySelector(arguments[0])?.innerText ?? ''", css)
        return found

    def wait(self, css: str) -> WebElement:
        """The first match that can be seen."""
        wait_until(lambda: bool(self.run(VISIBLE, css)), SECONDS)
        return self.one(css)

    def wait_text(self, css: str, text: str) -> None:
        wait_until(lambda: text in self.text(css), SECONDS)

    def click(self, css: str) -> None:
        """A click of the mouse in its middle, once it is there to be clicked."""
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.wait(css))
        self.wait(css).click()

    def run(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def keys(self, *pressed: str) -> None:
        """Press keys wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*pressed)

    def tab(self, name: str) -> None:
        self.click(f"#tab-{name}")
        self.wait(f"#{name}")

    def ask(self, text: str) -> WebElement:
        """Type a prompt, send it by Enter, and return the turn once all of it is answered."""
        before = len(self.all(".turn"))
        self.wait("#prompt").send_keys(text, Keys.ENTER)
        wait_until(lambda: len(self.all(".turn[aria-busy=false]")) == before + 1, SECONDS)
        return self.all(".turn")[-1]

    def confirm(self, css: str) -> str:
        """Click what asks first, confirm, and close once it has ended; returns what the dialog said."""
        self.click(css)
        self.click("#action-confirm")
        wait_until(lambda: bool(self.all("dialog.action .audit > *")), SECONDS)
        said = self.text("dialog.action")
        self.click("#action-cancel")
        wait_until(lambda: not self.all("dialog.action"))
        return said

    def answers(self, path: str) -> list[dict[str, Any]]:
        """What the gateway answered this page on a path, oldest first."""
        return [answer for answer in self.run("return window.answered") if answer["url"] == path]

    def colours(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def size(self, size: tuple[int, int]) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def findings(self) -> list[str]:
        """What axe finds of serious or critical impact on the page as it is, a line each."""
        self.run(axe_source())
        found = self.driver.execute_async_script(AXE)
        assert "failed" not in found, found["failed"]
        return [
            f"{rule['id']}: {node['html'][:200]} ({node.get('failureSummary', '')[:200]})"
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]

    def complaints(self) -> list[str]:
        """What the browser's console has against the page: errors, and what its policy kept away."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]

    def screenshot(self, name: str, most: int = 1800) -> None:
        """The whole page, `most` pixels high at most, where screenshots are asked for."""
        if SCREENSHOTS is None:
            return
        # The bar stays at the top of what is in view, wherever that is in the picture.
        self.run("document.activeElement.blur(); window.scrollTo(0, 0)")
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most), "scale": 1}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        image = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
        path = Path(SCREENSHOTS) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.quantize(255, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


VISIBLE = "const found = document.querySelector(arguments[0]); return Boolean(found && found.checkVisibility())"


def axe_source() -> str:
    files = distribution("selenium-axe-python").files or []
    return next(file for file in files if file.name == "axe.min.js").read_text()


@contextmanager
def open_chromium() -> Iterator[Chrome]:
    """Debian's Chromium, headless. Skips the test where it is missing, which on a CI machine is an error."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        missing = "chromium and chromedriver are not installed: bash deploy/system.sh"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    options = ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-first-run",
    ):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chromium = Chrome(options=options, service=Service(driver))
    try:
        chromium.set_script_timeout(SECONDS)
        chromium.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SPY})
        yield chromium
    finally:
        chromium.quit()


def timeline_of(page: Page, turn: WebElement) -> dict[str, dict[str, float]]:
    """What a turn's first time line draws: milliseconds and pixels of each part, and of the whole."""
    drawn: dict[str, dict[str, float]] = json.loads(page.run(DRAWN, turn))
    return drawn


DRAWN = """
const figure = arguments[0].querySelector('figure.time');
const whole = figure.querySelector('svg').getBoundingClientRect().width;
const parts = {whole: {ms: Number(figure.dataset.total), pixels: whole}};
for (const part of figure.querySelectorAll('rect')) {
  const name = part.classList[1];
  parts[name] = {ms: Number(part.dataset.ms), pixels: part.getBoundingClientRect().width};
}
return JSON.stringify(parts);
"""
