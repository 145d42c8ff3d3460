"""Files that are whole, or not there."""

from __future__ import annotations

import os
import stat
import time

import pytest

from he_agg.errors import KeystoreError, Reason
from he_agg.host.files import beside, create_once, read_private, replace


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


@pytest.mark.parametrize("after_link", [True, False])
def test_a_kill_leaves_no_secret_beside_for_good(tmp_path, after_link):
    """The temporary file is there as after SIGKILL; whoever reads or writes the file next removes it."""
    path = tmp_path / "key"
    temporary = tmp_path / f".key.{'0a' * 8}"
    temporary.write_bytes(b"secret")
    temporary.chmod(0o600)
    if after_link:
        os.link(temporary, path)
    else:
        os.utime(temporary, (time.time() - 120, time.time() - 120))
        create_once(path, b"secret")
    assert read_private(path, 100, "") == b"secret"
    assert names(tmp_path) == ["key"]


def test_what_others_are_writing_or_have_named_stays(tmp_path):
    for name in (f".key.{'0a' * 8}", f".other.{'0a' * 8}", ".key.backup", "key.1"):
        (tmp_path / name).write_bytes(b"")
    before = names(tmp_path)
    create_once(tmp_path / "key", b"secret")
    assert names(tmp_path) == sorted([*before, "key"])


def test_a_second_name_is_refused(tmp_path):
    path = tmp_path / "key"
    create_once(path, b"secret")
    os.link(path, tmp_path / "copy")
    with pytest.raises(KeystoreError, match="expected a file of one name, got 2") as caught:
        read_private(path, 100, "")
    assert caught.value.reason == Reason.UNSAFE_PERMISSIONS
    (tmp_path / "copy").unlink()
    assert read_private(path, 100, "") == b"secret"
