"""The server's side of a run: add the residues of one round's submissions. No key, no codec, no plaintext."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from client_sdk.frameworks.claim import Carried, Claim
from he_agg.documents.federation import FederationDocument
from he_agg.errors import HeAggError, PlanError, ProtocolError, Reason
from he_agg.ids import RoundId
from he_agg.kernels import bitpack
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Part
from he_agg.protocol.wire import encode_part, parse_part

__all__ = ["Adder", "check_shared", "read_federation", "round_of", "sentence"]


def check_shared(plan: PublicPlan) -> None:
    """Refuse a plan that splits keys.

    Raises:
        PlanError: it does: nobody in a run of a framework holds shares.
    """
    if plan.splits_keys:
        raise PlanError(
            Reason.BAD_PLAN,
            "keys: in a run of a framework there are no holders, so expected a plan that shares keys, got one that "
            "splits them",
            "make a plan with `he-agg plan new` and `--keys shared`, or run an he-agg aggregator",
        )


def read_federation(federation: str | Path | FederationDocument) -> FederationDocument:
    """Return the public document of an epoch, which a server goes by.

    Raises:
        WireError: another file; a keystore is refused as such.
        PlanError: its plan splits keys.
    """
    if not isinstance(federation, FederationDocument):
        federation = FederationDocument.parse(Path(federation).read_bytes())
    check_shared(federation.plan)
    return federation


def round_of(plan: PublicPlan, number: int) -> RoundId:
    """Return the id of a run's round. Claims name the run as well, so it need not be in here."""
    return RoundId(plan.federation, number, 1)


class Adder:
    """One round's sum in the making.

    Args:
        run: id of the run.
        previous: digest of the sum of the round before.
    """

    def __init__(self, federation: FederationDocument, run: str, number: int, previous: str) -> None:
        self._federation, self._run, self._number, self._previous = federation, run, number, previous
        self._plan = federation.plan
        self._totals = [bitpack.new_sum(place.residues, place.section.modulus_bits) for place in self._plan.places]
        self._claims: dict[str, bytes] = {}
        self._refused: list[str] = []

    def __len__(self) -> int:
        return len(self._claims)

    def add(self, site: str, claims: Sequence[bytes], parts: Sequence[bytes]) -> None:
        """Add one site's submission, or refuse all of it.

        Args:
            site: who sent it, as the framework knows it.

        Raises:
            WireError: not a submission to this round by this site.
            ProtocolError: the site has one in it already, or the round is full.
        """
        try:
            claim, read = self._read(site, claims, parts)
        except HeAggError as error:
            self._refused.append(error.message)
            raise
        for total, part, place in zip(self._totals, read, self._plan.places, strict=True):
            # Residues were checked when the part was parsed.
            bitpack.fold(total, part.packed, place.section.modulus_bits, place.section.modulus)
        self._claims[site] = claim

    def _read(self, site: str, claims: Sequence[bytes], parts: Sequence[bytes]) -> tuple[bytes, list[Part]]:
        plan, federation = self._plan, self._federation
        if site in self._claims or len(self._claims) == plan.max_sites:
            what = "it has one in the sum" if site in self._claims else f"the sum has {plan.max_sites} already"
            raise ProtocolError(
                Reason.SECOND_SUBMISSION, f"round {self._number}, site {site}: expected no submission more, {what}"
            )
        if len(claims) != 1 or len(parts) != len(plan.places):
            raise ProtocolError(
                Reason.BAD_REQUEST,
                f"round {self._number}, site {site}: expected one claim and {len(plan.places)} parts, got "
                f"{len(claims)} and {len(parts)}",
            )
        claim = Claim.parse(claims[0])
        round_id = round_of(plan, self._number)
        claim.check(plan, self._run, round_id, federation.epoch, federation.key_id, self._previous)
        if claim.site != site:
            raise ProtocolError(
                Reason.FORBIDDEN, f"round {self._number}: expected a claim of site {site}, got one of {claim.site}"
            )
        read = [parse_part(part, place, plan.plan_id) for part, place in zip(parts, plan.places, strict=True)]
        return bytes(claims[0]), read

    def total(self) -> Carried:
        """Return the sum.

        Raises:
            ProtocolError: of fewer sites than the plan's `min_sites`.
        """
        plan = self._plan
        if len(self._claims) < plan.min_sites:
            why = "".join(f"; {one}" for one in self._refused[:3])
            raise ProtocolError(
                Reason.ROUND_FAILED,
                f"round {self._number}: expected {plan.min_sites} to {plan.max_sites} encrypted updates, got "
                f"{len(self._claims)}{why}",
                "see the sites' logs; start again when enough sites are there",
            )
        parts = [
            encode_part(Part(place.number, bitpack.pack(total, place.section.modulus_bits).data), place, plan.plan_id)
            for total, place in zip(self._totals, plan.places, strict=True)
        ]
        return [self._claims[site] for site in sorted(self._claims)], parts


def sentence(error: HeAggError) -> str:
    """Return an error as one text for a framework's log: what happened, why, and what to do."""
    return f"{error.message} [{error.reason}]" + (f"; {error.hint}" if error.hint else "")
