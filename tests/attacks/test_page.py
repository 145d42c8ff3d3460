"""The page of attacks names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_on_the_page_exists():
    page = (ROOT / "tests/attacks/README.md").read_text()
    named = re.findall(r"`(tests/[a-z_/]+\.py)(?:::(test_\w+))?`", page)
    assert len(named) > 30
    for path, name in named:
        text = (ROOT / path).read_text()
        assert f"def {name}(" in text if name else "def test_" in text, f"{path}::{name}"
