"""The operators' page in a real browser: a round from open to published, on a desk, on a phone, and heard."""

# ruff: noqa: E501 - scripts for the browser are easier to read in one piece

from __future__ import annotations

import os
import signal
import time

import pytest

from service.operator import operations
from tests.service.monitor.browser import CONTRAST, PROBLEMS, chromium, requests_of, size, text
from tests.service.monitor.watched import watched_server
from tests.support.holding import Held, put_sharing_key, submit_all
from tests.support.peers import operator, prepare
from tests.support.real import until

EVIL = "</script><script>window.stolen=1</script><img src=x onerror=window.stolen=1>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def page(browser, watched):
    """The page, logged in, with no complaint of the browser when the test is over."""
    browser.get_log("browser")
    requests_of(browser)
    size(browser, 1280)
    browser.get("about:blank")  # or only the fragment would change, and nothing be loaded
    browser.get(watched.new_link())
    until(lambda: text(browser, "#connection-text") == "Live")
    yield browser
    complaints = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert complaints == []
    elsewhere = [url for url in requests_of(browser) if not url.startswith((watched.operator_url, "about:", "data:"))]
    assert elsewhere == []


def press(browser, key, **more):
    for kind in ("rawKeyDown", "char", "keyUp") if key == "Enter" else ("rawKeyDown", "keyUp"):
        code = {"Tab": 9, "Enter": 13}[key]
        typed = {"text": "\r"} if kind == "char" else {}
        event = {"type": kind, "key": key, "windowsVirtualKeyCode": code, **typed, **more}
        browser.execute_cdp_cmd("Input.dispatchKeyEvent", event)


def test_a_round_from_open_to_published(page, watched, world_on):
    world = world_on(watched, "live", rounds=2)
    mine = "#federation-live"
    until(lambda: "Round 1" in text(page, mine))
    assert "0 of 3" in text(page, f"{mine} .figures")
    assert text(page, f"{mine} [aria-current=step]") == "Open"
    prepared = {site: prepare(world.plan, "live.1.1", site, i) for i, site in enumerate("abc")}
    # Once loaded, the page is never loaded again: a mark on it stays.
    page.execute_script("document.body.dataset.mark = 'here'")
    world.peer("a").put(prepared["a"], 0, prepared["a"].parts[0])
    row = f'{mine} .sites [data-key="a"]'
    until(lambda: "Uploading" in text(page, row))
    assert "33 %" in text(page, row)
    assert page.execute_script(f"return document.querySelector('{row} progress').value") == len(prepared["a"].parts[0])
    world.peer("a").put(prepared["a"], 1, b"".join(prepared["a"].parts[1:]))
    until(lambda: "Complete" in text(page, row))
    until(
        lambda: (
            "1 of 3 sites complete" in page.execute_script("return document.getElementById('announcer').textContent")
        )
    )
    world.peer("b").submit(prepared["b"])
    until(lambda: "✓ reached" in text(page, f"{mine} .figures"))
    world.peer("c").submit(prepared["c"])
    until(lambda: "Round 2" in text(page, f"{mine} .round h3"))
    assert "1 of 2 rounds published" in text(page, f"{mine} .title")
    assert "Published" in text(page, f"{mine} .history")
    said = until(lambda: page.execute_script("return document.getElementById('announcer').textContent"))
    assert "live, round 1: published." in said
    assert page.execute_script("return document.body.dataset.mark") == "here"
    assert "he-agg" in page.title


def test_holders_that_a_round_waits_for(page, watched, world_on):
    world = world_on(watched, "split", holders=["a", "b", "c", "trustee"], min_sites=3, rounds=2)
    mine = "#federation-split"
    until(lambda: "split: no round opens before 3 holders have a sharing key" in text(page, ".headline"))
    for name in ("a", "b", "trustee"):
        assert put_sharing_key(world.peers[name]).status_code == 201
    until(lambda: "Round 1" in text(page, mine))
    assert "no round opens" not in text(page, ".headline")
    assert "Not yet" in text(page, f'{mine} .holders [data-key="c"]')
    submit_all(world.plan, world.peer, "split.1.1")
    until(lambda: "Round split.1.1 waits for them" in text(page, f"{mine} .holders"))
    held = [Held(world.peers[name], "split.1.1") for name in ("a", "b", "trustee")]
    assert [one.echo().status_code for one in held] == [201] * 3
    assert held[0].complain("b").status_code == 201
    assert held[2].answer().status_code == 201
    until(lambda: text(page, f'{mine} .holders [data-key="trustee"]').count("Here") == 3)
    assert text(page, f'{mine} .holders [data-key="c"]').count("Not yet") == 3
    until(lambda: "split: a complains of the dealing of b in round split.1.1 (sealed)" in text(page, ".headline"))
    for width in (1280, 360):
        size(page, width)
        assert page.execute_script(PROBLEMS) == []
        assert page.execute_script(CONTRAST) == []
    with operator(watched.server.data_dir) as (store, conductor):
        operations.skip(store, conductor, "split")
    until(lambda: "Round 2" in text(page, f"{mine} .round h3"))
    assert "waits for them" not in text(page, f"{mine} .holders")


def test_the_link_leaves_the_address_and_the_script_gets_no_session(page, watched):
    assert page.current_url == f"{watched.operator_url}/"
    assert page.execute_script("return document.cookie") == ""
    (cookie,) = page.get_cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"


def test_it_checks_out(page, watched, world_on):
    world = world_on(watched, "checked", rounds=2)
    for site in "ab":
        world.peer(site).submit(prepare(world.plan, "checked.1.1", site, ord(site)))
    world.peer("c").end("checked.1.1", b'{"he-agg-group-key":"x"}')
    until(lambda: "2 of 3" in text(page, "#federation-checked") and "looks like a key" in text(page, ".headline"))
    page.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.execute_script(PROBLEMS) == []
    for dark in (False, True):
        size(page, 1280, dark=dark)
        assert page.execute_script(CONTRAST) == [], f"dark: {dark}"
    for width in (320, 390, 768, 1280):
        size(page, width)
        wide = page.execute_script(
            "return [...document.querySelectorAll('body *')].filter((e) => e.getClientRects().length"
            " && !e.closest('.hidden') && e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML.slice(0, 80))"
        )
        assert wide == [], width
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth"), width


def test_the_checks_can_fail(page):
    """What is spoilt is looked at by the same script: each second the page draws itself anew."""
    spoil = "document.getElementById('view').insertAdjacentHTML('beforeend', '<h5></h5><button></button><img src=icon.svg>');"
    found = page.execute_script(spoil + PROBLEMS)
    assert {"empty heading", "image without alt", "no name: <button></button>"} <= set(found)
    assert page.execute_script("document.querySelector('#view h2').style.color = '#9ab';" + CONTRAST)


def test_the_keyboard_reaches_everything_in_order(page, watched, world_on):
    world_on(watched, "keys-one")
    world_on(watched, "keys-two")
    until(lambda: "keys-two" in text(page, "#view"))
    page.execute_script("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    page.execute_cdp_cmd("Page.bringToFront", {})
    seen = []
    script = (
        "const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);"
        "return [e.tagName + ' ' + (e.textContent || '').trim(), box.top + scrollY, style.outlineStyle + style.outlineWidth]"
    )
    page.execute_script("document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')")
    for _ in range(30):
        press(page, "Tab")
        what, top, outline = page.execute_script(script)
        if what.startswith("BODY") or (seen and what == seen[0][0]):
            break
        seen.append((what, top))
        assert outline == "solid3px", what
    names = [what for what, _ in seen]
    assert names[0] == "A Skip to content"
    assert names[1] == "BUTTON Log out"
    everything = page.execute_script(
        "return [...document.querySelectorAll('a,button,summary,input')].filter((e) => e.getClientRects().length).length"
    )
    assert len(names) == everything
    tops = [top for _, top in seen[2:]]
    assert tops == sorted(tops)
    # And what is reached stays reached while the page is drawn again, every second.
    page.execute_script("document.querySelector('#federation-keys-one summary').focus()")
    press(page, "Enter")
    time.sleep(2.5)
    assert page.execute_script("return document.activeElement.parentElement.open")
    assert "Group key" in text(page, "#federation-keys-one")


def test_nothing_that_it_shows_becomes_markup(page):
    shown, marked_up = page.execute_async_script(  # looked at by the same script: each second it draws itself anew
        """
        const [evil, done] = arguments;
        Promise.all([import("./view.js"), fetch("snapshot.json").then((answer) => answer.json())]).then(([{view}, snapshot]) => {
          const spoil = (value) => typeof value === "string" && !["phase", "stage"].includes(value) ? value + evil
            : Array.isArray(value) ? value.map(spoil) : value;
          for (const each of snapshot.federations) {
            each.federation = spoil(each.federation); each.sites = spoil(each.sites); each.codec = spoil(each.codec);
            for (const site of each.round?.sites ?? []) site.site = spoil(site.site);
            for (const one of each.history) one.excluded = {[evil]: evil};
          }
          snapshot.process.problems.push({at: 0, reason: evil, title: evil, status: 400, what: evil, federation: evil, member: evil, round_id: evil, id: evil, count: 2});
          document.getElementById("view").replaceWith(view(snapshot, snapshot.now));
          done([document.querySelector("#view").innerText, document.querySelectorAll("#view script, #view img").length]);
        });
        """,
        EVIL,
    )
    assert EVIL in shown
    assert marked_up == 0
    assert page.execute_script("return window.stolen ?? null") is None


def test_without_a_session_it_asks_for_a_link(browser, watched):
    browser.delete_all_cookies()
    browser.get("about:blank")
    browser.get(watched.operator_url)
    until(lambda: "Log in" in text(browser, "#login"))
    assert browser.execute_script("return document.activeElement.id") == "token"
    assert browser.execute_script(PROBLEMS) == []
    for dark in (False, True):
        size(browser, 390, dark=dark)
        assert browser.execute_script(CONTRAST) == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    box = browser.find_element("id", "token")
    box.send_keys("nonsense\n")
    until(lambda: "no link" in text(browser, "#login-error"))
    link = watched.new_link()
    box.send_keys(link[:-1] + ("0" if link[-1] != "0" else "1") + "\n")
    until(lambda: "too old or was used" in text(browser, "#login-error"))
    box.send_keys(link + "\n")
    until(lambda: text(browser, "#connection-text") == "Live")
    browser.find_element("id", "logout").click()
    until(lambda: "Log in" in text(browser, "#login"))
    assert text(browser, "#view") == ""
    # A link that is opened in this very tab: the browser changes the fragment and loads nothing.
    browser.execute_script("document.body.dataset.mark = 'here'")
    browser.get(watched.new_link())
    until(lambda: text(browser, "#connection-text") == "Live")
    assert browser.execute_script("return document.body.dataset.mark") == "here"
    assert browser.current_url == f"{watched.operator_url}/"
    browser.get_log("browser")


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_it_says_when_the_aggregator_does_not_answer_and_comes_back(browser, tmp_path, how):
    """Within seconds, where "All is well" was: a process that hangs keeps its connections."""
    with watched_server(tmp_path / "data") as other:
        port = other.operator_url.rsplit(":", 1)[1]
        browser.get("about:blank")
        browser.get(other.link)
        until(lambda: text(browser, "#connection-text") == "Live")
        assert "No federations yet" in text(browser, "#view")
        assert "All is well" in text(browser, ".headline")
        if how == "stopped":
            other.server.kill()
        else:
            os.kill(other.server.pid, signal.SIGSTOP)
        until(lambda: "The aggregator does not answer" in text(browser, ".headline"), 30)
        assert "All is well" not in text(browser, "#view")
        assert text(browser, "#connection-text") == "No answer, trying again"
        assert browser.title.startswith("No answer")
        silent = browser.execute_script("return document.getElementById('announcer').textContent")
        assert silent == "The aggregator does not answer."
        if how == "stopped":
            other.server.environment["HE_AGG_OPERATOR_PORT"] = port
            other.server.start()
        else:
            os.kill(other.server.pid, signal.SIGCONT)
        until(lambda: text(browser, "#connection-text") == "Live", 30)
        until(lambda: "All is well" in text(browser, ".headline"))
    browser.get_log("browser")
