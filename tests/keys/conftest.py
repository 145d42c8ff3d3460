"""The ceremony, in a directory of the test's own."""

import pytest

from tests.keys.ceremony import Ceremony


@pytest.fixture
def ceremony(tmp_path, capsys, monkeypatch):
    return Ceremony(tmp_path, capsys, monkeypatch)
