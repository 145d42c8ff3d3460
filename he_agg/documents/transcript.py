"""The transcript: everything that a federation's members have signed, in one file, for somebody who was not there.

One canonical JSON document a line: a header, every roster by version, then for every record, in the order of the chain,
the manifests of its members by site, the record itself, what holders have signed about it where keys are split
(`he_agg.audit.holding`), and its members' verdicts by site.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from he_agg import canonical
from he_agg.documents.roster import MAX_ROSTER_BYTES
from he_agg.errors import Reason, WireError
from he_agg.ids import check_name
from he_agg.plan.plan import PublicPlan

__all__ = ["KIND", "MAX_LINE_BYTES", "encode_header", "lines", "parse_header"]

KIND = "transcript"
MAX_LINE_BYTES = MAX_ROSTER_BYTES
"""The longest document of a transcript is a roster."""


def encode_header(plan: PublicPlan) -> bytes:
    """Return the first line, without its line feed."""
    return canonical.encode({"v": 1, "kind": KIND, "federation": plan.federation, "plan": plan.to_json()})


def parse_header(line: bytes) -> PublicPlan:
    """Read the first line, and check the plan in it."""
    fields = canonical.Fields(canonical.parse(line, MAX_LINE_BYTES), KIND)
    fields.integer("v", 1, 1)
    kind, federation = fields.string("kind", 63), check_name(fields.string("federation"), "transcript.federation")
    plan = PublicPlan.from_json(fields.object("plan"))
    fields.end()
    if kind != KIND or plan.federation != federation:
        raise WireError(Reason.BAD_FIELD, "expected a transcript, with the plan of the federation that it is of")
    return plan


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a transcript without their line feeds, one at a time.

    Raises:
        WireError: a line that is too long, or does not end: the file was cut.
    """
    while line := file.readline(MAX_LINE_BYTES + 2):
        if not line.endswith(b"\n"):
            if len(line) > MAX_LINE_BYTES:
                raise WireError(Reason.TOO_LARGE, f"expected lines of at most {MAX_LINE_BYTES} bytes")
            raise WireError(Reason.TRUNCATED, "the last line does not end: the file was cut")
        yield line[:-1]
