"""Tell of each part of a sum, by itself, whether it is the sum of the submissions' parts."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Sequence

from he_agg.kernels.bitpack import Packed
from he_agg.mac.bound import tag_count
from he_agg.mac.derivation import encoded_submission
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
        pads: derives the pads of a part, from its number and an encoded submission.
    """

    def __init__(
        self,
        plan: PublicPlan,
        part: Callable[[int, Packed], tuple[int, ...]],
        pads: Callable[[int, bytes], tuple[int, ...]],
        claims: Sequence[Claim],
    ) -> None:
        self._plan, self._part, self._pads = plan, part, pads
        sites = {site for site, _, _ in claims}
        form = [(tag_count(place.section), place.section.modulus) for place in plan.places]
        fit = all(_fits(form, tags) for _, _, tags in claims)
        self._sound = bool(sites) and len(sites) == len(claims) and fit
        self._tags = [tags for _, _, tags in claims]
        self._submissions = [encoded_submission(site, nonce) for site, nonce, _ in claims]
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
        if not self._sound:
            return False
        stated = [tags[number] for tags in self._tags]
        hidden = [self._pads(number, submission) for submission in self._submissions]
        expected = [
            (sum(tags) - sum(pads)) % modulus
            for tags, pads in zip(zip(*stated, strict=True), zip(*hidden, strict=True), strict=True)
        ]
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

    def __repr__(self) -> str:
        return f"SumCheck({len(self._held)} of {len(self._plan.places)} parts hold)"


def _fits(form: Sequence[tuple[int, int]], tags: Tags) -> bool:
    """Tell whether tags are as many as each part has, and below its modulus."""
    return len(tags) == len(form) and all(
        len(values) == count and min(values) >= 0 and max(values) < modulus
        for (count, modulus), values in zip(form, tags, strict=True)
    )


def _encoded(tags: Sequence[int]) -> bytes:
    return b"".join(value.to_bytes(TAG_BYTES, "big") for value in tags)
