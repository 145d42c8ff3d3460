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
from functools import cache

from he_agg import canonical
from he_agg.ids import RoundId, check_name

__all__ = ["KEY_BYTES", "NONCE_BYTES", "Secret", "encoded_submission"]

KEY_BYTES, NONCE_BYTES = 32, 16
_COEFFICIENTS, _PAD = b"he-agg/mac/coefficients/v1", b"he-agg/mac/pad/v1"
_WIPED = "this MAC key was wiped"


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
        self._context = _encoded(round_id.federation.encode(), *numbers, bytes.fromhex(plan_id))
        # Every site derives the pads of all members: what these share goes in once. OpenSSL clears what it frees.
        self._pads: hmac.HMAC | None = hmac.new(self._key, _encoded(_PAD) + self._context, "sha256")

    def coefficient_key(self, section: int) -> bytes:
        """Derive the key of the keystreams of one section's coefficients."""
        if self._key is None:
            raise ValueError(_WIPED)
        message = _encoded(_COEFFICIENTS) + self._context + _encoded(section.to_bytes(4, "big"))
        return hmac.digest(self._key, message, "sha256")

    def pads(self, number: int, tags: int, submission: bytes, modulus: int) -> tuple[int, ...]:
        """Derive the one-time pads of all tags of one part of a submission.

        Args:
            submission: as `encoded_submission` gives it.
        """
        if self._pads is None:
            raise ValueError(_WIPED)
        part = self._pads.copy()
        part.update(_encoded(number.to_bytes(4, "big")))
        pads = []
        for tag in range(tags):
            one = part.copy()
            one.update(_encoded_tag(tag) + submission)
            pads.append(int.from_bytes(one.digest(), "big") % modulus)
        return tuple(pads)

    def wipe(self) -> None:
        """Overwrite our copy of the key."""
        if self._key is not None:
            self._key[:] = bytes(KEY_BYTES)
            self._key = self._pads = None

    def __repr__(self) -> str:
        return "Secret(<mac key>)" if self._key is not None else "Secret(<wiped>)"


def encoded_submission(site: str, nonce: str) -> bytes:
    """Return the fields of a submission, as pads are derived from them.

    Args:
        nonce: 32 hex digits.
    """
    canonical.check_hex(nonce, NONCE_BYTES, "nonce")
    return _encoded(check_name(site, "site").encode(), bytes.fromhex(nonce))


@cache
def _encoded_tag(tag: int) -> bytes:
    return _encoded(tag.to_bytes(4, "big"))


def _encoded(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)
