"""Keep pages and docstrings in form: short lines, live links, docstrings that say what is done."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("he_agg", "keys", "service", "client_sdk")
PLACES = ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "tests/**/*.md", *(f"{name}/**/*.md" for name in PACKAGES))
PAGES = sorted(path for place in PLACES for path in ROOT.glob(place))
LONGEST = 120
LONGEST_ROW = 2 * LONGEST

NO_VERB = re.compile(
    "(?:"
    "a|an|the|all|any|each|every|everything|one|some|nothing|nobody|its|it|this|that|these|those|"
    "what|whatever|where|when|whether|which|who|whoever|whose|how|why|if|"
    "after|also|always|as|at|before|by|for|from|in|into|of|on|out|since|so|to|under|until|with|without|"
    "and|but|no|not|there|only|same|"
    "bytes|digest|ended|error|id|ids|key|keys|names|numbers|parts|path|published|rosters|rounds|sites|submissions|sums|values"
    ")|.*[^a-z-].*"
)
"""First words that show that a function's docstring names a thing or tells a story instead of saying what to do."""


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_lines_of_a_page_are_short_and_headings_in_order(page: Path) -> None:
    wrong, level, fenced = [], 0, False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        fenced ^= line.lstrip().startswith("```")
        # A row of a table cannot be cut, up to where the table should be a list; nor can an address.
        longest = LONGEST_ROW if line.startswith("|") else LONGEST
        if len(line) > longest and len(line.split()) > 2:
            wrong.append(f"line {number} has {len(line)} characters")
        if not fenced and (heading := re.match(r"(#+) ", line)):
            depth = len(heading[1])
            if depth > level + 1:
                wrong.append(f"line {number}: a heading of level {depth} below one of level {level}")
            level = depth
    assert not wrong, f"{_name(page)}: {wrong}"


@cache
def _anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = set(re.findall(r'<a (?:id|name)="([^"]+)"', prose))
    for heading in re.findall(r"^#+ +(.*?)\s*$", prose, flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = base = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        again = 0
        while anchor in found:
            again += 1
            anchor = f"{base}-{again}"
        found.add(anchor)
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`]*`", "code", prose)
    broken = []
    for target in re.findall(r"\]\(\s*<?([^)>\s]+)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in _anchors(path)):
            broken.append(target)
    assert not broken, f"{_name(page)}: {broken}"


def _docstrings(node: ast.AST, scope: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (what it is, its name, first line) of every docstring below a node that others can read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if child.name.startswith("_") and not child.name.startswith("__"):
                continue
            named = any("property" in ast.unparse(decorator) for decorator in child.decorator_list)
            kind = "thing" if named or isinstance(child, ast.ClassDef) else "function"
            if text := ast.get_docstring(child, clean=False):
                yield kind, f"{scope}{child.name}", text.splitlines()[0]
            if isinstance(child, ast.ClassDef):
                yield from _docstrings(child, f"{scope}{child.name}.")
        elif not isinstance(child, ast.expr):
            yield from _docstrings(child, scope)


@pytest.mark.parametrize("package", PACKAGES)
def test_first_lines_of_docstrings(package: str) -> None:
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        if title := ast.get_docstring(tree):
            wrong += _faults("module", _name(path), title.splitlines()[0])
        for kind, name, line in _docstrings(tree):
            wrong += _faults(kind, f"{_name(path)}: {name}", line)
    assert not wrong, "\n".join(["", *wrong])


def _faults(kind: str, name: str, line: str) -> Iterator[str]:
    """Yield what is wrong with a first line."""
    word = line.split(" ")[0].rstrip(",.:;").lower()
    if not line.endswith("."):
        yield f"{name}: does not end with a full stop: {line}"
    if len(line) > LONGEST - 3:
        yield f"{name}: longer than a line: {line}"
    if kind == "module" and word in ("what", "where", "who", "which", "when", "whether", "why", "how"):
        yield f"{name}: is a question instead of a verb or a name: {line}"
    if kind == "function" and NO_VERB.fullmatch(word):
        yield f"{name}: does not begin with a verb: {line}"


def test_the_rule_knows_a_verb_from_a_thing() -> None:
    assert not list(_faults("function", "f", "Read a signed roster."))
    for line in ("The roster.", "What a site sends.", "`n` bytes.", "Read a signed roster", "Ids of rounds."):
        assert list(_faults("function", "f", line)), line
