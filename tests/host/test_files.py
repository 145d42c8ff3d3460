"""Files that are whole, or not there."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time

import pytest

from he_agg.errors import KeystoreError, Reason
from he_agg.host.files import beside, create_once, file_trouble, replace
from he_agg.host.private import read_private


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


def test_on_a_full_disk_nothing_stays_and_the_reason_is_its_own(tmp_path):
    """A real limit of the system on files, in a process of its own, for each kind of file that commands write."""
    code = """
import resource, sys
from pathlib import Path
from he_agg.errors import HeAggError
from keys.files import replace_file, write_new
from keys.secret_file import replace_secret, write_secret
from client_sdk._disk.npz import write_npz
import numpy as np
here = Path(sys.argv[1])
write_secret(here / "old", b"old")
(here / "public").write_bytes(b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
long = bytes(100_000)
for write in (
    lambda: write_new(here / "plan", long),
    lambda: replace_file(here / "public", long),
    lambda: write_secret(here / "identity", long),
    lambda: replace_secret(here / "old", long, None),
    lambda: write_npz(here / "mean.npz", {"w": np.zeros(10_000)}, False),
):
    try:
        write()
    except HeAggError as error:
        print(error.reason, "|", error.hint, "|", error.message)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    told = done.stdout.splitlines()
    assert len(told) == 5, done.stdout + done.stderr
    assert all(line.startswith("storage-full | make room and run it again | ") for line in told)
    assert all("cannot be written: File too large" in line for line in told)
    assert names(tmp_path) == ["old", "public"]
    assert [(tmp_path / name).read_bytes() for name in ("old", "public")] == [b"old", b"old"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, Reason.STORAGE_FULL),
        (errno.EDQUOT, Reason.STORAGE_FULL),
        (errno.ENOENT, Reason.FILE_MISSING),
        (errno.EACCES, Reason.BAD_CONFIG),
        (errno.EROFS, Reason.BAD_CONFIG),
        (errno.EIO, Reason.BAD_CONFIG),
    ],
)
def test_each_trouble_has_its_reason(number, reason):
    error = file_trouble(OSError(number, os.strerror(number), "x"))
    assert error.reason == reason
    assert error.message == f"x: {os.strerror(number)}"
    assert isinstance(file_trouble(OSError(number, "no"), "y", KeystoreError), KeystoreError)
