"""Derive everything secret of the MAC from the epoch's MAC key.

    key of section i's keystreams  HMAC(mac_key, "he-agg/mac/coefficients/v1" | context | be32(i))
    pad of part n, tag t           HMAC(mac_key, "he-agg/mac/pad/v1" | context | be32(n) | be32(t) | site | nonce) mod q
    context                        federation | be64(epoch) | be64(round) | be64(attempt) | plan_id (32 bytes)

`|` puts the length of each field before it, as be32, so that no two different lists of fields encode alike. HMAC is
HMAC-SHA256, the nonce its 16 bytes, n the part's number among all parts of a submission. Taken as a big-endian number,
256 bits mod q < 2^62 are within 2^-194 of uniform.
"""

from __future__ import annotations

import hmac

from he_agg import canonical
from he_agg.ids import RoundId, check_name

__all__ = ["KEY_BYTES", "NONCE_BYTES", "Secret"]

KEY_BYTES, NONCE_BYTES = 32, 16
_COEFFICIENTS, _PAD = b"he-agg/mac/coefficients/v1", b"he-agg/mac/pad/v1"


class Secret:
    """The MAC key, bound to one attempt at one round. A class because the key must be wiped in the end.

    Args:
        mac_key: 32 bytes, copied.
    """

    def __init__(self, mac_key: bytes, plan_id: str, epoch: int, round_id: RoundId) -> None:
        if len(mac_key) != KEY_BYTES:
            raise ValueError(f"a MAC key has {KEY_BYTES} bytes, got {len(mac_key)}")
        self._key: bytearray | None = bytearray(mac_key)
        numbers = [number.to_bytes(8, "big") for number in (epoch, round_id.number, round_id.attempt)]
        self._context = (round_id.federation.encode(), *numbers, bytes.fromhex(plan_id))

    def coefficient_key(self, section: int) -> bytes:
        """Derive the key of the keystreams of one section's coefficients."""
        return self._derived(_COEFFICIENTS, *self._context, section.to_bytes(4, "big"))

    def pad(self, number: int, tag: int, site: str, nonce: str, modulus: int) -> int:
        """Derive the one-time pad of one tag of one part of a submission.

        Args:
            nonce: of the submission, 32 hex digits.
        """
        canonical.check_hex(nonce, NONCE_BYTES, "nonce")
        submission = (check_name(site, "site").encode(), bytes.fromhex(nonce))
        place = (number.to_bytes(4, "big"), tag.to_bytes(4, "big"))
        digest = self._derived(_PAD, *self._context, *place, *submission)
        return int.from_bytes(digest, "big") % modulus

    def wipe(self) -> None:
        """Overwrite our copy of the key."""
        if self._key is not None:
            self._key[:] = bytes(KEY_BYTES)
            self._key = None

    def _derived(self, *fields: bytes) -> bytes:
        if self._key is None:
            raise ValueError("this MAC key was wiped")
        message = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
        return hmac.digest(self._key, message, "sha256")

    def __repr__(self) -> str:
        return "Secret(<mac key>)" if self._key is not None else "Secret(<wiped>)"
