"""Evidence that an aggregator broke a receipt: two documents that it signed, and the rosters that say so.

A line for each receipt: canonical JSON `{"receipt": ..., "record": ..., "rosters": [...], "v": 1}`, all of them signed
documents. There are two rosters if the aggregator's key was replaced between receipt and record, else one. Whoever
trusts them needs nothing else to see that receipt and record cannot both be kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from he_agg import canonical
from he_agg.documents.record import ENDED, FAILED, PUBLISHED, RoundRecord
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from he_agg.protocol.messages import Receipt

__all__ = ["BrokenReceipt", "broken_by", "encode_evidence", "parse_evidence"]

_MAX_LINE = 2**25

_MISSING = ("absent", "incomplete")
"""Why a record leaves out what was not complete."""


def broken_by(receipt: Receipt, record: RoundRecord) -> str | None:
    """Say how a record breaks a receipt; None if it does not.

    What has a receipt is complete, and stays so: a sum is of all that was complete when its round closed, so a
    published round has it. A round that fails counts nothing, and keeps its receipts whatever it failed for, be it that
    this very submission was damaged in the store; but it cannot fail because what is complete was missing.
    """
    if receipt.round_id != str(record.round_id):
        return None
    counted, excluded = record.members.get(receipt.site), record.excluded.get(receipt.site)
    if record.outcome == PUBLISHED and counted is not None and counted != receipt.id:
        return f"counts submission {counted[:12]} instead of {receipt.id[:12]}"
    if record.outcome == PUBLISHED and counted is None:
        return f"leaves {receipt.id[:12]} out of the sum: {excluded or 'not even named'}"
    if record.outcome == FAILED and excluded in _MISSING:
        return f"calls {receipt.id[:12]} {excluded}"
    if record.outcome == FAILED and excluded is None:
        return f"does not name the site of {receipt.id[:12]}"
    if record.outcome == ENDED:
        return f"ends the federation as if the attempt that took {receipt.id[:12]} had never opened"
    return None


@dataclass(frozen=True)
class BrokenReceipt:
    """A receipt, the record that breaks it, and the rosters whose aggregator has signed them."""

    receipt: Signed[Receipt]
    record: Signed[RoundRecord]
    rosters: tuple[Signed[Roster], ...]

    def check(self) -> str:
        """Verify all of it but the rosters, which the reader has to compare with those that it trusts.

        Returns:
            How the receipt was broken.

        Raises:
            WireError: a signature does not hold, or nothing was broken.
        """
        for document in (self.receipt, self.record):
            if not any(document.signers(roster.body.keys_of(Role.AGGREGATOR)) for roster in self.rosters):
                raise WireError(Reason.BAD_SIGNATURE, f"{document.body.title}: expected an aggregator of the rosters")
        how = broken_by(self.receipt.body, self.record.body)
        if how is None:
            raise WireError(Reason.BAD_FIELD, f"{self.receipt.body.title}: expected a record that breaks it, got none")
        return how


def encode_evidence(broken: Iterable[BrokenReceipt]) -> bytes:
    """Write evidence as one file."""
    return b"".join(
        canonical.encode(
            {
                "v": 1,
                "receipt": _json(one.receipt),
                "record": _json(one.record),
                "rosters": [_json(roster) for roster in one.rosters],
            }
        )
        + b"\n"
        for one in broken
    )


def parse_evidence(data: bytes) -> list[BrokenReceipt]:
    """Read what `encode_evidence` wrote. Nothing is proven until `check` was asked.

    Raises:
        WireError: not such a file.
    """
    found = []
    for line in data.splitlines():
        fields = canonical.Fields(canonical.parse(line, _MAX_LINE), "evidence")
        fields.integer("v", 1, 1)
        receipt = Signed.from_json(Receipt, fields.object("receipt"))
        record = Signed.from_json(RoundRecord, fields.object("record"))
        rosters = tuple(Signed.from_json(Roster, roster) for roster in fields.array("rosters", 2))
        found.append(BrokenReceipt(receipt, record, rosters))
        fields.end()
    return found


def _json(document: Signed[Any]) -> canonical.Json:
    return canonical.parse(document.encode(), _MAX_LINE)
