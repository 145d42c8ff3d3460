"""Ask what has become of a round, and read the answer: its record first, the manifests once that is believed.

Both come in one document, `{"manifests":[...],"record":{...},"v":1}`. It is cut where the record begins, and each half
is held byte by byte to its one form when it is read. So nothing is read twice, and of the manifests nothing at all, not
even whether they are JSON, before the record has passed its own checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from client_sdk._effects import Request
from client_sdk._protocol.accept import RejectedError
from he_agg import canonical
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import MAX_RECORD_BYTES, RoundRecord
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId
from he_agg.mac import tag_count
from he_agg.plan.plan import PublicPlan

__all__ = ["RoundAnswer", "check_no_manifests", "parse_answer", "parse_manifests", "record_request"]

_BEGIN, _BETWEEN, _END = b'{"manifests":[', b'],"record":', b',"v":1}'
_FRAME_BYTES = len(_BEGIN + _BETWEEN + _END)


@dataclass(frozen=True)
class RoundAnswer:
    """What an aggregator says of a round that has ended. Nothing is proven about any of it.

    Attributes:
        unread: what came before the record, which is to be the manifests of its members.
    """

    signed: Signed[RoundRecord]
    unread: bytes = field(repr=False)


def record_request(plan: PublicPlan, round_id: RoundId, wait_s: int = 0) -> Request:
    """Return the request for a round's record and manifests.

    Args:
        wait_s: how long the aggregator may wait for the round's end, 204 if it has not come; 0 if it must have ended.
            Units: seconds.
    """
    return Request(
        "GET",
        f"/v1/rounds/{round_id}/record" + (f"?wait={wait_s}" if wait_s else ""),
        frozenset({200, 204} if wait_s else {200}),
        max_bytes=_FRAME_BYTES + MAX_RECORD_BYTES + _manifests_bytes(plan, plan.max_sites),
        wait_s=wait_s,
    )


def parse_answer(body: bytes) -> RoundAnswer:
    """Read the record out of an answer.

    Raises:
        WireError: there is none, or not in its canonical form.
    """
    # No canonical record has these bytes within: only in front of one, then, or it is not read as one.
    at = body.rfind(_BETWEEN)
    if at < 0 or not body.endswith(_END):
        raise WireError(Reason.BAD_FIELD, "expected a record behind the manifests of its members, got something else")
    signed = Signed.parse(RoundRecord, body[at + len(_BETWEEN) : -len(_END)])
    return RoundAnswer(signed, body[:at])


def parse_manifests(plan: PublicPlan, answer: RoundAnswer) -> list[Signed[Manifest]]:
    """Read the manifests of a sum's members, as many as the record has. Nothing is proven about them yet."""
    try:
        most = len(_BEGIN) + _manifests_bytes(plan, len(answer.signed.body.members))
        if len(answer.unread) > most:
            raise WireError(Reason.TOO_LARGE, f"expected at most {most} bytes, got {len(answer.unread)}")
        fields = canonical.Fields(canonical.loads(answer.unread + b"]}"), "manifests")
        manifests = [Signed.read(Manifest, value) for value in fields.array("manifests", 10_000)]
        fields.end()
        # All at once: every site reads those of all, and to write them takes longer than to read them.
        if answer.unread != _BEGIN + b",".join(signed.encode() for signed in manifests):
            raise WireError(Reason.NOT_CANONICAL, "expected each value in its one form, got another")
        return manifests
    except WireError as error:
        raise RejectedError(error.reason, "manifests", "signed manifests of the members", error.message) from error


def check_no_manifests(answer: RoundAnswer) -> None:
    """Check that there are none behind the record of a round without a sum."""
    if answer.unread != _BEGIN:
        raise RejectedError(Reason.BAD_ANSWER, "manifests, sites", "none, as the round has no sum", "something else")


def _manifests_bytes(plan: PublicPlan, sites: int) -> int:
    """Return how long the manifests of so many sites are at most: a digest of each part, decimal tags, and the rest."""
    return sites * (4096 + sum(72 + 24 * tag_count(place.section) for place in plan.places))
