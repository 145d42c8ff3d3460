"""The stored vectors, against the package and against a reader that shares nothing with it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vectors import make_ring, second_reader


@pytest.mark.parametrize("name", make_ring.FILES)
def test_the_package_still_makes_the_stored_vectors(name):
    assert (make_ring.FOLDER / f"{name}.json").read_text() == make_ring.make(name)


def test_the_second_reader_agrees():
    done = subprocess.run([sys.executable, second_reader.__file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "46 cases in 9 files agree\n"


def test_the_second_reader_shares_nothing_with_the_package():
    tree = ast.parse(Path(second_reader.__file__).read_text())
    names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert names
    assert not [n for n in names if n.startswith(("he_agg", "tests", "numpy", "numba"))]


def test_the_second_reader_notices_a_changed_vector(tmp_path):
    text = (make_ring.FOLDER / "packing.json").read_text()
    (tmp_path / "packing.json").write_text(text.replace('"packed": "', '"packed": "f', 1))
    assert second_reader.main(tmp_path) == 1
    (tmp_path / "packing.json").unlink()
    assert second_reader.main(tmp_path) == 1  # no vectors is no agreement
