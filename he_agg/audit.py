"""Checks a transcript without any key: who took part in which round, and that nobody can have changed it unnoticed.

What a transcript proves is that the members signed what it says. That it is all of it, only the sites can tell: the
digest of the last record is what to compare with theirs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from he_agg import canonical
from he_agg.errors import HeAggError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.manifest import KIND as MANIFEST
from he_agg.manifest import MAX_MANIFEST_BYTES, Manifest, SignedManifest
from he_agg.plan import PublicPlan
from he_agg.record import KIND as RECORD
from he_agg.record import MAX_RECORD_BYTES, NO_RECORD, RoundRecord, SignedRecord
from he_agg.roster import KIND as ROSTER
from he_agg.roster import MAX_ROSTER_BYTES, Role, Roster, SignedRoster
from he_agg.transcript import MAX_LINE_BYTES, lines, parse_header

__all__ = ["Audit", "Coordinator", "Finding", "RosterRow", "RoundRow", "audit"]

_LIMITS = {MANIFEST: MAX_MANIFEST_BYTES, RECORD: MAX_RECORD_BYTES, ROSTER: MAX_ROSTER_BYTES}


@dataclass(frozen=True)
class Finding:
    """Something that must not be.

    Attributes:
        kind: one word for what is wrong, for programs.
        line: of the transcript, from 1; 0 for what is missing in it.
        text: for people.
    """

    kind: str
    line: int
    text: str


@dataclass(frozen=True)
class Coordinator:
    """A coordinator of the first roster, on whom all trust rests.

    Attributes:
        name: its name.
        fingerprint: as the transcript has it.
        confirmed: whether the auditor gave this fingerprint.
    """

    name: str
    fingerprint: str
    confirmed: bool


@dataclass(frozen=True)
class RosterRow:
    """One version of the roster. Units: `issued_at`, `expires_at` in seconds since 1970, UTC."""

    version: int
    digest: str
    issued_at: int
    expires_at: int
    sites: tuple[str, ...]
    signed_by: tuple[str, ...]


@dataclass(frozen=True)
class RoundRow:
    """What a record says. Units: `closed_at` in seconds since 1970, UTC."""

    index: int
    round: str
    outcome: str
    closed_at: int
    roster_version: int | None
    epoch: int
    members: tuple[str, ...]
    excluded: Mapping[str, str]


@dataclass
class Audit:
    """What came of it.

    Attributes:
        federation: its name; empty if not even that could be read.
        plan_id: the plan.
        coordinators: of the first roster.
        rosters: all that could be followed.
        rounds: all records that could be read.
        head: digest of the last record, for comparing with what sites have.
        findings: the first violation of each kind. None: everything holds.
    """

    federation: str = ""
    plan_id: str = ""
    coordinators: list[Coordinator] = field(default_factory=list)
    rosters: list[RosterRow] = field(default_factory=list)
    rounds: list[RoundRow] = field(default_factory=list)
    head: str = NO_RECORD
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def participation(self) -> dict[str, Counter[str]]:
        """For each site, in how many sums it is, and how often it was left out for which reason."""
        counts: dict[str, Counter[str]] = {}
        for row in self.rosters:
            for site in row.sites:
                counts.setdefault(site, Counter())
        for round_ in self.rounds:
            for site in round_.members:
                counts.setdefault(site, Counter())["in the sum"] += 1
            for site, reason in round_.excluded.items():
                counts.setdefault(site, Counter())[reason] += 1
        return dict(sorted(counts.items()))


def audit(file: BinaryIO, fingerprints: Mapping[str, str] | None = None, expected: tuple[str, ...] = ()) -> Audit:
    """Check a transcript.

    Args:
        file: the transcript.
        fingerprints: of coordinators of the first roster, by name, as they were read out by them. None: whatever it
            lists is taken on trust, and listed in the answer.
        expected: digests of records that sites have seen, and that must be there.
    """
    return _Auditor(fingerprints, expected).run(file)


@dataclass(frozen=True)
class _Submitted:
    """What is kept of a manifest until its record comes: without its digests and tags, which are checked at once."""

    line: int
    digest: str
    site: str
    epoch: int
    key_id: str
    round_id: RoundId
    roster: str
    previous: str
    signed_with: frozenset[str]


class _Auditor:
    def __init__(self, fingerprints: Mapping[str, str] | None, expected: tuple[str, ...]) -> None:
        self._fingerprints = fingerprints
        self._expected = dict.fromkeys(expected, False)
        self._result = Audit()
        self._kinds: set[str] = set()
        self._line = 0
        self._plan: PublicPlan | None = None
        self._roster: SignedRoster | None = None
        self._rosters: dict[str, Roster] = {}
        self._n_rosters = 0
        self._waiting: list[_Submitted] = []
        self._last: RoundRecord | None = None
        self._keys_of_epochs: dict[int, str] = {}

    def run(self, file: BinaryIO) -> Audit:
        try:
            for line in lines(file):
                self._line += 1
                if self._line == 1:
                    self._header(line)
                else:
                    self._document(line)
        except WireError as error:
            self._line += 1
            self._find("truncated" if error.reason == Reason.TRUNCATED else "bad-line", error.message)
        if self._line == 0:
            self._find("truncated", "the file is empty")
        elif self._waiting:
            self._find("truncated", "the file ends with manifests, whose record is missing", self._waiting[0].line)
        if self._plan is not None and self._roster is None:
            self._find(
                "no-roster", "the transcript has no roster that can be trusted, so nobody has signed anything", 0
            )
        for digest, found in self._expected.items():
            if not found:
                self._find("missing-record", f"record {digest}, which a site has seen, is not in the chain", 0)
        return self._result

    def _find(self, kind: str, text: str, line: int | None = None) -> None:
        if kind not in self._kinds:
            self._kinds.add(kind)
            self._result.findings.append(Finding(kind, self._line if line is None else line, text))

    def _header(self, line: bytes) -> None:
        try:
            self._plan = parse_header(line)
        except HeAggError as error:
            self._find("bad-header", f"the first line is not that of a transcript: {error.message}")
            return
        self._result.federation, self._result.plan_id = self._plan.federation, self._plan.plan_id

    def _document(self, line: bytes) -> None:
        if self._plan is None:
            return  # without a plan there is nothing to hold anything against
        try:
            value = canonical.parse(line, MAX_LINE_BYTES)
            kind = value.get("kind") if isinstance(value, dict) else None
            if kind not in _LIMITS or len(line) > _LIMITS[kind]:
                raise WireError(Reason.BAD_FIELD, "expected a signed roster, manifest or record")
            if kind == ROSTER:
                self._take_roster(SignedRoster.parse(line))
            elif kind == MANIFEST:
                self._take_manifest(SignedManifest.parse(line), self._plan)
            else:
                self._take_record(SignedRecord.parse(line), self._plan)
        except WireError as error:
            self._find("not-canonical" if error.reason == Reason.NOT_CANONICAL else "bad-line", error.message)

    # Rosters.

    def _take_roster(self, signed: SignedRoster) -> None:
        roster = signed.roster
        if self._waiting or self._last is not None:
            self._find("order", f"version {roster.version} of the roster comes after manifests or records")
        self._n_rosters += 1
        try:
            if self._n_rosters == 1:
                self._first_roster(signed)
            elif self._roster is not None:
                signed.check_follows(self._roster)
            else:
                return
        except WireError as error:
            self._find("roster-signature" if error.reason == Reason.BAD_SIGNATURE else "roster-version", error.message)
            return
        self._roster = signed
        self._rosters[signed.digest] = roster
        signers = sorted(signed.document.signers(roster.keys_of(Role.COORDINATOR)))
        self._result.rosters.append(
            RosterRow(
                roster.version,
                signed.digest,
                roster.issued_at,
                roster.expires_at,
                tuple(roster.having(Role.SITE)),
                tuple(signers),
            )
        )

    def _first_roster(self, signed: SignedRoster) -> None:
        roster = signed.roster
        if (roster.federation, roster.version) != (self._result.federation, 1):
            raise WireError(
                Reason.ROSTER_MISMATCH,
                f"expected version 1 of the roster of {self._result.federation} first, "
                f"got version {roster.version} of {roster.federation}",
            )
        signed.check_signed()
        given = None if self._fingerprints is None else {n: _compact(f) for n, f in self._fingerprints.items()}
        coordinators = roster.having(Role.COORDINATOR)
        confirmed = set()
        for name, member in coordinators.items():
            if given is not None and given.pop(name, None) == _compact(member.fingerprint):
                confirmed.add(name)
            elif self._fingerprints is not None and name in self._fingerprints:
                self._find(
                    "coordinator",
                    f"coordinator {name}: expected the fingerprint that was given, got {member.fingerprint}",
                )
            self._result.coordinators.append(Coordinator(name, member.fingerprint, name in confirmed))
        if given:
            self._find("coordinator", f"the first roster has no coordinator {min(given)!a}")
        if given is not None:
            keys = {name: coordinators[name].public_key for name in confirmed}
            signers = signed.document.signers(keys)
            if len(signers) < roster.threshold:
                self._find(
                    "coordinator",
                    f"expected the first roster to be signed by {roster.threshold} coordinators whose fingerprints are "
                    f"given, got {len(signers)}",
                )

    # Manifests.

    def _take_manifest(self, signed: SignedManifest, plan: PublicPlan) -> None:
        manifest = signed.manifest
        try:
            # What the record says of round, epoch and key is held against it when the record comes.
            manifest.check(plan, manifest.round_id, manifest.epoch, manifest.key_id, manifest.site)
        except WireError as error:
            self._find("manifest", f"{_of(manifest)}: {error.message}")
        if self._waiting and self._waiting[-1].site >= manifest.site:
            what = "twice" if self._waiting[-1].site == manifest.site else "out of order"
            self._find("duplicate-site" if what == "twice" else "order", f"{_of(manifest)} is there {what}")
        roster = self._rosters.get(manifest.roster)
        if roster is None:
            self._find("manifest", f"{_of(manifest)}: the site goes by a roster that is not in the transcript")
        keys = {r.members[manifest.site].signing_key for r in self._rosters.values() if manifest.site in r.members}
        self._waiting.append(
            _Submitted(
                line=self._line,
                digest=signed.submission_id,
                site=manifest.site,
                epoch=manifest.epoch,
                key_id=manifest.key_id,
                round_id=manifest.round_id,
                roster=manifest.roster,
                previous=manifest.previous,
                signed_with=frozenset(
                    key for key in keys if signed.document.signers({manifest.site: bytes.fromhex(key)})
                ),
            )
        )

    # Records.

    def _take_record(self, signed: SignedRecord, plan: PublicPlan) -> None:
        record, submitted = signed.record, self._waiting
        self._waiting = []
        what = f"record {record.index} of round {record.round_id}"
        roster = self._rosters.get(record.roster)
        self._result.rounds.append(
            RoundRow(
                record.index,
                str(record.round_id),
                record.outcome,
                record.closed_at,
                None if roster is None else roster.version,
                record.epoch,
                tuple(sorted(record.members)),
                dict(sorted(record.excluded.items())),
            )
        )
        self._check_place(signed, what)
        self._check_terms(record, plan, what)
        self._check_members(record, submitted, roster, what)
        if roster is None:
            self._find("unknown-roster", f"{what} names a roster that is not in the transcript, or not trusted")
        else:
            self._check_roster(signed, roster, plan, what)
        self._last = record
        self._result.head = signed.digest
        if signed.digest in self._expected:
            self._expected[signed.digest] = True

    def _check_place(self, signed: SignedRecord, what: str) -> None:
        record, last = signed.record, self._last
        if record.round_id.federation != self._result.federation:
            self._find("other-federation", f"{what} is another federation's, not {self._result.federation}'s")
        index = 1 if last is None else last.index + 1
        if record.index != index:
            self._find("chain-index", f"{what}: expected index {index}: records are missing, or out of order")
        if record.previous != self._result.head:
            self._find(
                "chain-digest",
                f"{what}: it follows record {record.previous[:12]}, and the one before it here is "
                f"{self._result.head[:12]}: another history",
            )
        number, attempt = record.round_id.number, record.round_id.attempt
        if last is None:
            due = (1, 1)
        elif last.outcome == "published":
            due = (last.round_id.number + 1, 1)
        else:
            due = (last.round_id.number, last.round_id.attempt + 1)
        if (number, attempt) != due:
            self._find("round-order", f"{what}: expected round {due[0]}, attempt {due[1]}")

    def _check_terms(self, record: RoundRecord, plan: PublicPlan, what: str) -> None:
        last = self._last
        if record.plan_id != plan.plan_id or record.round_id.number > plan.rounds:
            self._find("plan", f"{what} is not of plan {plan.plan_id[:12]}, or beyond its rounds")
        if record.outcome == "published" and len(record.sum_digests) != len(plan.places):
            self._find("plan", f"{what}: expected {len(plan.places)} parts of the sum, got {len(record.sum_digests)}")
        if last is not None and record.epoch < last.epoch:
            self._find("epoch", f"{what}: epoch {record.epoch} comes after epoch {last.epoch}")
        if self._keys_of_epochs.setdefault(record.epoch, record.key_id) != record.key_id:
            self._find("epoch", f"{what}: epoch {record.epoch} has another group key than before")

    def _check_members(
        self, record: RoundRecord, submitted: list[_Submitted], roster: Roster | None, what: str
    ) -> None:
        found = {one.site: one for one in submitted}
        for site in sorted(record.members.keys() - found.keys()):
            self._find("missing-manifest", f"{what} names site {site}, whose manifest is not there")
        for site in sorted(found.keys() - record.members.keys()):
            self._find("extra-manifest", f"{what} does not name site {site}, whose manifest is there", found[site].line)
        if record.outcome != "published" and record.members:
            self._find("failed-with-members", f"{what} has failed, and yet has members")
        for site, submission_id in sorted(record.members.items()):
            if site in found:
                self._check_manifest(record, found[site], submission_id, roster, what)

    def _check_manifest(
        self, record: RoundRecord, one: _Submitted, submission_id: str, roster: Roster | None, what: str
    ) -> None:
        whose = f"{what}: the manifest of site {one.site}"
        if one.digest != submission_id:
            self._find("manifest-digest", f"{whose} is not the one that the record names", one.line)
        if (one.round_id, one.epoch, one.key_id) != (record.round_id, record.epoch, record.key_id):
            self._find("manifest", f"{whose} is for another round, epoch or group key", one.line)
        if one.previous != record.previous:
            self._find(
                "manifest-previous", f"{whose} follows another record: the site was told another history", one.line
            )
        if roster is None:
            return
        # A new roster may have come while the round was open: the site then goes by either.
        rosters = [roster]
        if one.roster != record.roster and one.roster in self._rosters:
            rosters.append(self._rosters[one.roster])
            if rosters[1].version < roster.version:
                self._find("manifest", f"{whose} goes by an older roster than the record", one.line)
        keys = set()
        for each in rosters:
            member = each.members.get(one.site)
            if member is None or Role.SITE not in member.roles:
                self._find("not-a-member", f"{whose}: version {each.version} of the roster has no such site", one.line)
            else:
                keys.add(member.signing_key)
        if not keys & one.signed_with:
            self._find("manifest-signature", f"{whose} is not signed by the site", one.line)

    def _check_roster(self, signed: SignedRecord, roster: Roster, plan: PublicPlan, what: str) -> None:
        record = signed.record
        try:
            signed.check_signed(roster.keys_of(Role.AGGREGATOR))
        except WireError as error:
            self._find("record-signature", error.message)
        before = None if self._last is None else self._rosters.get(self._last.roster)
        if before is not None and before.version > roster.version:
            self._find("roster-order", f"{what} goes by version {roster.version} of the roster, after {before.version}")
        if record.outcome == "published":
            self._check_expiry(record, roster, what)
            least = max(roster.min_sites, plan.min_sites)
            if not least <= len(record.members) <= plan.max_sites:
                self._find(
                    "number-of-sites",
                    f"{what}: expected {least} to {plan.max_sites} sites in a sum, got {len(record.members)}",
                )
        self._check_invited(record, set(roster.having(Role.SITE)), what)

    def _check_expiry(self, record: RoundRecord, roster: Roster, what: str) -> None:
        """A roster that expires while a round is open does no harm, if the next one had come by then."""
        later = [each for each in self._rosters.values() if each.version >= roster.version]
        if not any(record.closed_at < each.expires_at for each in later):
            self._find("roster-expired", f"{what}: version {roster.version} of the roster had expired when it closed")
        # A round opens when the record before it is written.
        if self._last is not None and self._last.closed_at >= roster.expires_at:
            self._find("roster-expired", f"{what}: version {roster.version} of the roster had expired when it opened")

    def _check_invited(self, record: RoundRecord, sites: set[str], what: str) -> None:
        """Every invited site is in the sum or named with a reason: silence is no way to leave somebody out."""
        named = record.members.keys() | record.excluded.keys()
        strangers = named - sites
        if strangers:
            self._find("not-a-member", f"{what} names {min(strangers)}, which is no site of its roster")
        if not all(reason for reason in record.excluded.values()):
            self._find("unnamed-exclusion", f"{what} excludes a site without a reason")
        invited = sites
        if record.sample_seed is not None:
            drawn = f"{record.sample_seed}.{record.round_id.number}.{record.round_id.attempt}."
            order = sorted(sites, key=lambda site: hashlib.sha256(f"{drawn}{site}".encode()).digest())
            invited = set(order[: len(named)])
        left_out = invited - named
        if left_out:
            self._find("unnamed-exclusion", f"{what}: site {min(left_out)} was invited and is not accounted for")


def _compact(text: str) -> str:
    return "".join(text.split()).lower()


def _of(manifest: Manifest) -> str:
    return f"manifest of site {manifest.site} for round {manifest.round_id}"
