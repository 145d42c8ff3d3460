"""Say which key of which submission something is about, and derive bytes and numbers for nothing else.

Every hash here is over a label and fields, each preceded by its length as be32, so that no two different lists of
fields, and no two purposes, hash alike.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from he_agg import canonical
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId, check_name
from he_agg.sharing.field import Elements, P

__all__ = ["Context", "elements", "hashed", "joined"]

_DIGEST_BYTES, _NONCE_BYTES = 32, 16
_SEAL = b"he-agg/dealing/seal/v1"
_MARGIN = 64
"""Spare words: 15 of 65,536 are refused, so even 30,000 need more than these less than once in 2^100."""


@dataclass(frozen=True)
class Context:
    """What a dealing is of. Whatever is derived for one submission is of no use for another.

    Attributes:
        round_id: federation, round and attempt.
        plan_id: 64 hex digits, as `key_id` and `roster`.
        holders: digest of the list of holders with their sharing keys, 64 hex digits.
        dealer: the site whose key is shared.
        nonce: the submission's, 32 hex digits.
    """

    round_id: RoundId
    epoch: int
    plan_id: str
    key_id: str
    roster: str
    holders: str
    dealer: str
    nonce: str

    def __post_init__(self) -> None:
        check_name(self.round_id.federation, "federation")
        check_name(self.dealer, "dealer")
        for name in ("plan_id", "key_id", "roster", "holders"):
            canonical.check_hex(getattr(self, name), _DIGEST_BYTES, name)
        canonical.check_hex(self.nonce, _NONCE_BYTES, "nonce")
        if not all(0 < n < 2**53 for n in (self.epoch, self.round_id.number, self.round_id.attempt)):
            raise WireError(Reason.BAD_FIELD, "epoch, round and attempt: expected numbers from 1")

    @cached_property
    def fields(self) -> tuple[bytes, ...]:
        """The ten fields, as they are hashed."""
        numbers = (self.epoch, self.round_id.number, self.round_id.attempt)
        digests = (self.plan_id, self.key_id, self.roster, self.holders)
        return (
            self.round_id.federation.encode(),
            *(number.to_bytes(8, "big") for number in numbers),
            *(bytes.fromhex(digest) for digest in digests),
            self.dealer.encode(),
            bytes.fromhex(self.nonce),
        )

    def sealing_info(self, index: int, holder: str) -> bytes:
        """Return what a share is bound to when it is sealed.

        Args:
            index: of the holder in the list, from 1.
        """
        return joined(_SEAL, *self.fields, index.to_bytes(2, "big"), holder.encode())


def joined(*fields: bytes) -> bytes:
    """Put fields together, the length of each before it as be32."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def hashed(label: bytes, *fields: bytes) -> bytes:
    """Return the SHA-256 of a label and fields."""
    return hashlib.sha256(joined(label, *fields)).digest()


def elements(count: int, label: bytes, *fields: bytes) -> Elements:
    """Return uniform elements of the field: SHAKE-256 of a label and fields, without what is not below P.

    How many words are passed over says nothing about those that are taken.

    Returns:
        Shape: (count,).
    """
    xof, spare = hashlib.shake_256(joined(label, *fields)), _MARGIN
    while True:
        words = np.frombuffer(xof.digest(2 * (count + spare)), dtype="<u2")
        taken = words[words < P]
        if taken.size >= count:
            return taken[:count].astype(np.uint16)
        spare *= 2
