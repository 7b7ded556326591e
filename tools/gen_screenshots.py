# SPDX-License-Identifier: Apache-2.0
"""Write the pictures of `wardmesh ui` in docs/images, taken in the tests' headless Chromium.

By hand, when the page changes: pictures differ by a pixel here and there from one Chromium to the next, so no
test compares them. `PYTHONPATH=agent:. .venv/bin/python tools/gen_screenshots.py`
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "agent")]

from tests.ui.conftest import Browser, start_browser  # noqa: E402
from tests.ui.fleets import HOSTS, many, showcase  # noqa: E402
from tests.unit.agent.observe.ui_page import live_page  # noqa: E402

from wardmesh.observe.flow import Flow  # noqa: E402
from wardmesh.observe.ui.model import CONNECTED, UNAVAILABLE, FlowModel  # noqa: E402

IMAGES = REPO / "docs" / "images"
SIZE, SMALL = (1200, 860), (1000, 760)
SETTLE = 3.0  # seconds until everything is painted
NODES = "document.getElementById('map')._cyreg.cy.nodes().filter(n => !n.hasClass('title')).length"


def take(name: str, flows: list[Flow], query: str, nodes: int, scheme: str = "light") -> None:
    """One picture. nodes: how many there are on the map when it is whole."""
    model = FlowModel("127.0.0.1:4245")
    model.connected()
    model.add(flows)
    members = sorted({end.name for flow in flows for end in (flow.source, flow.destination) if end.name})
    model.tell_members((f"shop/{member}" for member in members), CONNECTED)
    if len(members) < HOSTS:
        model.tell_members(["shop/old1"], UNAVAILABLE)
    driver = start_browser(*(SIZE if len(members) < HOSTS else SMALL))
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    try:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        with live_page(model=model) as page:
            browser = Browser(driver)
            browser.open(page, query)
            browser.until(NODES, nodes, 60)
            time.sleep(SETTLE)
            driver.save_screenshot(str(IMAGES / name))
    finally:
        driver.quit()
    print(f"{IMAGES.name}/{name}: {(IMAGES / name).stat().st_size // 1024} KiB")


def main() -> int:
    """All of them."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    shown = showcase(time.time_ns())
    take("ui-map.png", shown, "", 13)
    take("ui-many.png", many(), "", HOSTS)
    take("ui-groups.png", shown, "?group=app&verdict=dropped,audited", 4, "dark")
    return 0


if __name__ == "__main__":
    sys.exit(main())
