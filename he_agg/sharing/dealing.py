"""Read and write a dealing: one submission's key in shares, each sealed to its holder.

    public part   magic "HEKS", version 1 (1 byte), R (1), numbers of a key (2), m (2), t (2)       12 bytes
                  C_1, ..., C_m                                                                     32 each
                  Q(1), ..., Q(t), R numbers each                                                   2 each
    m blobs       the sealed shares; of a holder who has no key: nothing

Integers are little-endian. Nothing says how long anything is: all of it follows from the list of holders. The *digest*
is over the public part and the digests of the blobs, so that a holder can check it with its own blob alone: that is its
*excerpt*, the public part, the SHA-256 of every blob, and one blob.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from he_agg.errors import Reason, WireError
from he_agg.ring.primes import N
from he_agg.sharing.context import hashed
from he_agg.sharing.field import ELEMENT_BYTES, Elements, read
from he_agg.sharing.proof import COMBINATIONS, ROW_WIDTH
from he_agg.sharing.shamir import SEED_BYTES
from he_agg.sharing.thresholds import MAX_HOLDERS

__all__ = ["SALT_BYTES", "SEAL_BYTES", "Dealing", "Excerpt", "Holders"]

MAGIC, VERSION = b"HEKS", 1
SALT_BYTES = 32
SEAL_BYTES = {"x25519": 32 + 16, "mlkem768-x25519": 1088 + 32 + 16}
"""How much longer a sealed text is, by suite: the encapsulated key and the tag."""

_HEADER = struct.Struct("<4sBBHHH")
_DIGEST_BYTES = 32
_DEALING = b"he-agg/dealing/v1"


@dataclass(frozen=True)
class Holders:
    """Who holds shares, as far as the bytes of a dealing follow from it.

    Attributes:
        names: in the roster's order. The first one's point is 1.
        suites: of their sharing keys; None for a holder who has none in this epoch.
        threshold: t.
    """

    names: tuple[str, ...]
    suites: tuple[str | None, ...]
    threshold: int

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= len(self.names) <= MAX_HOLDERS or len(self.names) != len(set(self.names)):
            raise ValueError(f"no list of {len(self.names)} holders with a threshold of {self.threshold}")
        if len(self.suites) != len(self.names) or not set(self.suites) <= {None, *SEAL_BYTES}:
            raise ValueError(f"each holder has a suite out of {', '.join(SEAL_BYTES)}, or None")

    def index(self, name: str) -> int:
        """Return a holder's point, from 1."""
        return self.names.index(name) + 1

    @property
    def header(self) -> bytes:
        """What a dealing for them begins with."""
        return _HEADER.pack(MAGIC, VERSION, COMBINATIONS, N, len(self.names), self.threshold)

    @property
    def public_bytes(self) -> int:
        """Length of the public part."""
        proof_bytes = ELEMENT_BYTES * COMBINATIONS * self.threshold
        return _HEADER.size + _DIGEST_BYTES * len(self.names) + proof_bytes

    def plaintext_bytes(self, index: int) -> int:
        """Return the length of what is sealed to a holder."""
        return SALT_BYTES + (SEED_BYTES if index < self.threshold else ELEMENT_BYTES * ROW_WIDTH)

    def blob_bytes(self, index: int) -> int:
        """Return the length of what a holder gets."""
        suite = self.suites[index - 1]
        return 0 if suite is None else self.plaintext_bytes(index) + SEAL_BYTES[suite]

    @property
    def dealing_bytes(self) -> int:
        """Length of a dealing."""
        return self.public_bytes + sum(self.blob_bytes(index) for index in range(1, len(self.names) + 1))

    def excerpt_bytes(self, index: int) -> int:
        """Return the length of a holder's excerpt."""
        return self.public_bytes + _DIGEST_BYTES * len(self.names) + self.blob_bytes(index)


@dataclass(frozen=True)
class _Public:
    """What a dealing says to everybody."""

    holders: Holders
    public: bytes

    def __post_init__(self) -> None:
        header, expected = self.public[: _HEADER.size], self.holders.header
        if header[:4] != MAGIC:
            raise WireError(Reason.BAD_MAGIC, f"dealing: expected the magic {MAGIC.decode()}, got another")
        if header[4] != VERSION:
            raise WireError(Reason.BAD_VERSION, f"dealing: expected version {VERSION}, got {header[4]}")
        if header != expected:
            raise WireError(
                Reason.BAD_FIELD,
                f"dealing: expected R, width, m, t = {_HEADER.unpack(expected)[2:]}, got {_HEADER.unpack(header)[2:]}",
            )
        _ = self.proof

    @property
    def commitments(self) -> tuple[bytes, ...]:
        """C_1 to C_m."""
        start = _HEADER.size
        return tuple(
            self.public[start + _DIGEST_BYTES * j : start + _DIGEST_BYTES * (j + 1)]
            for j in range(len(self.holders.names))
        )

    @cached_property
    def proof(self) -> Elements:
        """Q at the points 1 to t. Shape: (t, R)."""
        start = _HEADER.size + _DIGEST_BYTES * len(self.holders.names)
        values = read(self.public[start:], COMBINATIONS * self.holders.threshold, "proof of a dealing")
        return values.reshape(self.holders.threshold, COMBINATIONS)


@dataclass(frozen=True)
class Dealing(_Public):
    """All of a dealing, as it travels with its submission.

    Attributes:
        holders: whom it is for.
        public: the public part.
        blobs: one for each holder.
    """

    blobs: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [i for i, blob in enumerate(self.blobs, start=1) if len(blob) != self.holders.blob_bytes(i)]
        if wrong or len(self.blobs) != len(self.holders.names):
            raise ValueError(f"expected blobs as long as the holders' suites say, got others at {wrong}")

    def to_bytes(self) -> bytes:
        """Return what travels."""
        return b"".join((self.public, *self.blobs))

    @classmethod
    def parse(cls, data: bytes, holders: Holders) -> Dealing:
        """Read what `to_bytes` wrote.

        Raises:
            WireError: not a dealing for these holders.
        """
        _require_length(data, holders.dealing_bytes, "dealing")
        blobs, start = [], holders.public_bytes
        for index in range(1, len(holders.names) + 1):
            blobs.append(data[start : start + holders.blob_bytes(index)])
            start += len(blobs[-1])
        return cls(holders, data[: holders.public_bytes], tuple(blobs))

    @cached_property
    def blob_digests(self) -> tuple[bytes, ...]:
        """SHA-256 of each blob."""
        return tuple(hashlib.sha256(blob).digest() for blob in self.blobs)

    @property
    def digest(self) -> str:
        """What the manifest says, 64 hex digits."""
        return _digest(self.public, self.blob_digests)

    def excerpt(self, holder: str) -> Excerpt:
        """Return what a holder needs of it."""
        index = self.holders.index(holder)
        return Excerpt(self.holders, self.public, index, self.blob_digests, self.blobs[index - 1])


@dataclass(frozen=True)
class Excerpt(_Public):
    """What one holder needs of a dealing.

    Attributes:
        index: the holder's, from 1.
        blob_digests: SHA-256 of each blob.
        blob: the holder's own.
    """

    index: int
    blob_digests: tuple[bytes, ...] = field(repr=False)
    blob: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Return what travels."""
        return b"".join((self.public, *self.blob_digests, self.blob))

    @classmethod
    def parse(cls, data: bytes, holders: Holders, holder: str) -> Excerpt:
        """Read what `to_bytes` wrote.

        Raises:
            WireError: no excerpt for this holder, or its blob is not the one that the digest is of.
        """
        public, digests, blob = _pieces(data, holders, holder)
        return cls(holders, public, holders.index(holder), digests, blob)

    @staticmethod
    def digest_of(data: bytes, holders: Holders, holder: str) -> str:
        """Return the digest of the dealing that an excerpt is of, even of one that nobody can read.

        Raises:
            WireError: another length, or its blob is not the one that the digest is of.
        """
        public, digests, _ = _pieces(data, holders, holder)
        return _digest(public, digests)

    @property
    def holder(self) -> str:
        """Whose it is."""
        return self.holders.names[self.index - 1]

    @property
    def digest(self) -> str:
        """Digest of the whole dealing, 64 hex digits."""
        return _digest(self.public, self.blob_digests)


def _pieces(data: bytes, holders: Holders, holder: str) -> tuple[bytes, tuple[bytes, ...], bytes]:
    """Cut an excerpt into the public part, the blobs' digests and the holder's own blob."""
    index = holders.index(holder)
    _require_length(data, holders.excerpt_bytes(index), "excerpt of a dealing")
    middle, end = holders.public_bytes, holders.public_bytes + _DIGEST_BYTES * len(holders.names)
    digests = tuple(data[i : i + _DIGEST_BYTES] for i in range(middle, end, _DIGEST_BYTES))
    if hashlib.sha256(data[end:]).digest() != digests[index - 1]:
        raise WireError(Reason.BAD_DIGEST, f"excerpt of a dealing: expected the blob of {holder}, got another")
    return data[:middle], digests, data[end:]


def _digest(public: bytes, blob_digests: Sequence[bytes]) -> str:
    return hashed(_DEALING, public, *blob_digests).hex()


def _require_length(data: bytes, expected: int, what: str) -> None:
    if len(data) != expected:
        reason = Reason.TRUNCATED if len(data) < expected else Reason.TRAILING_BYTES
        raise WireError(reason, f"{what}: expected {expected} bytes, got {len(data)}")
