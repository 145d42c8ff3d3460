"""Bring the repository's pages into the site from where they lie, and add those that are made from the code.

A page's place in the site's sources is its path in the repository, so a relative link means the same on the site and
where the repository is browsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import site_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a folder's pages where the navigation names the folder, and rebuild when any page outside docs/ changes."""
    config.nav = [_with_folders(entry) for entry in config.nav or []]
    config.watch += [str(ROOT / page) for page in _pages(config.nav) if (ROOT / page).is_file()]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Give every page the path that it has in the repository, and add pages from elsewhere and from the code."""
    found = Files([file for file in files if file.src_dir != config.docs_dir])
    inside = {f"docs/{file.src_uri}": file for file in files if file.src_dir == config.docs_dir}
    for path, file in inside.items():
        found.append(_file(path, config, file.dest_uri, file.inclusion))
    outside = [page for page in _pages(config.nav or []) if page not in inside and (ROOT / page).is_file()]
    for path in outside:
        found.append(_file(path, config))
    for path in sorted(
        {target for page in outside for target in _linked_files(page)} - {file.src_uri for file in found}
    ):
        found.append(_file(path, config))
    for path, text in site_reference.pages():
        found.append(File.generated(config, path, content=text))
    return found


def on_page_content(html: str, **_: Any) -> str:
    """Mend two things: "::" before an example in a docstring, and an escaped bar in the code of a table's cell."""
    html = html.replace("<p>::</p>", "")
    return re.sub(r"<td.*?</td>", lambda cell: cell[0].replace("\\|", "|"), html, flags=re.S)


def _file(path: str, config: MkDocsConfig, dest: str | None = None, inclusion: Any = None) -> File:
    given = {} if inclusion is None else {"inclusion": inclusion}
    return File(path, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=dest, **given)


def _with_folders(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _with_folders(inner) for title, inner in entry.items()}
    if isinstance(entry, list):
        return [_with_folders(inner) for inner in entry]
    if not entry.endswith("/"):
        return entry
    made = [path for path, _ in site_reference.pages() if path.startswith(entry)]
    lying = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / entry).glob("*.md"))
    return made or sorted(lying, key=lambda page: not page.endswith("/README.md"))


def _pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from _pages(inner)


def _linked_files(page: str) -> Iterator[str]:
    """Find what a page outside docs/ shows or links to that is no page: pictures, reports."""
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        path = ((ROOT / page).parent / target.strip()).resolve()
        if "://" not in target and path.is_file() and path.suffix != ".md":
            yield path.relative_to(ROOT).as_posix()
