"""Tell of each part of a sum, by itself, whether it is the sum of the submissions' parts."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Sequence

from he_agg.kernels.bitpack import Packed
from he_agg.mac.bound import tag_count
from he_agg.mac.totals import Tags
from he_agg.plan.plan import PublicPlan

__all__ = ["Claim", "SumCheck"]

TAG_BYTES = 8
"""Bytes of one tag where tags are compared; moduli are below 2^62."""

Claim = tuple[str, str, Tags]
"""Site, nonce and tags out of the manifest of a submission that a record names."""


class SumCheck:
    """Verifies the parts of one sum. Make it with `RoundMac.check`. Any thread may use it.

    A part that holds may be decrypted; what comes of it may be released when all of them do.

    Args:
        part: computes the tags of a part before pads.
        pads: derives the pads of a part, from its number, site and nonce.
    """

    def __init__(
        self,
        plan: PublicPlan,
        part: Callable[[int, Packed], tuple[int, ...]],
        pads: Callable[[int, str, str], tuple[int, ...]],
        claims: Sequence[Claim],
    ) -> None:
        self._plan, self._part, self._pads, self._claims = plan, part, pads, claims
        sites = {site for site, _, _ in claims}
        self._sound = bool(sites) and len(sites) == len(claims) and all(self._fits(tags) for _, _, tags in claims)
        self._held: set[int] = set()
        self._lock = threading.Lock()

    def holds(self, number: int, packed: Packed) -> bool:
        """Tell whether a part of the sum is the sum of exactly these submissions' parts.

        Args:
            packed: its packed residues, without the header.

        Returns:
            False for every part when there are no claims, when a site comes twice, and when tags are not of this plan's
            form.
        """
        got, modulus = self._part(number, packed), self._plan.places[number].section.modulus
        expected = [0] * len(got)
        if not self._sound:
            return False
        for site, nonce, tags in self._claims:
            pads = self._pads(number, site, nonce)
            expected = [(e + t - p) % modulus for e, t, p in zip(expected, tags[number], pads, strict=True)]
        holds = hmac.compare_digest(_encoded(got), _encoded(expected))
        if holds:
            with self._lock:
                self._held.add(number)
        return holds

    @property
    def whole(self) -> bool:
        """Whether all parts of the sum were seen to hold."""
        with self._lock:
            return len(self._held) == len(self._plan.places)

    def _fits(self, tags: Tags) -> bool:
        counts = [tag_count(section) for section in self._plan.sections]
        return len(tags) == len(self._plan.places) and all(
            len(values) == counts[place.section_index] and all(0 <= value < place.section.modulus for value in values)
            for place, values in zip(self._plan.places, tags, strict=True)
        )

    def __repr__(self) -> str:
        return f"SumCheck({len(self._held)} of {len(self._plan.places)} parts hold)"


def _encoded(tags: Sequence[int]) -> bytes:
    return b"".join(value.to_bytes(TAG_BYTES, "big") for value in tags)
