"""A disk that may lose what was not synced, and calls that may fail: put under what writes files of parts.

Or under what writes a member's files.

`LossyDisk` keeps, beside the real files, what is certain to be on the disk: contents as of the last fsync of each
file, names as of the last fsync of each directory. `crash` makes the real files what a power cut could have left.
SQLite's files are not covered: with synchronous=FULL, which the store reads back, its commits are SQLite's own to
keep, and it is tested with shims like this one. They stay as the process left them.

`FailingCalls` makes the n-th call of open, write, fsync, rename, mkdir or unlink fail.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import he_agg.host.direct
import service.store.parts.directory
import service.store.parts.files

BLOCK = 4096

ON_DISK = (he_agg.host.direct, service.store.parts.directory, service.store.parts.files)
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
        names: dict[str, int] = {}
        for path in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another thread has renamed it
                names[path.name] = path.stat().st_ino
                if path.is_dir():
                    self._names.setdefault(path, {})
        self._names[directory] = names

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
        names = {"none": certain, "all": present, "torn": present}.get(how, {})
        if how == "some":
            chosen = {n: chance.choice([certain, present]).get(n) for n in sorted(certain.keys() | present.keys())}
            # Of a file that was renamed, one of the names is there: file systems do that in one step.
            renamed = {n: ino for n, ino in present.items() if ino in certain.values() and ino not in chosen.values()}
            names = {name: ino for name, ino in (chosen | renamed).items() if ino is not None}
        for name, ino in names.items():
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
