"""The site builds without a warning, leaves nothing out, and asks no other machine for anything."""

from __future__ import annotations

import dataclasses
import html
import inspect
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import click
import pytest

from client_sdk.config import Settings as SiteSettings
from he_agg.errors import Reason
from he_agg.host.commands import EXIT_CODES, Commands
from tests.service.monitor import browser as window
from tests.support.real import until
from tests.support.written import POINTS, ROOT, pages

if any(find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings_handlers", "mike")):
    pytest.skip("needs he-agg[docs]", allow_module_level=True)

MARKS = {"li", "table", "tr", "pre", "h1", "h2", "h3", "h4", "em", "strong", "img", "ol", "ul", "code"}


class Text(HTMLParser):
    """What a reader sees: marks counted, words, ids; what is loaded, and where its navigation leads.

    Args:
        part: look only inside this element, of which there is one.
    """

    def __init__(self, page: str, part: str = "") -> None:
        super().__init__()
        self.marks: Counter[str] = Counter()
        self.words, self.ids, self.leads_to, self.loaded = "", set(), [], []
        self._navs = 0
        self.feed(page[page.index(f"<{part}") : page.index(f"</{part}>")] if part else page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.marks[tag] += 1
        self.ids |= {given["id"]} if "id" in given else set()
        self._navs += tag == "nav"
        if tag == "a" and self._navs and "href" in given:
            self.leads_to.append(given["href"])
        elif tag != "a" and (given.get("rel") not in ("next", "prev")):
            self.loaded += [given[name] for name in ("src", "href", "srcset", "action", "data") if given.get(name)]

    def handle_endtag(self, tag):
        self._navs -= tag == "nav"

    def handle_data(self, data):
        self.words += data.replace("¶", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The site, built as `make docs` builds it."""
    out = tmp_path_factory.mktemp("site")
    done = built(ROOT, out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def site(folder):
    """The pages by their address."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.html")}


@pytest.fixture(scope="module")
def whole(site):
    """Each page, taken apart once."""
    return {page: Text(text) for page, text in site.items()}


def place_of(page: Path) -> str:
    path = page.relative_to(ROOT).as_posix().removeprefix("docs/").removesuffix(".md")
    return re.sub(r"(^|/)README$", r"\1index", path) + ".html"


def test_every_page_of_the_repository_is_there_as_it_is_elsewhere(site):
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark").enable("table")  # what other programs make of the same file
    for page in [*pages(), ROOT / "CHANGELOG.md"]:
        elsewhere, here = Text(markdown.render(page.read_text())), Text(site[place_of(page)], "article")
        assert "".join(here.words.split()) == "".join(elsewhere.words.split()), page
        assert {tag: here.marks[tag] for tag in MARKS} == {tag: elsewhere.marks[tag] for tag in MARKS}, page


def test_every_page_is_reached_from_the_front_page(site, whole):
    reached, ahead = set(), ["index.html"]
    while ahead:
        page = ahead.pop()
        if page not in reached:
            reached.add(page)
            there = [urlsplit(urljoin(page, link)) for link in whole[page].leads_to]
            ahead += [unquote(one.path) for one in there if not one.scheme and one.path in site]
    assert set(site) - reached == {"404.html"} | {page for page in site if page.startswith("benchmarks/results/rounds")}


def test_nothing_is_loaded_from_elsewhere(site, whole):
    for page, text in site.items():
        foreign = [address for address in whole[page].loaded if urlsplit(address).netloc]
        assert foreign == [], page
        assert not re.search(r"class=\"[^\"]*mermaid|@import|url\((?!['\"]?(?:data:|#))", text), page


def test_every_command_and_option_is_there(site):
    page = Text(site["reference/commands.html"], "article")
    root = Commands("", [point for point in POINTS if not point.value.startswith(("examples", "benchmarks"))])

    def walk(group, above):
        for name in group.list_commands(above):
            command = group.get_command(above, name)
            context = click.Context(command, parent=above, info_name=name)
            yield context, command
            if isinstance(command, click.Group):
                yield from walk(command, context)

    found = list(walk(root, click.Context(root, info_name="he-agg")))
    assert len(found) > 40
    for context, command in found:
        assert context.command_path.replace(" ", "-") in page.ids
        for parameter in command.params:
            assert parameter.opts[0] in page.words or not isinstance(parameter, click.Option), context.command_path
    assert all(f"{meaning}" in page.words for meaning in EXIT_CODES.values())


def test_every_setting_and_reason_is_there(site):
    from service.settings import Settings

    page = site["reference/settings.html"]
    for name in [field.name for field in dataclasses.fields(SiteSettings)]:
        assert f"<code>{name}</code>" in page
    for name, field in Settings.model_fields.items():
        assert f"<code>HE_AGG_{name.upper()}</code>" in page
        assert html.escape((field.description or "?")[:20], quote=False) in page
    assert {reason.value for reason in Reason} <= Text(site["reference/errors.html"], "article").ids


def test_every_public_name_is_there(site):
    found = 0
    for page, text in site.items():
        if page.startswith("reference/api/"):
            package = page.removeprefix("reference/api/").removesuffix(".html")
            ids = Text(text, "article").ids
            names = import_module(package).__all__
            assert [name for name in names if f"{package}.{name}" not in ids] == [], package
            found += len(names)
            # These would load frameworks.
            lazy = package in ("client_sdk.adapters", "client_sdk.flower", "client_sdk.nvflare")
            for name in [] if lazy else names:
                public = getattr(import_module(package), name)
                of_class = vars(public) if inspect.isclass(public) else {}
                methods = [one for one, made in of_class.items() if inspect.isfunction(made) and made.__doc__]
                missing = {f"{package}.{name}.{one}" for one in methods if not one.startswith("_")} - ids
                assert missing == set()
    assert found > 100


@pytest.fixture
def address(folder):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_phone_shows_whole_pages_finds_words_and_asks_nobody_else(address, tmp_path):
    with window.chromium(tmp_path / "profile") as browser:
        window.size(browser, 390, 844, dark=True)
        for page in ("index", "kubernetes", "OPERATIONS", "he_agg/FORMAT", "reference/commands", "reference/errors"):
            browser.get(f"{address}/{page}.html")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, page
            assert browser.execute_script("return document.body.dataset.mdColorScheme") == "slate"
        browser.execute_script("document.querySelector('[data-md-toggle=search]').click()")
        browser.find_element("css selector", "input.md-search__input").send_keys("revoke")
        until(lambda: "revoke" in window.text(browser, ".md-search-result__list"))
        asked = {urlsplit(one).netloc for one in window.requests_of(browser) if one.startswith("http")}
        assert asked == {urlsplit(address).netloc}


def test_a_broken_link_or_anchor_ends_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# A\n\n[1](nowhere.md) [2](#nowhere) [3](folder/) [4](#a)\n")
    (tmp_path / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\nhooks: []\nplugins: [search]\nnav: [index.md]\ndocs_dir: docs\n"
    )
    done = built(tmp_path, tmp_path / "out")
    assert done.returncode != 0
    assert done.stderr.count("WARNING") == 3


def built(folder, out):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=quiet, capture_output=True, text=True, check=False)
