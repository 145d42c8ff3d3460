"""The group keys that a site has on disk: the current epoch's keystore, and those of the epochs before beside it.

::

    demo.keystore             the newest epoch that this site has accepted: what it encrypts under
    demo.keystore.epoch-1     an epoch that was left: opens what was summed then, and nothing is encrypted under it
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path

from he_agg.errors import KeystoreError, Reason
from keys.group_key import GroupKey
from keys.passphrase import Once
from keys.sealed_box import Passphrase

__all__ = ["Keystores", "kept_epochs", "kept_path"]


def kept_path(keystore: Path, epoch: int) -> Path:
    """Return where the keystore of an old epoch is kept."""
    return keystore.with_name(f"{keystore.name}.epoch-{epoch}")


def kept_epochs(keystore: Path) -> set[int]:
    """Return the epochs whose old keystores are kept, beside the keystore or beside what it is a link to.

    They count even where the keystore itself is gone: an epoch that was left is never entered again.
    """
    found: set[int] = set()
    for path in _names_of(keystore):
        pattern = re.compile(re.escape(path.name) + r"\.epoch-([1-9][0-9]{0,9})")
        with contextlib.suppress(OSError):
            matches = [pattern.fullmatch(entry.name) for entry in path.parent.iterdir()]
            found.update(int(match[1]) for match in matches if match is not None)
    return found


class Keystores:
    """What one site holds of one federation. Several threads may use it.

    Args:
        path: the keystore of the newest epoch; may be replaced by a newer one at any time.
        passphrase: opens all of them, or asks for what does, once.

    Raises:
        KeystoreError: the file must not be used.
    """

    def __init__(self, path: Path, passphrase: Passphrase = None) -> None:
        self._path = path
        self._passphrase = Once(passphrase) if callable(passphrase) else passphrase
        self._lock = threading.Lock()
        self._stamp = _stamp_of(path)
        self._newest = GroupKey.load(path, self._passphrase)
        self._known = {self._newest.epoch: self._newest}
        self.trouble = ""
        """Why the file that is there now cannot be used, if it cannot: the key from before stays."""

    def __repr__(self) -> str:
        return f"Keystores({str(self._path)!r}, epoch {self._newest.epoch})"

    @property
    def newest(self) -> GroupKey:
        """The group key of the newest epoch that was seen here."""
        return self._newest

    def look(self) -> GroupKey:
        """Take up a newer keystore if one has taken the file's place, and return the newest key.

        A file that is gone or cannot be used takes nothing away: `trouble` says what is wrong with it.
        """
        with self._lock:
            stamp = _stamp_of(self._path)
            if stamp == self._stamp:
                return self._newest
            self._stamp, self.trouble = stamp, ""
            try:
                key = self._load(self._path)
            except KeystoreError as error:
                self.trouble = error.message
            else:
                known = self._known.setdefault(key.epoch, key)
                if known.key_id != key.key_id:
                    self.trouble = (
                        f"{self._path}: expected key {known.key_id[:12]} of epoch {key.epoch}, which was here before, "
                        f"got key {key.key_id[:12]} of the same epoch"
                    )
                elif key.epoch > self._newest.epoch:  # a restored backup leads nowhere
                    self._newest = key
            return self._newest

    def of(self, epoch: int) -> GroupKey | None:
        """Find the group key of an epoch, an old one too; None if this site has no keystore of it.

        Raises:
            KeystoreError: there is one, and it must not be used.
        """
        if epoch not in self._known:
            self.look()
        with self._lock:
            if epoch not in self._known and (kept := self._kept(epoch)) is not None:
                key = self._load(kept)
                if key.epoch != epoch:
                    raise KeystoreError(
                        Reason.KEY_MISMATCH,
                        f"{kept}: expected the group key of epoch {epoch}, got that of epoch {key.epoch}",
                        "give each keystore the name of its own epoch: `he-agg keys show` tells it",
                    )
                self._known[epoch] = key
            return self._known.get(epoch)

    def path_of(self, epoch: int) -> Path:
        """Return where the keystore of an epoch that was left belongs."""
        return kept_path(self._path, epoch)

    def _kept(self, epoch: int) -> Path | None:
        paths = [kept_path(path, epoch) for path in _names_of(self._path)]
        return next((path for path in paths if os.path.lexists(path)), None)

    def _load(self, path: Path) -> GroupKey:
        key = GroupKey.load(path, self._passphrase)
        have, got = self._newest.plan, key.plan
        if (got.public.federation, got.plan_id) != (have.public.federation, have.plan_id):
            raise KeystoreError(
                Reason.PLAN_MISMATCH,
                f"{path}: expected a group key for plan {have.plan_id[:12]} of {have.public.federation}, got one for "
                f"plan {got.plan_id[:12]} of {got.public.federation}",
                "a new plan is a new federation, with a keystore and settings of its own",
            )
        return key


def _names_of(keystore: Path) -> list[Path]:
    """Return the name of a keystore, and the one that it leads to if it is a link."""
    try:
        return [keystore, keystore.resolve()] if keystore.is_symlink() else [keystore]
    except (OSError, RuntimeError):  # round in a circle: reading it says so
        return [keystore]


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when another file takes a path's place, or others may not read it any more."""
    try:
        found = path.stat()  # of what a link leads to: a mounted secret is replaced behind its link
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns, found.st_size
