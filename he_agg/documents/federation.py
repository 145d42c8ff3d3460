"""The federation document: what a coordinator hands to the operator. It holds nothing secret."""

from __future__ import annotations

from dataclasses import dataclass

from he_agg import canonical
from he_agg.errors import WireError
from he_agg.plan.plan import PublicPlan
from he_agg.protocol.wire import refuse_secrets

__all__ = ["MAX_FEDERATION_BYTES", "FederationDocument"]

MAX_FEDERATION_BYTES = 2**20
VERSION = 1


@dataclass(frozen=True)
class FederationDocument:
    """The public half of the plan, and a commitment to the group key.

    Attributes:
        key_id: commitment to the group key, 64 hex digits.
    """

    plan: PublicPlan
    epoch: int
    key_id: str

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.encode({"v": VERSION, "plan": self.plan.to_json(), "epoch": self.epoch, "key_id": self.key_id})

    @classmethod
    def parse(cls, data: bytes) -> FederationDocument:
        """Read a document, and check the plan in it.

        Raises:
            WireError: another document; a key, or a whole plan file, is refused as such.
            PlanError: a plan that must not be used.
        """
        try:
            fields = canonical.Fields(canonical.parse(data, MAX_FEDERATION_BYTES), "federation")
            fields.integer("v", VERSION, VERSION)
            plan_document = fields.object("plan")
        except WireError:
            # Key files are JSON with a version as well: only a plan tells this document from them.
            refuse_secrets(data)
            raise
        plan = PublicPlan.from_json(plan_document)
        document = cls(plan, fields.integer("epoch", 1, 10**9), fields.hex("key_id", 32))
        fields.end()
        return document
