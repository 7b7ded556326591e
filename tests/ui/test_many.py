# SPDX-License-Identifier: Apache-2.0
"""A thousand hosts and five thousand connections: everything is drawn, and the page still answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.ui.conftest import Browser
from tests.ui.fleets import EDGES, HOSTS, many
from tests.unit.agent.observe.ui_page import LivePage, live_page
from tests.waiting import eventually

from wardmesh.observe.ui.model import CONNECTED, FlowModel

CY = "document.getElementById('map')._cyreg.cy"
HOSTS_DRAWN = f"{CY}.nodes().filter(n => !n.hasClass('title')).length"
# Cells of a grid over the map in which something is painted, on whichever of the library's layers.
PAINTED = """
const found = new Set();
for (const canvas of document.querySelectorAll('#map canvas')) {
  if (!canvas.width || !canvas.height) continue;
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  for (let y = 0; y < canvas.height; y += 2) for (let x = 0; x < canvas.width; x += 2)
    if (data[4 * (y * canvas.width + x) + 3])
      found.add(`${(10 * x / canvas.width) | 0} ${(10 * y / canvas.height) | 0}`);
}
return found.size
"""
INSIDE = f"""
const e = {CY}.extent();
return {CY}.nodes().filter(n => n.position('x') > e.x1 && n.position('x') < e.x2
  && n.position('y') > e.y1 && n.position('y') < e.y2).length
"""


@pytest.fixture
def page() -> Iterator[LivePage]:
    model = FlowModel("a thousand hosts")
    model.add(many())
    model.connected()
    model.tell_members((f"lab/{flow.source.name}" for flow in many()), CONNECTED)
    with live_page(model=model) as made:
        yield made


def test_a_thousand_hosts_are_drawn_and_the_page_answers(browser: Browser, page: LivePage) -> None:
    browser.open(page)
    browser.until(HOSTS_DRAWN, HOSTS, 60)
    browser.until(f"{CY}.edges().length", EDGES, 60)
    assert f"{HOSTS} hosts, {EDGES} connections" in browser.text("#map-title")
    assert len(browser.rows()) == 500
    places = browser.value(
        f"new Set({CY}.nodes().map(n => Object.values(n.position()).map(Math.round).join())).size"
    )
    assert places >= HOSTS, "nobody stands on somebody else"
    assert browser.run(INSIDE) >= HOSTS, "the whole map is in the window"
    browser.expected = ("willReadFrequently",)  # PAINTED reads the canvas
    assert eventually(lambda: browser.run(PAINTED) > 40, 60)
    # Live: another flow moves nobody.
    before = browser.value(f"{CY}.nodes()[7].position('x')")
    page.model.add([many(HOSTS, EDGES, seed=8)[0]._replace(uuid="later")])
    browser.until("document.querySelector('#rows tr').dataset.number", str(EDGES + 1), 60)
    assert browser.value(f"{CY}.nodes()[7].position('x')") == before


def test_a_thousand_hosts_become_ten_groups_and_a_filter_narrows_them(
    browser: Browser, page: LivePage
) -> None:
    browser.open(page, "?group=app")
    browser.until(HOSTS_DRAWN, 10, 60)
    total = browser.value(
        f"{CY}.nodes().map(n => +n.data('title').match(/\\(([0-9]+)\\)/)[1]).reduce((a, b) => a + b, 0)"
    )
    assert total == HOSTS
    browser.fill(group="", label="app=web,env=stage")
    wanted = {name for flow in many() for name in (flow.source.name, flow.destination.name) if selected(flow)}
    browser.until(HOSTS_DRAWN, len(wanted), 60)


def selected(flow: object) -> bool:
    ends = (flow.source, flow.destination)  # type: ignore[attr-defined]
    return any({"vm:app=web", "vm:env=stage"} <= set(end.labels) for end in ends)
