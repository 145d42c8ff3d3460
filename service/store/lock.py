"""Lock a data directory, so that only servers that belong together use it.

With SQLite it is one, by a lock that the system drops when the process dies, however it dies. With a shared database it
is every replica of the same aggregator, and nobody else. Where parts are not beside their rows, both carry the same
number; and a shared database knows the key of its replicas.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from he_agg.errors import ConfigError, Reason
from he_agg.host.files import open_private
from he_agg.host.locks import lock, unlock
from service.settings import Settings
from service.store.parts.base import PartStore
from service.store.sql import Store

__all__ = ["DirectoryLock", "forget_key", "match_key", "match_parts"]

_NUMBER = "parts"
_KEY = "aggregator key"
_KEY_BYTES = 7


class DirectoryLock:
    """Held from construction to `release`.

    Raises:
        ConfigError: another process holds it.
    """

    def __init__(self, data_dir: Path) -> None:
        path = data_dir / "server.lock"
        try:
            self._descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"cannot write to the data directory {data_dir}: {error.strerror}",
                "it must be this user's own, on a disk that can be written; or name another --data-dir",
            ) from error
        try:
            lock(self._descriptor, wait=False)
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigError(
                Reason.ALREADY_EXISTS,
                f"another aggregator is serving {data_dir}",
                "stop it first, or give this one its own --data-dir",
            ) from error

    def release(self) -> None:
        """Let it go."""
        unlock(self._descriptor)
        os.close(self._descriptor)


def match_parts(store: Store, part_store: PartStore, settings: Settings) -> None:
    """Check that a part store is the one whose parts a database speaks of; the first server joins the two.

    Raises:
        ConfigError: it is another aggregator's, or an empty one: its parts would count as lost.
    """
    apart = settings.database_url is not None or settings.parts is not None
    with store.write() as tx:
        known = tx.number(_NUMBER)
        if known is None and not apart:
            return  # one directory with both in it
        found, is_empty = part_store.number(), not any(True for _ in part_store.rounds())
        # A process may have died between the two numbers; without parts there is nothing to mix up.
        if known is None and (found is None or is_empty) and not (is_empty and tx.names_parts()):
            if found is None:
                # Into the part store first, durably: a number in the database alone would lock everybody out.
                part_store.take_number(secrets.randbits(62))
                found = part_store.number()
            if found is not None:
                tx.set_number(_NUMBER, found)
            known = found
    if known is None or known != found:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"{part_store} is not where the parts are that this database speaks of",
            "all replicas need the same database and the same parts; after a restore, both from the same backup",
        )


def match_key(store: Store, public_key: bytes, path: Path) -> None:
    """Check that a replica has the key that all of them sign with; the first server's is the one.

    Raises:
        ConfigError: it has another.
    """
    number = int.from_bytes(hashlib.sha256(public_key).digest()[:_KEY_BYTES])
    with store.write() as tx:
        known = tx.number(_KEY)
        if known is None:
            tx.set_number(_KEY, number)
    if known not in (None, number):
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"{path} is not the key that the other replicas sign with",
            "copy the file from one of them; if it is lost for good: `he-agg aggregator forget-key`, then a new roster",
        )


def forget_key(store: Store) -> bool:
    """Forget which key replicas sign with. Returns whether it was known."""
    with store.write() as tx:
        return tx.drop_number(_KEY)
