# SPDX-License-Identifier: Apache-2.0
"""The page in a browser: live, filtered as Python filters, coloured, shared, safe before hostile names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from tests.ui.conftest import Browser
from tests.ui.fleets import small
from tests.unit.agent.observe.relays import Relay, relaying
from tests.unit.agent.observe.support import Served, event, namer
from tests.unit.agent.observe.ui_page import LivePage, live_page
from tests.waiting import eventually

from wardmesh.observe.flow import Flow, Kind, Party, Policy, Verdict
from wardmesh.observe.ui import feed as feed_module
from wardmesh.observe.ui.model import FlowModel
from wardmesh.observe.ui.rows import row_of
from wardmesh.observe.ui.view import read_view

KINDS = ("encrypted", "plain", "audited", "dropped")
CY = "document.getElementById('map')._cyreg.cy"


@pytest.fixture
def page() -> Iterator[LivePage]:
    """A page with flows of every kind, and no relay."""
    model = FlowModel("the test")
    model.add(small())
    model.connected()
    with live_page(model=model) as made:
        yield made


def shown(asked: dict[str, str]) -> tuple[list[int], set[str]]:
    """Numbers of the rows that Python admits, the newest first, and the pairs of the map."""
    view = read_view(asked)
    rows = [row_of(item, number) for number, item in enumerate(small(), 1)]
    kept = [row for row in rows if view.admits(row)]
    return [row.number for row in reversed(kept)], {f"{row.left.name}>{row.right.name}" for row in kept}


# --- live ---


def test_a_flow_appears_in_map_and_table_without_a_reload(browser: Browser, tmp_path: Path) -> None:
    with relaying(tmp_path, "db1", "web1") as (relay, _client, members), live_page(relay.target) as page:
        members["db1"].add(event(1))
        browser.open(page)
        browser.run("window.kept = 1")
        browser.until("document.querySelectorAll('#rows tr').length", 1)
        assert browser.edges() == {"web1>db1": "encrypted"}
        members["web1"].add(event(2, source="203.0.113.9", destination="10.0.0.1", encrypted=False))
        members["db1"].add(event(3, verdict=Verdict.DROPPED, kind=Kind.DROP, drop_reason=133))
        browser.until("document.querySelectorAll('#rows tr').length", 3)
        assert browser.edges() == {"web1>db1": "dropped", "world>web1": "plain"}
        assert "live from" in browser.text("#state") and "2 hosts" not in browser.text("#map-title")
        assert browser.value("window.kept") == 1
        assert {cell.text for cell in browser.driver.find_elements(By.CSS_SELECTOR, "#rows td.outcome")} == {
            "\u2713 FORWARDED",
            "\u2715 DROPPED",
        }


def test_members_that_do_not_answer_and_a_relay_that_is_gone_are_shown(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "_LONGEST", 0.5)
    member = Served(tmp_path, own="db1")
    relay = Relay(tmp_path)
    relay.peers("db1", "gone")
    try:
        with live_page(relay.target) as page:
            member.add(event(1))
            browser.open(page)
            browser.until("document.getElementById('state').textContent.includes('1 of 2 members do not')")
            browser.until(f"{CY}.getElementById('host gone').hasClass('wrong')")
            assert "gone: unavailable" in browser.text("#missing")
            browser.until("document.querySelectorAll('#rows tr').length", 1)
            relay.close()
            browser.until("document.getElementById('state').textContent.startsWith('relay not reachable')")
            assert len(browser.rows()) == 1, "what was seen stays"
            relay = Relay(tmp_path)
            relay.peers("db1")
            browser.until("document.getElementById('state').textContent.startsWith('live from')")
            member.add(event(2))
            browser.until("document.querySelectorAll('#rows tr').length", 2)
            browser.until("document.getElementById('missing').hidden")
    finally:
        relay.close()
        member.close()


def test_a_page_whose_server_begins_anew_begins_anew(browser: Browser, page: LivePage) -> None:
    browser.open(page)
    browser.until("document.querySelectorAll('#rows tr').length", 240)
    fresh = FlowModel("another life")
    fresh.add([namer().flow(event(1))])
    page.listener.model = fresh
    browser.until("document.querySelectorAll('#rows tr').length", 1)
    assert browser.edges() == {"web1>db1": "encrypted"}


def test_a_server_that_is_gone_is_told(browser: Browser) -> None:
    with live_page() as page:
        browser.open(page)
        browser.until("document.getElementById('counts').textContent !== ''")
    browser.until("document.getElementById('state').textContent", "wardmesh ui does not answer")


# --- filters ---

ASKED: tuple[dict[str, str], ...] = (
    {},
    {"host": "web1"},
    {"host": "web*"},
    {"host": "world"},
    {"host": "db1.example.com"},
    {"label": "app=web"},
    {"label": "env in (prod, stage),app!=db"},
    {"label": "!app"},
    {"verdict": "forwarded"},
    {"verdict": "dropped"},
    {"verdict": "audited"},
    {"verdict": "dropped,audited"},
    {"tunnel": "encrypted"},
    {"tunnel": "plain"},
    {"host": "web*", "label": "app=db", "verdict": "dropped", "tunnel": "encrypted"},
    {"host": "nobody"},
)


def test_every_filter_shows_exactly_what_python_admits(browser: Browser, page: LivePage) -> None:
    browser.open(page)
    for asked in ASKED:
        browser.fill(**{name: asked.get(name, "") for name in ("host", "label", "verdict", "tunnel")})
        rows, pairs = shown(asked)
        assert eventually(lambda wanted=rows: browser.rows() == wanted), (
            asked,
            len(rows),
            len(browser.rows()),
        )
        if pairs:
            assert eventually(lambda wanted=pairs: set(browser.edges()) == wanted), asked
        assert browser.value("document.getElementById('empty').hidden") is bool(rows)


def test_the_address_line_holds_the_view(browser: Browser, page: LivePage) -> None:
    browser.open(page, "?host=web2&verdict=dropped%2Caudited&label=env%3Dstage")
    rows, _pairs = shown({"host": "web2", "verdict": "dropped,audited", "label": "env=stage"})
    assert rows and eventually(lambda: browser.rows() == rows)
    fields = "[...document.getElementById('filters').elements].map(f => f.value).filter(Boolean)"
    assert browser.value(fields)[:3] == ["web2", "env=stage", "dropped,audited"]
    browser.driver.find_element(By.ID, "clear").click()
    assert eventually(lambda: len(browser.rows()) == 240)
    assert browser.value("location.search") == ""
    browser.driver.back()
    assert eventually(lambda: browser.rows() == rows)
    assert "verdict=dropped" in browser.value("location.search")


def test_a_filter_that_cannot_be_read_is_explained(browser: Browser, page: LivePage) -> None:
    browser.expected = ("status of 400",)
    browser.open(page)
    browser.fill(label="app in web")
    browser.until("document.getElementById('wrong').textContent.includes('label')")
    browser.fill(label="app=web")
    rows, _pairs = shown({"label": "app=web"})
    assert eventually(lambda: browser.rows() == rows)
    assert browser.text("#wrong") == ""


def test_typing_is_enough(browser: Browser, page: LivePage) -> None:
    browser.open(page)
    browser.driver.find_element(By.NAME, "host").send_keys("web2")
    rows, _pairs = shown({"host": "web2"})
    assert eventually(lambda: browser.rows() == rows)


# --- the map ---


def click(browser: Browser, point: str) -> None:
    """Click where the library says that something is."""
    canvas = browser.driver.find_element(By.ID, "map")
    place = browser.value(f"(() => {{ const p = {point}; return [p.x, p.y] }})()")
    size = canvas.size
    offset = (int(place[0] - size["width"] / 2), int(place[1] - size["height"] / 2))
    ActionChains(browser.driver).move_to_element_with_offset(canvas, *offset).click().perform()


def test_a_click_on_a_host_shows_its_flows(browser: Browser, page: LivePage) -> None:
    browser.open(page)
    browser.until(f"{CY}.nodes().length", 5)
    click(browser, f"{CY}.getElementById('host web2').renderedPosition()")
    rows, pairs = shown({"host": "web2"})
    assert eventually(lambda: browser.rows() == rows)
    assert set(browser.edges()) == pairs and "host=web2" in browser.value("location.search")


def test_a_click_on_a_connection_shows_its_flows(browser: Browser) -> None:
    model, names = FlowModel("the test"), namer()
    for number in range(6):
        model.add([names.flow(event(number, source="10.0.0.1" if number % 2 else "10.0.0.2"))])
    with live_page(model=model) as page:
        browser.open(page)
        browser.until(f"{CY}.edges().length", 2)
        click(browser, f"{CY}.edges().filter(e => e.source().id() === 'host web2').renderedMidpoint()")
        assert eventually(lambda: browser.rows() == [5, 3, 1])
        assert browser.text("#picked") == "from web2, to db1"


def test_hosts_become_groups_by_a_label(browser: Browser, page: LivePage) -> None:
    browser.open(page, "?group=app")
    browser.until(f"{CY}.nodes().length", 4)
    titles = browser.value(f"{CY}.nodes().map(n => n.data('title')).sort()")
    assert titles == ["app=db (1)", "app=web (2)", "no app (1)", "world"]
    wanted = sum(1 for row in (row_of(item, 1) for item in small()) if row.left.name.startswith("web"))
    total = browser.value(
        f"{CY}.edges().filter(e => e.source().data('title') === 'app=web (2)')"
        ".map(e => ['forwarded', 'dropped', 'audited'].map(word =>"
        " +e.data('words').match(new RegExp('([0-9]+) ' + word))[1]))"
        ".flat().reduce((a, b) => a + b, 0)"
    )
    assert total == wanted
    click(browser, f"{CY}.nodes().filter(n => n.data('title') === 'no app (1)').renderedPosition()")
    rows, _pairs = shown({"label": "!app"})
    assert eventually(lambda: browser.rows() == rows)


def looks(browser: Browser, kind: str) -> list[str]:
    names = ("line-color", "line-style", "target-arrow-shape")
    return [browser.value(f"{CY}.edges('.{kind}')[0].style('{name}')") for name in names]


def colour_of(browser: Browser, name: str) -> Any:
    """A colour of the style sheet as the browser computes it."""
    return browser.run(
        "const e = document.createElement('i'); e.style.color = `var(--${arguments[0]})`;"
        "document.body.append(e);"
        "const c = getComputedStyle(e).color; e.remove(); return c",
        name,
    )


def four_kinds() -> FlowModel:
    model, names = FlowModel("the test"), namer()
    model.add(
        names.flow(made)
        for made in (
            event(1),
            event(2, source="203.0.113.9", encrypted=False),
            event(3, source="10.0.0.2", verdict=Verdict.AUDIT),
            event(4, source="10.0.0.12", verdict=Verdict.DROPPED),
        )
    )
    return model


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_states_differ_in_colour_and_in_form_and_can_be_read(browser: Browser, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    with live_page(model=four_kinds()) as page:
        browser.open(page)
        browser.until(f"{CY}.edges().length", 4)
        found = {kind: looks(browser, kind) for kind in KINDS}
        for one, other in itertools.combinations(KINDS, 2):
            assert found[one][0] != found[other][0], "colours differ"
            assert found[one][1:] != found[other][1:], "forms differ"
        assert {kind: look[0].replace(" ", "") for kind, look in found.items()} == {
            kind: colour_of(browser, kind).replace(" ", "") for kind in KINDS
        }
        for name, cell in (("forwarded", "encrypted"), ("dropped", "dropped"), ("audited", "audited")):
            assert browser.value(
                f"getComputedStyle(document.querySelector('#rows tr.{name} td.outcome')).color"
            ) == colour_of(browser, cell)
        ground = colour_of(browser, "ground")
        assert (contrast(ground, "rgb(255, 255, 255)") < 1.5) is (scheme == "light")
        for name in (*KINDS, "text", "faint"):
            assert contrast(colour_of(browser, name), ground) >= 4.5, name  # WCAG 2.2, 1.4.3


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: relative luminances of two rgb(...) colours."""

    def luminance(text: str) -> float:
        parts = [int(part) / 255 for part in text[text.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


# --- who cannot or will not use a mouse ---


def test_everything_is_reached_by_keyboard(browser: Browser) -> None:
    with live_page(model=four_kinds()) as page:
        browser.open(page)
        browser.until(f"{CY}.edges().length", 4)
        place = browser.driver.find_element(By.ID, "map")
        zoom = browser.value(f"{CY}.zoom()")
        place.send_keys("+")
        assert browser.value(f"{CY}.zoom()") > zoom
        pan = browser.value(f"{CY}.pan().x")
        place.send_keys(Keys.ARROW_LEFT)
        assert browser.value(f"{CY}.pan().x") > pan
        place.send_keys("0")
        assert abs(browser.value(f"{CY}.zoom()") - zoom) < 0.01
        browser.driver.find_element(By.CSS_SELECTOR, "#connections summary").send_keys(Keys.ENTER)
        browser.until("document.querySelectorAll('#pairs tr').length", 4)
        button = browser.driver.find_element(By.CSS_SELECTOR, "#pairs tr.dropped button")
        assert button.get_attribute("aria-label") == "Flows from db1.example.com to db1"
        button.send_keys(Keys.ENTER)
        assert eventually(lambda: browser.rows() == [4])
        reached = set()
        for _ in range(30):
            active = browser.driver.switch_to.active_element
            reached.add(active.get_attribute("id") or active.get_attribute("name") or active.tag_name)
            active.send_keys(Keys.TAB)
        assert {
            "pause",
            "host",
            "label",
            "verdict",
            "tunnel",
            "group",
            "clear",
            "map",
            "fit",
            "flows",
        } <= reached


def test_pause_holds_the_table_and_goes_on(browser: Browser, page: LivePage) -> None:
    browser.open(page)
    browser.until("document.querySelectorAll('#rows tr').length", 240)
    pause = browser.driver.find_element(By.ID, "pause")
    pause.click()
    assert pause.get_attribute("aria-pressed") == "true"
    asked = "performance.getEntriesByType('resource').filter(e => e.name.includes('/updates')).length"
    before = browser.value(asked)
    page.model.add([namer().flow(event(500))])
    # Other timers of a second go by meanwhile: what is not asked cannot be shown.
    browser.run("window.later = 0; setTimeout(() => { window.later = 1 }, 1500)")
    browser.until("window.later", 1)
    assert browser.value(asked) == before and len(browser.rows()) == 240
    pause.click()
    browser.until("document.querySelectorAll('#rows tr').length", 241)


# --- hostile names ---

EVIL = '<img src=x onerror="window.pwned=1">'


def hostile_flow(number: int) -> Flow:
    """Markup wherever a word of somebody else stands."""
    party = Party(1, EVIL, "lab", (f"vm:{EVIL}={EVIL}", 'vm:app="><script>window.pwned=1</script>'))
    other = Party(2, "</script><script>window.pwned=1</script>", "lab", ("__proto__=x", "constructor=y"))
    told = event(number, allowed_by=(Policy(f"{EVIL}{EVIL}", "<b>"),))
    return Flow(told, party, other, f"evil-{number}", f"lab/{EVIL}")


def test_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    member = Served(tmp_path, own="db1")
    try:
        with live_page(member.target) as page:
            assert eventually(lambda: page.status()["connected"])
            member.ring.add([hostile_flow(1)])
            page.model.tell_members([f"lab/{EVIL}", "lab/__proto__", "lab/toString"], 4, EVIL)
            browser.open(page)
            browser.until("document.querySelectorAll('#rows tr').length", 1)
            browser.driver.find_element(By.CSS_SELECTOR, "#connections summary").click()
            cells = [cell.text for cell in browser.driver.find_elements(By.CSS_SELECTOR, "#rows td")]
            assert cells[1].startswith(EVIL) and cells[2].startswith("</script><script>")
            assert EVIL in cells[7] and cells[9] == f"lab/{EVIL}"
            assert browser.value(
                f"{CY}.nodes().some(n => n.data('title').startsWith(arguments[0]))".replace(
                    "arguments[0]", repr(EVIL)
                )
            )
            for query in (
                "",
                "?group=app",
                "?host=%3Cimg%20src%3Dx%3E",
                "?from=%3Cscript%3Ewindow.pwned%3D1%3C/script%3E",
            ):
                browser.open(page, query)
                browser.until("document.getElementById('counts').textContent !== ''")
                assert (
                    browser.value(
                        "document.querySelectorAll('img, #rows script, #filters script, main b').length"
                    )
                    == 0
                )
            assert browser.value("window.pwned === undefined")
    finally:
        member.close()
