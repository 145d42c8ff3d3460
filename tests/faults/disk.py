"""A disk that may lose what was not synced, and calls that may fail: put under what writes files of parts.

Or under what writes a member's files.

`LossyDisk` keeps, beside the real files, what is certain to be on the disk: contents as of the last fsync of each
file, names as of the last fsync of each directory. `crash` makes the real files what a power cut could have left.
SQLite's files are not covered: with synchronous=FULL, which the store reads back, its commits are SQLite's own to
keep, and it is tested with shims like this one. They stay as the process left them.

`FailingCalls` makes the n-th call of open, write, fsync, rename, mkdir or unlink fail.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import service.store.parts.directory
import service.store.parts.files

BLOCK = 4096

ON_DISK = (service.store.parts.directory, service.store.parts.files)
"""What writes files of parts."""


class _Os:
    """The module `os`, some of whose functions are ours."""

    def __init__(self, **ours: Callable[..., Any]) -> None:
        self.__dict__.update(ours)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class LossyDisk:
    """Watches one directory."""

    def __init__(self, root: Path, monkeypatch, modules: Sequence[ModuleType] = ON_DISK, garbage: bool = True) -> None:
        self._root = root
        self._garbage = garbage
        self._contents: dict[int, bytes] = {}
        """What is certain of each file, by inode."""
        self._names: dict[Path, dict[str, int]] = {}
        """Which names are certain in each directory, and what they stand for."""
        self.syncs = 0
        for directory in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            self._sync_names(directory)
            for path in directory.iterdir():
                if path.is_file():
                    self._contents[path.stat().st_ino] = path.read_bytes()
        self.os: Any = _Os(fsync=self._fsync)
        for module in modules:
            monkeypatch.setattr(module, "os", self.os)

    def _fsync(self, descriptor: int) -> None:
        self.syncs += 1
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        os.fsync(descriptor)
        if not path.is_relative_to(self._root):
            return
        if path.is_dir():
            self._sync_names(path)
        else:
            self._contents[os.fstat(descriptor).st_ino] = path.read_bytes()

    def _sync_names(self, directory: Path) -> None:
        self._names[directory] = {path.name: path.stat().st_ino for path in directory.iterdir()}

    def crash(self, how: str, chance: random.Random) -> None:
        """Lose what may be lost.

        Args:
            how: "none" of the unsynced survives, "all", "some", or "torn": all, but last blocks are zeros or garbage.
            chance: decides which.
        """
        aside = self._root.with_name("aside")
        shutil.copytree(self._root, aside)
        real = {p.relative_to(self._root): p.stat().st_ino for p in self._root.rglob("*")}
        inodes = {ino: aside / path for path, ino in real.items()}
        shutil.rmtree(self._root)
        self._rebuild(self._root, inodes, real, how, chance)
        shutil.rmtree(aside)
        self._contents.clear()

    def _rebuild(self, directory: Path, inodes: dict[int, Path], real: dict[Path, int], how: str, chance: Any) -> None:
        directory.mkdir()
        here = directory.relative_to(self._root)
        certain = self._names.get(directory, {})
        present = {path.name: ino for path, ino in real.items() if path.parent == here}
        for name in sorted(certain.keys() | present.keys()):
            candidates = [ino for ino in {certain.get(name), present.get(name)} if ino is not None]
            ino = {"none": certain.get(name), "all": present.get(name), "torn": present.get(name)}.get(how)
            if how == "some":
                ino = chance.choice([certain.get(name), present.get(name)])
            if ino is None or not candidates:
                continue
            source = inodes.get(ino)
            if (source is not None and source.is_dir()) or (directory / name) in self._names:
                self._rebuild(directory / name, inodes, real, how, chance)
            else:
                (directory / name).write_bytes(self._content(ino, source, how, chance))
                (directory / name).chmod(0o600)

    def _content(self, ino: int, source: Path | None, how: str, chance: random.Random) -> bytes:
        certain = self._contents.get(ino)
        latest = source.read_bytes() if source is not None else certain or b""
        if certain == latest or how == "all":
            return latest
        if how == "none" or (how == "some" and chance.random() < 0.5):
            return certain or b""
        kept = chance.randrange(0, len(latest) // BLOCK + 1) * BLOCK
        if certain and latest.startswith(certain):
            kept = max(kept, len(certain))  # adding to a file changes nothing of what was in it
        size = len(latest) - kept
        return latest[:kept] + chance.choice([b"", bytes(size), *([chance.randbytes(size)] if self._garbage else [])])


class FailingCalls:
    """Makes the n-th call fail, and all after it until the fault goes away."""

    def __init__(self, monkeypatch, call: str, number: int, error: int, lasting: int) -> None:
        self.passed = 0
        self._number, self._error, self._lasting = number, error, lasting
        self._active = True
        ours: dict[str, Callable[..., Any]] = {}
        if call in ("open", "write", "fsync"):
            ours[call] = self._failing(getattr(os, call))
        for module in ON_DISK:
            monkeypatch.setattr(module, "os", _Os(**ours))
        if call in ("replace", "mkdir", "unlink"):
            real = getattr(Path, call)
            monkeypatch.setattr(Path, call, lambda path, *a, **k: self._failing(real)(path, *a, **k))

    def end(self) -> None:
        """The fault goes away."""
        self._active = False

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self.passed += 1
            if self._active and self._number <= self.passed < self._number + self._lasting:
                raise OSError(self._error, os.strerror(self._error))
            return real(*arguments, **more)

        return call
