"""The stored vectors of split keys, against the package and against a reader that shares nothing with it."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from he_agg.sharing.field import write
from tests.vectors import make_sharing, second_sharing

SEALED = json.loads((make_sharing.FOLDER / "sealed.json").read_text())["cases"]


@pytest.mark.parametrize("name", make_sharing.FILES)
def test_the_package_still_makes_the_stored_vectors(name):
    assert (make_sharing.FOLDER / f"{name}.json").read_text() == make_sharing.make(make_sharing.FILES[name])


@pytest.mark.parametrize("case", SEALED, ids=lambda case: case["suite"])
def test_the_package_still_opens_what_is_stored(case):
    digest, shares = make_sharing.open_stored(case)
    assert digest == case["digest"]
    opened = {name: hashlib.sha256(write(share)).hexdigest() for name, share in shares.items()}
    assert opened == case["sha256_shares"]


def test_the_second_reader_agrees():
    done = subprocess.run([sys.executable, second_sharing.__file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "16 cases in 6 files agree\n"


def test_the_second_reader_shares_nothing_with_the_package():
    tree = ast.parse(Path(second_sharing.__file__).read_text())
    names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert names
    assert not [n for n in names if n.startswith(("he_agg", "keys", "tests", "numpy"))]


def test_the_second_reader_notices_a_changed_vector(tmp_path):
    text = (make_sharing.FOLDER / "context.json").read_text()
    (tmp_path / "context.json").write_text(text.replace('"info": "', '"info": "f', 1))
    assert second_sharing.main(tmp_path) == 1
    (tmp_path / "context.json").unlink()
    assert second_sharing.main(tmp_path) == 1  # no vectors is no agreement
