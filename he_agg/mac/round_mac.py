"""Tags and verification in one attempt at one round.

A site that submits has its codec show every part to `watch` as it is encrypted, which adds what comes of it to a total,
and puts `tags` of that into its manifest. A site that downloads a sum adds `part` of each of its parts to a total, and
hands that to `verify`, with site, nonce and tags out of the manifests of the record; only a sum that passes may be
decrypted.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Iterable
from types import TracebackType

from he_agg.errors import InputError, Reason
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import Packed
from he_agg.mac.coefficients import SectionMac
from he_agg.mac.derivation import Secret
from he_agg.mac.totals import Tags, TagTotal
from he_agg.plan.plan import PublicPlan

__all__ = ["RoundMac"]

TAG_BYTES = 8
"""Bytes of one tag where tags are compared; moduli are below 2^62."""


class RoundMac:
    """The MAC of one attempt at one round. A class because its coefficients are secret and made once.

    Args:
        mac_key: 32 bytes that all sites of the epoch share and the aggregator does not know. Copied.
    """

    def __init__(self, mac_key: bytes, plan: PublicPlan, epoch: int, round_id: RoundId) -> None:
        if round_id.federation != plan.federation:
            raise InputError(
                Reason.PLAN_MISMATCH, f"expected a round of federation {plan.federation}, got {round_id.federation}"
            )
        self._plan, self._epoch, self._round_id = plan, epoch, round_id
        self._secret = Secret(mac_key, plan.plan_id, epoch, round_id)
        self._sections = tuple(
            SectionMac(section, self._secret.coefficient_key(i)) for i, section in enumerate(plan.sections)
        )
        self._tagged: dict[tuple[str, str], Tags] = {}
        self._lock = threading.Lock()

    def watch(self, total: TagTotal, number: int) -> Callable[[Packed], None]:
        """Tag one part as it is made. With a total given it is a codec's `Watch`.

        Args:
            total: what the part contributes is added here as soon as its last residue was seen.

        Returns:
            A function to be called with the part's packed residues, stretch by stretch, in order: whole rows of `ROW`,
            or the part's last ones.
        """
        section, index = self._section_of(number)
        part = section.begin(index)

        def look(packed: Packed) -> None:
            part.add(packed)
            if part.complete:
                total.add(number, part.contribution())

        return look

    def part(self, number: int, packed: Packed) -> tuple[int, ...]:
        """Compute what one part adds to its section's tags, before pads. Any thread may; kernels release the GIL.

        A residue is not looked at: one that is not below q counts as what it is mod q. Whoever decrypts refuses it.

        Args:
            packed: its packed residues, without the header.

        Returns:
            One number below q for each tag of the section. Secret.
        """
        section, index = self._section_of(number)
        return section.contribution(index, packed)

    def _section_of(self, number: int) -> tuple[SectionMac, int]:
        """Return whose part it is, and the how manieth of its section."""
        if not 0 <= number < len(self._plan.places):
            raise ValueError(f"expected one of {len(self._plan.places)} parts, got number {number}")
        place = self._plan.places[number]
        return self._sections[place.section_index], place.index

    def new_total(self) -> TagTotal:
        """Start an empty total, to which the parts of one submission or of one sum are added."""
        return TagTotal(self._plan)

    def pads(self, site: str, nonce: str) -> Tags:
        """Derive the one-time pads of one submission. Secret.

        Args:
            nonce: of the submission, 32 hex digits.
        """
        return tuple(
            tuple(self._secret.pad(i, t, site, nonce, mac.section.modulus) for t in range(mac.tags))
            for i, mac in enumerate(self._sections)
        )

    def tags(self, total: TagTotal, site: str, nonce: str) -> Tags:
        """Compute the tags of one submission, which go into its manifest.

        A pad must not hide two different totals, or their difference gives an equation of the coefficients away: the
        nonce is fresh for every encryption. Within this object a second use is refused.

        Args:
            nonce: of the submission, 32 hex digits.

        Raises:
            ValueError: parts are missing, or this nonce went with other parts before.
        """
        values, pads = total.values(), self.pads(site, nonce)
        with self._lock:
            if self._tagged.setdefault((site, nonce), values) != values:
                raise ValueError("this nonce was used for another submission")
        return self._plus(values, pads, 1)

    def verify(self, total: TagTotal, submissions: Iterable[tuple[str, str, Tags]]) -> bool:
        """Tell whether a sum is the sum of exactly these submissions.

        Args:
            submissions: site, nonce and tags out of the manifest of each submission that the record names.

        Returns:
            False also when there are none, when a site comes twice, and when tags are not of this plan's form.
        """
        expected: Tags = tuple((0,) * mac.tags for mac in self._sections)
        sites: set[str] = set()
        for site, nonce, tags in submissions:
            if site in sites or not self._fits(tags):
                return False
            sites.add(site)
            expected = self._plus(self._plus(expected, tags, 1), self.pads(site, nonce), -1)
        return hmac.compare_digest(_encoded(total.values()), _encoded(expected)) and bool(sites)

    def wipe(self) -> None:
        """Overwrite the key and the coefficients. Call it when no other thread uses this object any more."""
        self._secret.wipe()
        self._tagged.clear()
        for mac in self._sections:
            mac.wipe()

    def _plus(self, one: Tags, other: Tags, sign: int) -> Tags:
        """Add, or subtract, mod each section's q."""
        return tuple(
            tuple((x + sign * y) % mac.section.modulus for x, y in zip(xs, ys, strict=True))
            for mac, xs, ys in zip(self._sections, one, other, strict=True)
        )

    def _fits(self, tags: Tags) -> bool:
        return len(tags) == len(self._sections) and all(
            len(values) == mac.tags and all(0 <= value < mac.section.modulus for value in values)
            for mac, values in zip(self._sections, tags, strict=True)
        )

    def __enter__(self) -> RoundMac:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"RoundMac({self._round_id}, epoch {self._epoch}, <mac key>)"


def _encoded(tags: Tags) -> bytes:
    return b"".join(value.to_bytes(TAG_BYTES, "big") for values in tags for value in values)
