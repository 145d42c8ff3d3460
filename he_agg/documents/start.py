"""Read and write a start file: all that a member needs to begin. Nothing in it is secret.

Each document in it is signed by whoever answers for it, and they name each other; so the file itself carries no
signature. The group key is in the bundle, sealed to each site.
"""

from __future__ import annotations

from dataclasses import dataclass

from he_agg import canonical
from he_agg.documents.address import Address, check_address
from he_agg.documents.epoch import MAX_BUNDLE_BYTES, EpochBundle
from he_agg.documents.federation import FederationDocument
from he_agg.documents.roster import MAX_ROSTER_BYTES, Role, Roster, check_signed
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError

__all__ = ["MAX_START_BYTES", "Start"]

KIND = "he-agg-start"
MAX_START_BYTES = MAX_ROSTER_BYTES + MAX_BUNDLE_BYTES + 2**21


@dataclass(frozen=True)
class Start:
    """What a federation begins with.

    Attributes:
        address: where the aggregator is.
        roster: its first version, signed by its coordinators.
        document: the public half of the plan, and the commitment to the group key.
        bundle: the group key of the first epoch, sealed to each site.
    """

    address: Signed[Address]
    roster: Signed[Roster]
    document: FederationDocument
    bundle: Signed[EpochBundle]

    @property
    def federation(self) -> str:
        """Its name."""
        return self.roster.body.federation

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        parts = {
            "address": self.address.encode(),
            "bundle": self.bundle.encode(),
            "federation": self.document.encode(),
            "roster": self.roster.encode(),
        }
        read = {name: canonical.parse(part, MAX_START_BYTES) for name, part in parts.items()}
        return canonical.encode({"kind": KIND, "v": 1, **read})

    @classmethod
    def parse(cls, data: bytes) -> Start:
        """Read a start file, and check that its documents are signed and belong together. Whose they are is not known.

        Raises:
            WireError: another file, or documents that do not belong together.
            PlanError: a plan that must not be used.
        """
        fields = canonical.Fields(canonical.parse(data.strip(), MAX_START_BYTES), "start file")
        if fields.string("kind") != KIND:
            raise WireError(Reason.BAD_FIELD, "expected a start file, got another kind of document")
        fields.integer("v", 1, 1)
        start = cls(
            Signed.from_json(Address, fields.object("address")),
            Signed.from_json(Roster, fields.object("roster")),
            FederationDocument.parse(canonical.encode(fields.object("federation"))),
            Signed.from_json(EpochBundle, fields.object("bundle")),
        )
        fields.end()
        start._check()
        return start

    def _check(self) -> None:
        roster, bundle, plan = self.roster.body, self.bundle.body, self.document.plan
        check_signed(self.roster)
        check_address(self.address, roster)
        self.bundle.check_signed(roster.keys_of(Role.COORDINATOR))
        expected = (roster.federation, roster.federation, self.roster.body_digest)
        if (bundle.federation, plan.federation, bundle.roster) != expected:
            raise WireError(Reason.ROSTER_MISMATCH, "expected documents of one roster, got some of another")
        key = (self.document.epoch, plan.plan_id, self.document.key_id)
        if (bundle.epoch, bundle.plan_id, bundle.key_id) != key:
            raise WireError(Reason.PLAN_MISMATCH, "expected a plan and a group key that belong together, got others")
