"""Tags and verification in one attempt at one round.

A site that submits has its codec show every part to `watch` as it is encrypted, which adds what comes of it to a total,
and puts `tags` of that into its manifest. A site that downloads a sum holds each of its parts against `check`, made
from site, nonce and tags out of the manifests of the record; only a part that passes may be decrypted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import TracebackType

from he_agg.errors import InputError, Reason
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import Packed
from he_agg.mac.coefficients import SectionMac
from he_agg.mac.derivation import Secret, encoded_submission
from he_agg.mac.sum_check import Claim, SumCheck
from he_agg.mac.totals import Tags, TagTotal
from he_agg.plan.plan import PublicPlan

__all__ = ["RoundMac"]


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
        """Compute the tags of one part, before pads. Any thread may; kernels release the GIL.

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
        """Start an empty total, to which the parts of one submission are added."""
        return TagTotal(self._plan)

    def pads(self, number: int, site: str, nonce: str) -> tuple[int, ...]:
        """Derive the one-time pads of one part of a submission. Secret.

        Args:
            nonce: of the submission, 32 hex digits.
        """
        return self._pads(number, encoded_submission(site, nonce))

    def _pads(self, number: int, submission: bytes) -> tuple[int, ...]:
        section, _ = self._section_of(number)
        return self._secret.pads(number, section.tags, submission, section.section.modulus)

    def tags(self, total: TagTotal, site: str, nonce: str) -> Tags:
        """Compute the tags of one submission, which go into its manifest.

        A pad must not hide two different totals, or their difference gives an equation of the coefficients away: the
        nonce is fresh for every encryption. Within this object a second use is refused.

        Args:
            nonce: of the submission, 32 hex digits.

        Raises:
            ValueError: parts are missing, or this nonce went with other parts before.
        """
        values = total.values()
        with self._lock:
            if self._tagged.setdefault((site, nonce), values) != values:
                raise ValueError("this nonce was used for another submission")
        return tuple(
            tuple((x + pad) % place.section.modulus for x, pad in zip(tags, pads, strict=True))
            for place, tags in zip(self._plan.places, values, strict=True)
            for pads in (self.pads(place.number, site, nonce),)
        )

    def check(self, claims: Iterable[Claim]) -> SumCheck:
        """Make what tells whether the parts of a sum are the sum of exactly these submissions.

        Args:
            claims: site, nonce and tags out of the manifest of each submission that the record names.
        """
        return SumCheck(self._plan, self.part, self._pads, tuple(claims))

    def wipe(self) -> None:
        """Overwrite the key and the coefficients. Call it when no other thread uses this object any more."""
        self._secret.wipe()
        self._tagged.clear()
        for mac in self._sections:
            mac.wipe()

    def __enter__(self) -> RoundMac:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"RoundMac({self._round_id}, epoch {self._epoch}, <mac key>)"
