# SPDX-License-Identifier: Apache-2.0
"""One headless Chromium for all tests of the page; after each of them its console must be silent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from tests.unit.agent.observe.ui_page import LivePage
from tests.waiting import eventually

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# A test's server ends before its browser looks away: the page's next question finds nobody.
GONE = tuple(
    f"net::ERR_{why}"
    for why in ("CONNECTION_REFUSED", "CONNECTION_RESET", "EMPTY_RESPONSE", "SOCKET_NOT_CONNECTED")
)
# Before any script of the page: what its policy forbids, and what nobody caught.
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (e) => window.violations.push(
    `${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}`));
window.addEventListener("error", (e) => window.violations.push(String(e.message)));
window.addEventListener("unhandledrejection", (e) => window.violations.push(String(e.reason)));
"""


def start_browser(width: int = 1280, height: int = 900) -> webdriver.Chrome:
    """The distribution's Chromium and its driver: nothing is fetched."""
    found = [path for path in map(shutil.which, BROWSERS) if path]
    driver = shutil.which("chromedriver")
    assert found and driver, "chromium and chromium-driver are needed: tools/dev.sh installs them"
    options = Options()
    options.binary_location = found[0]
    flags = ["--headless=new", "--disable-dev-shm-usage", "--disable-gpu", f"--window-size={width},{height}"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # as root the browser has none; it shows only our own page
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    made.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    return made


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    made = start_browser()
    try:
        yield made
    finally:
        made.quit()


class Browser:
    """The page in the browser. expected: words of console messages that a test provokes."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.expected: tuple[str, ...] = ()

    def open(self, page: LivePage, query: str = "") -> None:
        self.driver.get(page.url + query)
        self.until("Boolean(document.getElementById('map')._cyreg)")

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def value(self, expression: str) -> Any:
        return self.run(f"return {expression}")

    def until(self, expression: str, wanted: Any = None, timeout: float = 30.0) -> None:
        """Poll until an expression is what is wanted; without that, until it is true."""
        seen: list[Any] = [None]

        def holds() -> bool:
            seen[0] = self.value(expression)
            return bool(seen[0]) if wanted is None else bool(seen[0] == wanted)

        assert eventually(holds, timeout), f"{expression}: {seen[0]!r}, wanted {wanted!r}"

    def rows(self) -> list[int]:
        """Numbers of the flows in the table, as they stand from top to bottom."""
        found: list[int] = self.value(
            "[...document.querySelectorAll('#rows tr')].map(r => +r.dataset.number)"
        )
        return found

    def edges(self) -> dict[str, str]:
        """from>to of the map's edges, as the library has them, to their class."""
        found: dict[str, str] = self.value(
            "Object.fromEntries(document.getElementById('map')._cyreg.cy.edges().map(e =>"
            " [e.source().id().slice(5) + '>' + e.target().id().slice(5),"
            " e.classes().find(c => !['few', 'many', 'over'].includes(c))]))"
        )
        return found

    def nodes(self) -> list[str]:
        """Ids of the nodes that stand for hosts and groups, sorted."""
        found: list[str] = self.value(
            "document.getElementById('map')._cyreg.cy.nodes().filter(n => !n.hasClass('title'))"
            ".map(n => n.id())"
        )
        return sorted(found)

    def text(self, selector: str) -> str:
        found: str = self.run("return document.querySelector(arguments[0]).textContent", selector)
        return found

    def fill(self, **fields: str) -> None:
        """Set fields of the form as somebody who types and leaves the field."""
        for name, value in fields.items():
            self.run(
                "const f = document.getElementById('filters').elements[arguments[0]]; f.value = arguments[1];"
                "f.dispatchEvent(new Event('change', {bubbles: true}))",
                name,
                value,
            )

    def complaints(self) -> list[str]:
        """What the console and the page's policy complained about, expected things left out."""
        told = [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]
        told += self.value("window.violations || []")
        return [text for text in told if not any(word in text for word in (*GONE, *self.expected))]


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Iterator[Browser]:
    made = Browser(chromium)
    chromium.get_log("browser")  # type: ignore[no-untyped-call]
    yield made
    complaints = made.complaints()
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chromium.get("about:blank")
    assert complaints == []
