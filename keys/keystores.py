"""The group keys that a site has on disk: the current epoch's keystore, and those of the epochs before beside it.

::

    demo.keystore             the newest epoch that this site has accepted: what it encrypts under
    demo.keystore.epoch-1     an epoch that was left: opens what was summed then, and nothing is encrypted under it
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

from he_agg.errors import KeystoreError, Reason
from keys.group_key import GroupKey
from keys.passphrase import Once
from keys.sealed_box import Passphrase

__all__ = ["Keystores", "kept_path", "newest_kept"]


def kept_path(keystore: Path, epoch: int) -> Path:
    """Return where the keystore of an old epoch is kept."""
    return keystore.with_name(f"{keystore.name}.epoch-{epoch}")


def newest_kept(keystore: Path) -> int:
    """Return the highest epoch whose old keystore is kept; 0 if none is.

    It counts even where the keystore itself is gone: an epoch that was left is never entered again.
    """
    pattern = re.compile(re.escape(keystore.name) + r"\.epoch-([1-9][0-9]{0,9})")
    try:
        matches = [pattern.fullmatch(path.name) for path in keystore.parent.iterdir()]
    except OSError:
        return 0
    return max((int(match[1]) for match in matches if match is not None), default=0)


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
                self._known[key.epoch] = key
                if key.epoch > self._newest.epoch:  # a restored backup leads nowhere
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
            kept = kept_path(self._path, epoch)
            if epoch not in self._known and (kept.exists() or kept.is_symlink()):
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


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when another file takes a path's place, or others may not read it any more."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns, found.st_size
