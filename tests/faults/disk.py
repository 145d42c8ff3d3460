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
from collections import Counter
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

Names = dict[str, int]
"""What is in a directory: inodes by name."""


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
        self._names: dict[int, Names] = {}
        """Which names are certain in each directory, by its inode: one that is made anew has none of the old ones."""
        self._since: dict[int, list[Names]] = {}
        """Which names it had since then, whenever a file in it was synced: under its first name, as a rule."""
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
            self._since.setdefault(path.parent.stat().st_ino, []).append(self._names_in(path.parent))

    def _sync_names(self, directory: Path) -> None:
        ino = directory.stat().st_ino
        self._names[ino], self._since[ino] = self._names_in(directory), []

    def _names_in(self, directory: Path) -> Names:
        names: Names = {}
        for path in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another thread has renamed it
                names[path.name] = path.stat().st_ino
                if path.is_dir():
                    self._names.setdefault(path.stat().st_ino, {})
        return names

    def crash(self, how: str, chance: random.Random) -> None:
        """Lose what may be lost.

        Args:
            how: "none" of the unsynced survives, "all", "some", or "torn": all, but last blocks are zeros or garbage.
            chance: decides which.
        """
        aside = self._root.with_name("aside")
        shutil.copytree(self._root, aside)
        inodes = {p.stat().st_ino: aside / p.relative_to(self._root) for p in [self._root, *self._root.rglob("*")]}
        present = {ino: self._names_in(self._root / p.relative_to(aside)) for ino, p in inodes.items() if p.is_dir()}
        root = self._root.stat().st_ino
        shutil.rmtree(self._root)
        self._rebuild(self._root, root, inodes, present, how, chance)
        shutil.rmtree(aside)
        self._contents.clear()

    def _rebuild(
        self, directory: Path, number: int, inodes: dict[int, Path], present: dict[int, Names], how: str, chance: Any
    ) -> None:
        directory.mkdir()
        certain, now = self._names.get(number, {}), present.get(number, {})
        if how == "some":
            names = _some([certain, *self._since.get(number, []), now], chance)
        else:
            names = certain if how == "none" else now
        for name, ino in names.items():
            if ino in self._names or ino in present:
                self._rebuild(directory / name, ino, inodes, present, how, chance)
            else:
                (directory / name).write_bytes(self._content(ino, inodes.get(ino), how, chance))
                (directory / name).chmod(0o600)

    def _content(self, ino: int, source: Path | None, how: str, chance: random.Random) -> bytes:
        certain = self._contents.get(ino)
        latest = source.read_bytes() if source is not None else certain or b""
        if certain == latest or how == "all":
            return latest
        if how == "none" or (how == "some" and chance.random() < 0.5):
            return certain or b""
        kept = min(chance.randrange(0, len(latest) // BLOCK + 2) * BLOCK, len(latest))  # perhaps all of it
        if certain and latest.startswith(certain):
            kept = max(kept, len(certain))  # adding to a file changes nothing of what was in it
        size = len(latest) - kept
        return latest[:kept] + chance.choice([b"", bytes(size), *([chance.randbytes(size)] if self._garbage else [])])


def _some(states: Sequence[Names], chance: random.Random) -> Names:
    """Choose what is left of the names in a directory.

    What was not synced has no order: each name may be what it was in any of its states, whatever became of others. But
    a rename is one step. A file is under the name that it had or under the one that it got, never under both, and under
    neither only if none was certain, or it is removed by now; what it replaced stays until it is there.

    Args:
        states: the directory as it is for certain, as it was in between, and as it is now. What began and ended between
            two of them is not seen.
    """
    stays = set(states[0].values()) & set(states[-1].values())
    had: dict[int, list[str]] = {}
    for name, ino in sorted({item for state in states for item in state.items()}):
        had.setdefault(ino, []).append(name)
    linked = {ino for state in states for ino, count in Counter(state.values()).items() if count > 1}
    renamed = {ino for ino, names in had.items() if len(names) > 1} - linked
    left: dict[str, int | None] = {}
    for ino in sorted(renamed, key=lambda ino: (ino not in stays, chance.random())):
        free: list[str | None] = [name for name in had[ino] if name not in left]
        if ino not in stays or not free:
            free.append(None)
        if (one := chance.choice(free)) is not None:
            left[one] = ino
    for name in sorted({name for state in states for name in state} - left.keys()):
        others = [state.get(name) for state in states if state.get(name) not in renamed]
        left[name] = chance.choice(others or [None])
    return {name: ino for name, ino in left.items() if ino is not None}


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
