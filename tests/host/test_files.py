"""Files that are whole, or not there."""

from __future__ import annotations

import stat

import pytest

from he_agg.host.files import beside, create_once, replace


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def broken(file):
    file.write(b"the first half")
    raise OSError("no space left")


def test_of_two_that_create_the_first_one_stays(tmp_path):
    create_once(tmp_path / "key", b"first")
    create_once(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"
    assert names(tmp_path) == ["key"]


@pytest.mark.parametrize("content", [b"new", lambda file: file.writelines([b"n", b"ew"])])
def test_replaced(tmp_path, content):
    path = tmp_path / "state"
    for _ in range(2):
        replace(path, content, 0o640)
        assert path.read_bytes() == b"new"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert names(tmp_path) == ["state"]


def test_what_breaks_off_replaces_nothing_and_the_next_one_clears_it_away(tmp_path):
    path = tmp_path / "state"
    replace(path, b"old")
    with pytest.raises(OSError, match="no space"):
        replace(path, broken)
    assert path.read_bytes() == b"old"
    replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["state"]


def test_nothing_stays_beside(tmp_path):
    with pytest.raises(OSError, match="no space"), beside(tmp_path / "state", broken):
        raise AssertionError("it was not written")
    with beside(tmp_path / "state", b"content") as temporary:
        assert temporary.read_bytes() == b"content"
    assert names(tmp_path) == []
