"""The disk that loses writes loses what POSIX lets a disk lose, all of it, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from he_agg.host import files
from tests.faults.disk import LossyDisk
from tests.faults.power import a_folder

Left = frozenset[tuple[str, bytes]]


def left_by(monkeypatch, before: Callable[[Path], object], after: Callable[[Path], object]) -> set[Left]:
    """What there may be after a power cut, where all is certain but what was done at last."""
    found = set()
    for seed in range(100):
        with a_folder() as root, monkeypatch.context() as patch:
            home = root / "home"
            home.mkdir()
            before(home)
            disk = LossyDisk(home, patch, (files,))
            after(home)
            disk.crash("some", random.Random(seed))
            paths = sorted(path for path in home.rglob("*") if path.is_file())
            found.add(frozenset((str(path.relative_to(home)), path.read_bytes()) for path in paths))
    return found


def holding(content: dict[str, str]) -> Left:
    return frozenset((name, data.encode()) for name, data in content.items())


NOTHING = holding({})


def with_x(home: Path) -> None:
    (home / "x").write_text("old")


def put_x(home: Path) -> None:
    files.put(home / "x", b"new")


def test_new_file_is_under_its_first_name_or_its_last_or_gone(monkeypatch):
    left = left_by(monkeypatch, lambda home: None, put_x)
    assert left == {NOTHING, holding({".x.new": "new"}), holding({"x": "new"})}


def test_what_a_file_replaces_is_there_as_long_as_the_file_is_not(monkeypatch):
    left = left_by(monkeypatch, with_x, put_x)
    assert left == {holding({"x": "old"}), holding({"x": "old", ".x.new": "new"}), holding({"x": "new"})}


def test_file_that_is_replaced_twice_may_be_as_it_was_in_between(monkeypatch):
    left = left_by(monkeypatch, with_x, lambda home: (put_x(home), files.put(home / "x", b"newer")))
    assert {dict(names).get("x") for names in left} == {b"old", b"new", b"newer"}


def test_file_that_was_certain_is_under_its_old_name_or_its_new_one(monkeypatch):
    left = left_by(monkeypatch, with_x, lambda home: (home / "x").rename(home / "y"))
    assert left == {holding({"x": "old"}), holding({"y": "old"})}


@pytest.mark.parametrize("synced", [False, True])
def test_removal_may_be_undone_until_the_directory_is_synced(monkeypatch, synced):
    def remove(home: Path) -> None:
        (home / "x").unlink()
        if synced:
            files.sync_directory(home)

    left = left_by(monkeypatch, with_x, remove)
    assert left == ({NOTHING} if synced else {NOTHING, holding({"x": "old"})})


def test_a_directory_that_is_made_anew_has_nothing_of_the_old_one(monkeypatch):
    def before(home: Path) -> None:
        (home / "d").mkdir()
        with_x(home / "d")

    def after(home: Path) -> None:
        (home / "d" / "x").unlink()
        (home / "d").rmdir()
        files.make_directory(home / "d")
        put_x(home / "d")

    left = left_by(monkeypatch, before, after)
    assert left == {NOTHING, holding({"d/.x.new": "new"}), holding({"d/x": "new"})}


@pytest.mark.parametrize("synced", [False, True])
def test_content_is_certain_only_if_it_was_synced(monkeypatch, synced):
    """Its name is, here."""

    def after(home: Path) -> None:
        files.create(home / "x", b"new", durable=synced)
        files.sync_directory(home)

    contents = {content for names in left_by(monkeypatch, lambda home: None, after) for _, content in names}
    assert contents == {b"new"} if synced else {b"new", b"", bytes(3)} < contents  # and garbage
