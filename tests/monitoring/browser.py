"""A real Chromium without a window, and checks that a reader of the page would make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["CONTRAST", "PROBLEMS", "chromium", "requests_of"]

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
PROBLEMS = """
const found = [];
const shown = (e) => e.getClientRects().length > 0;
const name = (e) => (e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") || "").split(" ").filter(Boolean)
  .map((id) => document.getElementById(id)?.textContent ?? "").join(" ") || (e.labels && [...e.labels].map((l) => l.textContent).join(" "))
  || e.textContent || e.getAttribute("alt") || "").trim();
if (!document.documentElement.lang) found.push("no language");
if (!document.title.trim()) found.push("no title");
for (const one of ["header", "main", "footer"]) if (document.querySelectorAll(`body > ${one}`).length !== 1) found.push(`landmark ${one}`);
if ([...document.querySelectorAll("h1")].filter(shown).length !== 1) found.push("not one h1");
let level = 0;
for (const e of document.querySelectorAll("h1,h2,h3,h4,h5,h6")) {
  if (!shown(e)) continue;
  const now = Number(e.tagName[1]);
  if (now > level + 1) found.push(`heading skips a level: ${e.textContent}`);
  if (!e.textContent.trim()) found.push("empty heading");
  level = now;
}
for (const e of document.querySelectorAll("a,button,input,select,textarea,summary,progress,svg[role=img],nav,section,table")) {
  if (!shown(e) || e.tagName === "TABLE" && e.caption) continue;
  if (!name(e)) found.push(`no name: ${e.outerHTML.slice(0, 80)}`);
}
for (const e of document.querySelectorAll("img")) if (!e.hasAttribute("alt")) found.push("image without alt");
const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) found.push(`id twice: ${id}`);
for (const e of document.querySelectorAll("[aria-labelledby],[aria-describedby]"))
  for (const id of `${e.getAttribute("aria-labelledby") ?? ""} ${e.getAttribute("aria-describedby") ?? ""}`.split(" ").filter(Boolean))
    if (!document.getElementById(id)) found.push(`refers to nothing: ${id}`);
for (const e of document.querySelectorAll("table")) {
  if (!e.querySelector("th[scope=col]") || !e.querySelector("tbody th[scope=row]")) found.push("table without headers");
}
for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) found.push("positive tabindex");
for (const e of document.querySelectorAll("ul,ol")) for (const child of e.children) if (child.tagName !== "LI") found.push("list with other children");
for (const e of document.querySelectorAll("dl > *")) if (!["DT", "DD", "DIV"].includes(e.tagName)) found.push("dl with other children");
for (const e of document.querySelectorAll("[onclick],[onload],[style]")) found.push(`inline: ${e.outerHTML.slice(0, 60)}`);
if (!document.querySelector("[aria-live=polite]")) found.push("nothing is said aloud");
return found;
"""

# Text whose contrast to what is behind it is below 4.5 (3 where it is large).
CONTRAST = """
const parse = (text) => { const m = text.match(/[\\d.]+/g).map(Number); return {r: m[0], g: m[1], b: m[2], a: m[3] ?? 1}; };
const light = (c) => { const f = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  return 0.2126 * f(c.r) + 0.7152 * f(c.g) + 0.0722 * f(c.b); };
const behind = (e) => { for (let at = e; at; at = at.parentElement) { const c = parse(getComputedStyle(at).backgroundColor); if (c.a > 0.99) return c; }
  return parse(getComputedStyle(document.documentElement).backgroundColor); };
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let checked = 0;
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !e.getClientRects().length || e.closest(".hidden,.skip,noscript,svg")) continue;
  const style = getComputedStyle(e), a = light(parse(style.color)), b = light(behind(e));
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 600);
  checked += 1;
  if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${walker.currentNode.data.trim().slice(0, 40)} (${e.className})`);
}
return checked > 5 ? found : ["nothing was checked"];
"""
