"""Records in a transcript: each held against its manifests, the record before it, the plan and its roster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from he_agg.audit.findings import Notes, RoundRow
from he_agg.documents.draw import invited_sites, last_counted
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import ENDED, NO_RECORD, PUBLISHED, RoundRecord, reason_of_end
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.documents.verdict import Verdict
from he_agg.errors import WireError, counted
from he_agg.ids import RoundId
from he_agg.plan.plan import PublicPlan

__all__ = ["RecordChain"]


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
    holders: str | None
    signed_with: frozenset[str]


class RecordChain:
    """Follows records.

    Args:
        rosters: the trusted ones, by digest. They come first in a transcript.
    """

    def __init__(self, notes: Notes, plan: PublicPlan, rosters: Mapping[str, Roster]) -> None:
        self._notes = notes
        self._result = notes.result
        self._find = notes.find
        self._plan = plan
        self._rosters = rosters
        self._waiting: list[_Submitted] = []
        self._last: RoundRecord | None = None
        self._said: dict[str, str] = {}
        self._counted = NO_RECORD
        self._tried: dict[int, int] = {}
        self._published: RoundRecord | None = None
        self._again: frozenset[str] | None = None
        """Members of the newest sum, if it was given up."""
        self._published_digest = ""
        self._said_of_published: dict[str, str] = {}
        self._keys_of_epochs: dict[int, str] = {}

    @property
    def begun(self) -> bool:
        """Whether there was a manifest or a record."""
        return bool(self._waiting) or self._last is not None

    def end(self) -> None:
        """Check, at the end of the transcript, that every manifest has its record."""
        if self._waiting:
            text = "the file ends with manifests, whose record is missing"
            self._find("truncated", text, self._waiting[0].line)

    def take_manifest(self, signed: Signed[Manifest]) -> None:
        """Check a manifest as far as it goes, and keep what its record is held against."""
        manifest = signed.body
        try:
            # What the record says of round, epoch and key is held against it when the record comes.
            manifest.check(self._plan, manifest.round_id, manifest.epoch, manifest.key_id, manifest.site)
        except WireError as error:
            self._find("manifest", f"{manifest.title}: {error.message}")
        if self._waiting and self._waiting[-1].site >= manifest.site:
            what = "twice" if self._waiting[-1].site == manifest.site else "out of order"
            self._find("duplicate-site" if what == "twice" else "order", f"{manifest.title} is there {what}")
        roster = self._rosters.get(manifest.roster)
        if roster is None:
            self._find("manifest", f"{manifest.title}: the site goes by a roster that is not in the transcript")
        keys = {r.members[manifest.site].signing_key for r in self._rosters.values() if manifest.site in r.members}
        self._waiting.append(
            _Submitted(
                line=self._notes.line,
                digest=signed.digest,
                site=manifest.site,
                epoch=manifest.epoch,
                key_id=manifest.key_id,
                round_id=manifest.round_id,
                roster=manifest.roster,
                previous=manifest.previous,
                holders=manifest.holders,
                signed_with=frozenset(key for key in keys if signed.signers({manifest.site: bytes.fromhex(key)})),
            )
        )

    def take_record(self, signed: Signed[RoundRecord]) -> dict[str, str | None]:
        """Check a record, against the manifests before it, the record before it and its roster.

        Returns:
            The digest of the list of holders that each member has dealt to, by its manifest.
        """
        record, submitted = signed.body, self._waiting
        self._waiting = []
        what = f"record {record.index} of round {record.round_id}"
        roster, self._said = self._rosters.get(record.roster), {}
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
                self._said,
                record.reason,
            )
        )
        self._check_place(signed, what)
        self._check_terms(record, what)
        self._check_members(record, submitted, roster, what)
        if roster is None:
            self._find("unknown-roster", f"{what} names a roster that is not in the transcript, or not trusted")
        else:
            self._check_roster(signed, roster, what)
        self._last, self._counted = record, last_counted(record, self._counted)
        self._result.head = signed.digest
        if record.outcome == PUBLISHED:
            self._published, self._published_digest, self._said_of_published = record, signed.digest, self._said
            self._again = None
        elif record.gives_up is not None and self._published is not None:
            self._again = frozenset(self._published.members)
        return {one.site: one.holders for one in submitted if one.site in record.members}

    def take_verdict(self, signed: Signed[Verdict]) -> None:
        """Check what a member says of the sum of the record before."""
        verdict, last = signed.body, self._last
        said = self._said
        if last is None or self._waiting or verdict.record != self._result.head or verdict.round_id != last.round_id:
            self._find("verdict", f"{verdict.title} is not on the record before it")
            return
        if verdict.site not in last.members:
            self._find("verdict", f"{verdict.title}: the site is not in the sum")
        if said and max(said) >= verdict.site:
            self._find("verdict", f"{verdict.title} is there twice, or out of order")
        keys = {r.members[verdict.site].public_key for r in self._rosters.values() if verdict.site in r.members}
        if not any(signed.signers({verdict.site: key}) for key in keys):
            self._find("verdict", f"{verdict.title} is not signed by the site")
        said[verdict.site] = verdict.verdict

    def _check_place(self, signed: Signed[RoundRecord], what: str) -> None:
        record, last = signed.body, self._last
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
            due = 1
        elif last.outcome == ENDED:
            self._find("after-end", f"{what} comes after the federation's end")
            return
        elif last.outcome == PUBLISHED:
            due = last.round_id.number + 1
        elif last.gives_up is not None and self._published is not None:
            due = self._published.round_id.number
        elif self._has_other_holders(last, record):
            due = last.round_id.number + 1
        else:
            due = last.round_id.number
        tried = self._tried.get(due, 0) + 1
        self._tried[number] = max(attempt, self._tried.get(number, 0))
        if (number, attempt) != (due, tried):
            self._find("round-order", f"{what}: expected round {due}, attempt {tried}")
        if record.gives_up is not None:
            self._check_given_up(record, what)

    def _has_other_holders(self, last: RoundRecord, record: RoundRecord) -> bool:
        """Tell whether others hold shares by a record's roster than by that of the one before, which has failed."""
        then, now = self._rosters.get(last.roster), self._rosters.get(record.roster)
        return self._plan.splits_keys and then is not None and now is not None and not now.has_holders_of(then)

    def _check_given_up(self, record: RoundRecord, what: str) -> None:
        """Check that the sum that is given up is the one before, and that its sites were not agreed on it."""
        published, said = self._published, list(self._said_of_published.values())
        if published is None or record.gives_up != self._published_digest or self._again is not None:
            self._find("given-up", f"{what} gives up a sum that is not the newest one, or was given up before")
            return
        roster = self._rosters.get(published.roster)
        least = max(self._plan.min_sites, 1 if roster is None else roster.min_sites)
        if "rejected" not in said or said.count("opened") >= least:
            self._find(
                "given-up",
                f"{what} gives up the sum of round {published.round_id}, rejected by "
                f"{counted(said.count('rejected'), 'site')} and opened by {said.count('opened')}",
            )

    def _check_terms(self, record: RoundRecord, what: str) -> None:
        plan, last = self._plan, self._last
        if record.outcome == ENDED and record.reason != reason_of_end(record.round_id.number, plan.rounds):
            self._find(
                "end", f"{what} gives {record.reason} as the reason of the end, and the plan has {plan.rounds} rounds"
            )
        most = plan.rounds + (record.outcome == ENDED)
        if record.plan_id != plan.plan_id or record.round_id.number > most:
            self._find("plan", f"{what} is not of plan {plan.plan_id[:12]}, or beyond its rounds")
        if record.outcome == PUBLISHED and len(record.sum_digests) != len(plan.places):
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
        if record.outcome != PUBLISHED and record.members:
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
        # A new roster may have come while the round was open: the site may then use either.
        rosters = [roster]
        if one.roster != record.roster and one.roster in self._rosters:
            rosters.append(self._rosters[one.roster])
            if rosters[1].version < roster.version:
                self._find("manifest", f"{whose} names an older roster than the record", one.line)
        keys = set()
        for each in rosters:
            member = each.members.get(one.site)
            if member is None or Role.SITE not in member.roles:
                self._find("not-a-member", f"{whose}: version {each.version} of the roster has no such site", one.line)
            else:
                keys.add(member.signing_key)
        if not keys & one.signed_with:
            self._find("manifest-signature", f"{whose} is not signed by the site", one.line)

    def _check_roster(self, signed: Signed[RoundRecord], roster: Roster, what: str) -> None:
        record, plan = signed.body, self._plan
        # An aggregator that has got another key signs with that, whatever roster the round had opened under.
        later = [each for each in self._rosters.values() if each.version >= roster.version]
        if not any(signed.signers(each.keys_of(Role.AGGREGATOR)) for each in later):
            self._find(
                "record-signature", f"{what}: expected the signature of an aggregator of its roster, or of a later one"
            )
        before = None if self._last is None else self._rosters.get(self._last.roster)
        if before is not None and before.version > roster.version:
            self._find("roster-order", f"{what} uses version {roster.version} of the roster, after {before.version}")
        if record.outcome == PUBLISHED:
            self._check_expiry(record, roster, what)
            least = max(roster.min_sites, plan.min_sites)
            if not least <= len(record.members) <= plan.max_sites:
                self._find(
                    "number-of-sites",
                    f"{what}: expected {least} to {plan.max_sites} sites in a sum, got {len(record.members)}",
                )
        if record.outcome != ENDED:
            self._check_invited(record, roster, what)

    def _check_expiry(self, record: RoundRecord, roster: Roster, what: str) -> None:
        """Accept that a roster expires while a round is open, if the next one had come by then."""
        later = [each for each in self._rosters.values() if each.version >= roster.version]
        if not any(record.closed_at < each.expires_at for each in later):
            self._find("roster-expired", f"{what}: version {roster.version} of the roster had expired when it closed")
        # A round opens when the record before it is written.
        if self._last is not None and self._last.closed_at >= roster.expires_at:
            self._find("roster-expired", f"{what}: version {roster.version} of the roster had expired when it opened")

    def _check_invited(self, record: RoundRecord, roster: Roster, what: str) -> None:
        """Check that every invited site is in the sum or named with a reason, and nobody else."""
        sites, named = set(roster.having(Role.SITE)), record.members.keys() | record.excluded.keys()
        invited = invited_sites(self._plan, roster, record.roster, record.round_id, self._counted, self._again)
        strangers = named - sites
        if strangers:
            self._find("not-a-member", f"{what} names {min(strangers)}, which is not a site of its roster")
        if not all(reason for reason in record.excluded.values()):
            self._find("unnamed-exclusion", f"{what} excludes a site without a reason")
        left_out = invited - named
        if left_out:
            self._find("unnamed-exclusion", f"{what}: site {min(left_out)} was invited and is not accounted for")
        if self._again is not None and record.outcome == PUBLISHED and record.excluded:
            self._find("given-up", f"{what}: {min(record.excluded)} is not in it, but was in the sum that was given up")
        uninvited = named & sites - invited
        if uninvited:
            self._find("not-invited", f"{what} names site {min(uninvited)}, which the draw did not invite")
