"""The aggregator's own key: with it, records and receipts are signed. One for a data directory, shared by its replicas.

It is made when the directory is first used, and is what a roster lists: a new one would need a new roster. Written as
secret files are: 0600 from the first moment, fsynced, and linked to its name, so that of two replicas that start at
once both take the one that was first.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from he_agg import canonical
from he_agg.documents.address import Address
from he_agg.documents.public_file import PublicFile
from he_agg.documents.roster import Member, Role
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, KeystoreError, Reason, WireError
from he_agg.host.files import create, create_once, file_trouble, sync_directory
from he_agg.host.private import read_private
from he_agg.ids import check_name
from he_agg.signing import SigningKey

__all__ = ["FILE_NAME", "AggregatorKey"]

DEFAULT_NAME = "aggregator"
FILE_NAME = "aggregator.key"
KIND = "he-agg-aggregator-key"
VERSION = 1
_MAX_BYTES = 4096
_SEED_BYTES = 32
_REMEDY = "have the coordinators list a new key"


@dataclass(frozen=True)
class AggregatorKey:
    """The key. Get it with `load_or_create`.

    Attributes:
        signing_key: signs records and receipts. Secret.
    """

    signing_key: SigningKey = field(repr=False)
    name: str = DEFAULT_NAME

    @classmethod
    def load_or_create(cls, data_dir: Path) -> AggregatorKey:
        """Take the key of a data directory; the first time, make both."""
        path = data_dir / FILE_NAME
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.path.lexists(path):
                create_once(path, _encode(SigningKey.generate()))
            key = cls(_parse(path, read_private(path, _MAX_BYTES, _REMEDY)))
            # Whoever made it may have died before this, and a key that has signed must not be lost.
            sync_directory(data_dir)
        except OSError as error:
            raise file_trouble(error, f"{path} cannot be used") from error
        return key

    @property
    def member(self) -> Member:
        """The public half, as a roster lists it."""
        return Member(self.name, self.signing_key.public_key.hex(), frozenset({Role.AGGREGATOR}))

    def named(self, name: str) -> AggregatorKey:
        """Return the same key under another name, for a federation that calls its aggregator so."""
        return AggregatorKey(self.signing_key, check_name(name, "aggregator"))

    def public_file(self, address: Address | None = None) -> bytes:
        """Return the public file, which a coordinator takes into the roster.

        Args:
            address: where sites reach this aggregator.
        """
        signed = None if address is None else Signed.make(address, self.signing_key, self.name)
        return PublicFile(self.member, signed).encode()

    def save_public(self, path: Path) -> None:
        """Write the public file. A file that is there already must hold the very same."""
        content = self.public_file()
        try:
            with contextlib.suppress(FileExistsError):
                create(path, content, 0o644)
            same = path.read_bytes() == content
        except OSError as error:
            raise file_trouble(error, f"{path} cannot be written") from error
        if not same:
            raise ConfigError(
                Reason.FILE_EXISTS, f"{path} exists; it is never overwritten", "move it away first, or give --out"
            )


def _encode(key: SigningKey) -> bytes:
    return canonical.encode({"kind": KIND, "v": VERSION, "signing": key.to_bytes().hex()})


def _parse(path: Path, content: bytes) -> SigningKey:
    try:
        fields = canonical.Fields(canonical.parse(content, _MAX_BYTES), "aggregator key")
        fields.integer("v", VERSION, VERSION)
        kind, seed = fields.string("kind"), fields.hex("signing", _SEED_BYTES)
        fields.end()
        if kind != KIND:
            raise WireError(Reason.BAD_FIELD, "another kind of file")
    except WireError as error:
        raise KeystoreError(
            Reason.KEYSTORE_CORRUPT,
            f"{path}: expected the aggregator's key, got something else",
            "restore it from a backup; with another key, every federation needs a new roster",
        ) from error
    return SigningKey.from_bytes(bytes.fromhex(seed))
