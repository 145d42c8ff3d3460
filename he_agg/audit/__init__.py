"""Checks a transcript without any key: who took part in which round, and that nobody can have changed it unnoticed.

What a transcript proves is that the members signed what it says. That it is all of it, only the sites can tell: the
digest of the last record is what to compare with theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

from he_agg import canonical
from he_agg.audit.findings import Audit, Coordinator, Finding, Notes, RosterRow, RoundRow
from he_agg.audit.holding import KINDS, HoldingChecks
from he_agg.audit.rosters import RosterChain
from he_agg.audit.rounds import RecordChain
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import RoundRecord
from he_agg.documents.roster import Roster
from he_agg.documents.signed import Signed
from he_agg.documents.transcript import MAX_LINE_BYTES, lines, parse_header
from he_agg.documents.verdict import Verdict
from he_agg.errors import HeAggError, Reason, WireError

__all__ = ["Audit", "Coordinator", "Finding", "RosterRow", "RoundRow", "audit"]


def audit(file: BinaryIO, fingerprints: Mapping[str, str] | None = None, expected: tuple[str, ...] = ()) -> Audit:
    """Check a transcript.

    Args:
        fingerprints: of coordinators of the first roster, by name, as they were read out by them. None: whatever it
            lists is taken on trust, and listed in the answer.
        expected: digests of records that sites have seen, and that must be there.
    """
    return _Auditor(fingerprints, expected).run(file)


class _Auditor:
    """Reads a transcript line by line, and hands each document to whoever checks its kind."""

    def __init__(self, fingerprints: Mapping[str, str] | None, expected: tuple[str, ...]) -> None:
        self._expected = dict.fromkeys(expected, False)
        self._notes = Notes()
        self._rosters = RosterChain(self._notes, fingerprints)
        self._holding: HoldingChecks | None = None
        self._records: RecordChain | None = None
        """None without a plan: then there is nothing to hold anything against."""

    def run(self, file: BinaryIO) -> Audit:
        notes = self._notes
        try:
            for line in lines(file):
                notes.line += 1
                if notes.line == 1:
                    self._header(line)
                elif self._records is not None:
                    self._document(line, self._records)
        except WireError as error:
            notes.line += 1
            notes.find("truncated" if error.reason == Reason.TRUNCATED else "bad-line", error.message)
        if notes.line == 0:
            notes.find("truncated", "the file is empty")
        if self._holding is not None:
            self._holding.end()
        if self._records is not None:
            self._records.end()
            if not self._rosters.trusted:
                text = "the transcript has no roster that can be trusted, so nobody has signed anything"
                notes.find("no-roster", text, 0)
        for digest, found in self._expected.items():
            if not found:
                notes.find("missing-record", f"record {digest}, which a site has seen, is not in the chain", 0)
        return notes.result

    def _header(self, line: bytes) -> None:
        try:
            plan = parse_header(line)
        except HeAggError as error:
            self._notes.find("bad-header", f"the first line is not that of a transcript: {error.message}")
            return
        self._notes.result.federation, self._notes.result.plan_id = plan.federation, plan.plan_id
        self._records = RecordChain(self._notes, plan, self._rosters.trusted)
        self._holding = HoldingChecks(self._notes, plan.splits_keys, self._rosters.trusted)

    def _document(self, line: bytes, records: RecordChain) -> None:
        try:
            value = canonical.parse(line, MAX_LINE_BYTES)
            kind = value.get("kind") if isinstance(value, dict) else None
            if kind == Roster.KIND:
                roster = Signed.parse(Roster, line)
                if records.begun:
                    text = f"version {roster.body.version} of the roster comes after manifests or records"
                    self._notes.find("order", text)
                self._rosters.take(roster)
            elif kind == Manifest.KIND:
                records.take_manifest(Signed.parse(Manifest, line))
            elif kind == Verdict.KIND:
                records.take_verdict(Signed.parse(Verdict, line))
            elif kind == RoundRecord.KIND:
                record = Signed.parse(RoundRecord, line)
                members = records.take_record(record)
                if self._holding is not None:
                    self._holding.begin(record, members)
                if record.digest in self._expected:
                    self._expected[record.digest] = True
            elif isinstance(kind, str) and kind in KINDS and self._holding is not None:
                self._holding.take(kind, line)
            else:
                raise WireError(
                    Reason.BAD_FIELD, "expected a signed roster, manifest, record, verdict, or what holders sign"
                )
        except WireError as error:
            self._notes.find("not-canonical" if error.reason == Reason.NOT_CANONICAL else "bad-line", error.message)
