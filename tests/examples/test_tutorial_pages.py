"""The tutorials' pages run from top to bottom as they stand."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.filterwarnings("ignore::client_sdk.analytics.SmallCellWarning")
@pytest.mark.parametrize("page", ["first-model", "first-curve", "first-hazard-ratio"])
def test_a_reader_gets_to_the_end(page, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.M | re.S)
    names = {"__name__": page}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/{page}.md, block {number}", "exec"), names)
    shown = capsys.readouterr().out
    assert len(names["results"]) >= 3
    assert shown
