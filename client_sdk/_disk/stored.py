"""Notes of the spool on a submission: that it is whole, or how to go on with one that is not."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property

from he_agg import canonical
from he_agg.documents.manifest import MAX_MANIFEST_BYTES, NONCE_BYTES, Manifest
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError

__all__ = ["ELSEWHERE", "MAX_STORED_BYTES", "Begun", "Stored"]

MAX_STORED_BYTES = MAX_MANIFEST_BYTES + 2**10
"""The longest file of a submission."""

ELSEWHERE = "elsewhere"
"""Instead of a fingerprint: this site's key signed the manifest on another machine, or before the spool was lost."""


@dataclass(frozen=True)
class Stored:
    """A submission in the spool. `fingerprint` says what it encrypts, to key holders only, or is `ELSEWHERE`."""

    signed: Signed[Manifest]
    fingerprint: str

    @property
    def manifest(self) -> Manifest:
        """What the manifest says."""
        return self.signed.body

    @cached_property
    def encoded(self) -> bytes:
        """The signed manifest as it travels."""
        return self.signed.encode()

    @property
    def elsewhere(self) -> bool:
        """Whether its parts are not here."""
        return self.fingerprint == ELSEWHERE

    @cached_property
    def submission_id(self) -> str:
        """SHA-256 of the signed manifest."""
        return self.signed.digest

    def to_bytes(self) -> bytes:
        """Return what is in its file."""
        return b'{"manifest":%b,"update":"%b"}' % (self.encoded, self.fingerprint.encode("ascii"))

    @classmethod
    def parse(cls, data: bytes) -> Stored:
        """Read its file.

        Raises:
            WireError: it is damaged.
        """
        if len(data) > MAX_STORED_BYTES:
            raise WireError(Reason.TOO_LARGE, f"expected at most {MAX_STORED_BYTES} bytes")
        fields = canonical.Fields(canonical.loads(data), "submission")
        stored = cls(Signed.read(Manifest, fields.object("manifest")), fields.string("update", 64))
        fields.end()
        if stored.to_bytes() != data:
            raise WireError(Reason.NOT_CANONICAL, "expected what was written, got another form")
        return stored


@dataclass(frozen=True)
class Begun:
    """An encryption that has begun, and may have to go on in another process.

    Attributes:
        upload: nonce of its manifest to be.
        salt: what its randomness follows from, with the group key and all that is encrypted. Secret. 64 hex digits.
        what: digest of all that is encrypted, and how.
        kept: digest of what does not follow from it: the part of the one-time key, or the dealing. None as long as that
            is not in the spool; nothing has left then, and nothing is noted.
    """

    upload: str
    salt: str
    what: str
    kept: str | None = None

    @classmethod
    def new(cls, what: str) -> Begun:
        """Draw an upload and its salt."""
        return cls(secrets.token_hex(NONCE_BYTES), secrets.token_hex(32), what)

    def to_bytes(self) -> bytes:
        """Return what is in its file. Secret."""
        return canonical.encode(dict(vars(self)))

    @classmethod
    def parse(cls, data: bytes) -> Begun:
        """Read its file.

        Raises:
            WireError: it is damaged.
        """
        fields = canonical.Fields(canonical.parse(data, 2**12), "begun")
        upload, salt = fields.hex("upload", NONCE_BYTES), fields.hex("salt", 32)
        begun = cls(upload, salt, fields.hex("what", 32), fields.hex("kept", 32))
        fields.end()
        return begun

    def __repr__(self) -> str:
        return f"Begun({self.upload}, <salt>)"
