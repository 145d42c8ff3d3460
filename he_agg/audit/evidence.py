"""Evidence that an aggregator broke a receipt: two documents that it signed, and the roster that says so.

Canonical JSON: `{"evidence": [{"receipt": ..., "record": ..., "roster": ...}, ...], "v": 1}`, each a signed document.
Whoever trusts the roster needs nothing else to see that both cannot be true.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from he_agg import canonical
from he_agg.documents.record import RoundRecord
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from he_agg.protocol.messages import Receipt

__all__ = ["BrokenReceipt", "broken_by", "encode_evidence", "parse_evidence"]

_MAX_BYTES = 2**28
_MAX_RECEIPTS = 10_000


def broken_by(receipt: Receipt, record: RoundRecord) -> str | None:
    """Say how a record breaks a receipt; None if it does not.

    What has a receipt is complete. A sum is of all that is complete; a round may fail all the same, but not because
    this submission was missing.
    """
    if receipt.round_id != str(record.round_id):
        return None
    counted, excluded = record.members.get(receipt.site), record.excluded.get(receipt.site)
    if record.outcome == "published" and counted is not None and counted != receipt.id:
        return f"counts submission {counted[:12]} instead of {receipt.id[:12]}"
    if record.outcome == "published" and counted is None:
        return f"leaves {receipt.id[:12]} out of the sum: {excluded or 'not even named'}"
    if record.outcome == "failed" and excluded in ("absent", "incomplete"):
        return f"calls {receipt.id[:12]} {excluded}"
    return None


@dataclass(frozen=True)
class BrokenReceipt:
    """A receipt, the record that breaks it, and the roster whose aggregator has signed both."""

    receipt: Signed[Receipt]
    record: Signed[RoundRecord]
    roster: Signed[Roster]

    def check(self) -> str:
        """Verify all of it but the roster, which the reader has to compare with the one that it trusts.

        Returns:
            How the receipt was broken.

        Raises:
            WireError: a signature does not hold, or nothing was broken.
        """
        keys = self.roster.body.keys_of(Role.AGGREGATOR)
        self.receipt.check_signed(keys)
        self.record.check_signed(keys)
        how = broken_by(self.receipt.body, self.record.body)
        if how is None:
            raise WireError(Reason.BAD_FIELD, f"{self.receipt.body.title}: expected a record that breaks it, got none")
        return how


def encode_evidence(broken: Iterable[BrokenReceipt]) -> bytes:
    """Write evidence as one file."""
    found = [
        {name: canonical.parse(getattr(one, name).encode(), _MAX_BYTES) for name in ("receipt", "record", "roster")}
        for one in broken
    ]
    return canonical.encode({"v": 1, "evidence": found})


def parse_evidence(data: bytes) -> list[BrokenReceipt]:
    """Read what `encode_evidence` wrote. Nothing is proven until `check` was asked.

    Raises:
        WireError: not such a file.
    """
    fields = canonical.Fields(canonical.parse(data, _MAX_BYTES), "evidence")
    fields.integer("v", 1, 1)
    found = []
    for value in fields.array("evidence", _MAX_RECEIPTS):
        one = canonical.Fields(value, "evidence")
        receipt = Signed.from_json(Receipt, one.object("receipt"))
        record = Signed.from_json(RoundRecord, one.object("record"))
        found.append(BrokenReceipt(receipt, record, Signed.from_json(Roster, one.object("roster"))))
        one.end()
    fields.end()
    return found
