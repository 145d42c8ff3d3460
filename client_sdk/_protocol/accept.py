"""Check a published record, its manifests and its sum before a site opens the sum, in a fixed order.

    1  federation, epoch, key, plan and round are the expected ones         check_subject
    2  so many sites that no single update shows                            check_number
    3  every member is a site of a roster that this site trusts, once       check_members
    4  the record is signed by an aggregator of that roster ...             check_record_signature
       ... and every manifest by its site, and it is the one of the         check_manifests,
       record; where keys are split, all have dealt to the round's holders  check_holders
    5  this site is in the sum with what it sent, or the record says why    check_own
       not
    6  the record follows the one that this site saw last, which was no     check_follows, check_epoch,
       end, its epoch does not go back, its round and attempt are the ones  check_due, check_end,
       that were due, it names exactly the sites that had to be invited,    check_invited,
       and every member saw the same                                        check_same_history
    7  the parts of the sum are those of the record, and the tags of each   check_parts, check_tags
       are the sum of the manifests' tags; each is decrypted after its own
    8  where keys are split: so many holders have seen this very record     (answers.py)
       that no other one of its number can be answered, and the sum of
       keys that their answers give is one of so many keys;
       decrypt, round, range-check                                          (codec)
    9  the hidden count is the number of members                            (fixedpoint)

Each raises `RejectedError`, which says precisely what was wrong and never leaves this package: the security log gets
it, the caller gets one error that is the same for all of them (`_collect.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from he_agg.documents.draw import invited_sites
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import PUBLISHED, RoundRecord, reason_of_end
from he_agg.documents.roster import Role, Roster
from he_agg.documents.sharing import HolderList
from he_agg.documents.signed import AnyBody, Signed
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId
from he_agg.plan.plan import PublicPlan

__all__ = [
    "Expected",
    "RejectedError",
    "check_due",
    "check_end",
    "check_epoch",
    "check_follows",
    "check_holders",
    "check_invited",
    "check_manifests",
    "check_members",
    "check_number",
    "check_own",
    "check_parts",
    "check_record_signature",
    "check_same_history",
    "check_subject",
    "check_tags",
    "check_whole",
    "signers",
]


class RejectedError(Exception):
    """Something that must not be believed. Never leaves this package.

    Args:
        expected: what it had to be: names, numbers, digests.
    """

    def __init__(self, reason: Reason, what: str, expected: object = None, got: object = None) -> None:
        super().__init__(what)
        self.reason = reason
        self.what = what
        self.expected = None if expected is None else str(expected)
        self.got = None if got is None else str(got)


@dataclass(frozen=True)
class Expected:
    """What this site goes by, whatever the aggregator says.

    Attributes:
        epoch: the one that it encrypted under; the record's, if it has sent nothing: that none follows a later one
            step 6 sees to.
        min_sites: fewest sites whose sum it opens, by its own settings.
        own: id of its submission, if there is one in the spool.
    """

    site: str
    plan: PublicPlan
    epoch: int
    key_id: str
    round_id: RoundId
    min_sites: int
    own: str | None


def check_subject(expected: Expected, record: RoundRecord) -> None:
    """Step 1: the record is about this round, under this site's plan and key."""
    for what, reason, want, got in (
        ("federation", Reason.BAD_ANSWER, expected.round_id.federation, record.round_id.federation),
        ("epoch", Reason.KEY_MISMATCH, expected.epoch, record.epoch),
        ("group key", Reason.KEY_MISMATCH, expected.key_id, record.key_id),
        ("plan", Reason.PLAN_MISMATCH, expected.plan.plan_id, record.plan_id),
        ("round", Reason.BAD_ANSWER, expected.round_id, record.round_id),
    ):
        if want != got:
            raise RejectedError(reason, f"record, {what}", want, got)


def check_number(expected: Expected, rosters: Sequence[Roster], record: RoundRecord) -> None:
    """Step 2: the sum is of so many sites that it shows no single update, and of no more than the plan holds."""
    least = max(expected.min_sites, expected.plan.min_sites, *(roster.min_sites for roster in rosters))
    if len(record.members) < least:
        raise RejectedError(Reason.BAD_ANSWER, "record, fewest members", least, len(record.members))
    if len(record.members) > expected.plan.max_sites:
        raise RejectedError(Reason.BAD_ANSWER, "record, most members", expected.plan.max_sites, len(record.members))


def check_members(roster: Roster | None, record: RoundRecord) -> Roster:
    """Step 3: every member is a site of the roster that the record names. Canonical JSON has each name once."""
    if roster is None:
        raise RejectedError(Reason.ROSTER_MISMATCH, "record, roster", "one that this site trusts", record.roster)
    sites = roster.having(Role.SITE)
    for site in record.members:
        if site not in sites:
            raise RejectedError(
                Reason.UNKNOWN_SITE, "record, members", f"sites of version {roster.version} of the roster", site
            )
    return roster


def check_record_signature(rosters: Sequence[Mapping[str, bytes]], signed: Signed[RoundRecord]) -> None:
    """Step 4, first half: an aggregator of the roster, or of a later one, has signed the record.

    Args:
        rosters: keys of the aggregators of each, by name.
    """
    if not any(signed.signers(keys) for keys in rosters):
        names = sorted({name for keys in rosters for name in keys})
        raise RejectedError(Reason.BAD_SIGNATURE, "record, signature", f"of {' or '.join(names)}", signers(signed))


def check_manifests(
    expected: Expected, roster: Roster, record: RoundRecord, manifests: Sequence[Signed[Manifest]]
) -> None:
    """Step 4, second half: for every member one manifest, the one of the record, signed by its site, for this round."""
    sites = [signed.body.site for signed in manifests]
    if sites != sorted(record.members):
        raise RejectedError(Reason.BAD_ANSWER, "manifests, sites", " ".join(sorted(record.members)), " ".join(sites))
    keys = roster.keys_of(Role.SITE)
    for signed in manifests:
        site = signed.body.site
        try:
            signed.check_signed(keys)
        except WireError as error:
            raise RejectedError(error.reason, f"manifest of {site}, signature", site, "of another key") from error
        if signed.digest != record.members[site]:
            raise RejectedError(Reason.BAD_DIGEST, f"manifest of {site}, digest", record.members[site], signed.digest)
        try:
            signed.body.check(expected.plan, expected.round_id, expected.epoch, expected.key_id, site)
        except WireError as error:
            raise RejectedError(error.reason, f"manifest of {site}", None, error.message) from error


def check_holders(holders: HolderList, manifests: Iterable[Signed[Manifest]]) -> None:
    """Step 4, third part: every member has dealt to the very list that the round has."""
    for signed in manifests:
        if signed.body.holders != holders.digest:
            what = f"manifest of {signed.body.site}, holders"
            raise RejectedError(Reason.BAD_DIGEST, what, holders.digest, signed.body.holders)


def check_own(expected: Expected, record: RoundRecord) -> None:
    """Step 5: if this site has sent something, it is in the sum with that, or the record says why it is not."""
    if expected.own is None:
        return
    counted = record.members.get(expected.site)
    if counted is None and expected.site not in record.excluded:
        wanted = f"{expected.own} as a member or excluded"
        raise RejectedError(Reason.BAD_ANSWER, "record, own submission", wanted, "neither")
    if counted not in (None, expected.own):
        raise RejectedError(Reason.BAD_ANSWER, "record, own submission", expected.own, counted)


def check_invited(plan: PublicPlan, roster: Roster, record: RoundRecord, counted: str, again: Set[str] | None) -> None:
    """Step 6, second part: members and excluded are the sites that had to be invited, all of them and no other.

    After a sum was given up, all of them are members, or the attempt has failed.

    Args:
        roster: the one that the record names.
        counted: what the draw depends on, see `he_agg.documents.draw`.
        again: members of the sum that was given up at this number, if there is one.
    """
    invited = invited_sites(plan, roster, record.roster, record.round_id, counted, again)
    named = record.members.keys() | record.excluded.keys()
    if named != invited:
        missing, added = " ".join(sorted(invited - named)), " ".join(sorted(named - invited))
        raise RejectedError(
            Reason.BAD_ANSWER,
            f"record {record.index}, invited sites",
            " ".join(sorted(invited)),
            f"without {missing or 'none'}, with {added or 'none'}",
        )
    if again is not None and record.outcome == PUBLISHED and record.excluded:
        what = f"record {record.index}, members after a sum was given up"
        raise RejectedError(Reason.BAD_ANSWER, what, " ".join(sorted(invited)), " ".join(sorted(record.members)))


def check_follows(previous_index: int, previous: str, signed: Signed[RoundRecord]) -> None:
    """Step 6, first part: the record comes right after the one that this site knows.

    Args:
        previous_index: of the record before; 0 before the first.
    """
    record = signed.body
    if record.index != previous_index + 1:
        raise RejectedError(Reason.CHAIN_MISMATCH, "record, index", previous_index + 1, record.index)
    if record.previous != previous:
        raise RejectedError(Reason.CHAIN_MISMATCH, f"record {record.index}, previous", previous, record.previous)


def check_epoch(before: int, what: str, got: int) -> None:
    """Check that the epoch does not go back: whoever has left may hold the key of an old one."""
    if got < before:
        raise RejectedError(Reason.CHAIN_MISMATCH, f"{what}, epoch", f"at least {before}", got)


def check_due(what: str, due: tuple[int, int], got: RoundId) -> None:
    """Step 6, first part: no number is left out and no attempt taken back, so that nothing is tried again unseen.

    Args:
        due: number and attempt.
    """
    if (got.number, got.attempt) != due:
        expected = RoundId(got.federation, *due)
        raise RejectedError(Reason.CHAIN_MISMATCH, f"{what}, round and attempt", str(expected), str(got))


def check_end(plan: PublicPlan, record: RoundRecord) -> None:
    """Step 6, first part: an end gives as its reason what the plan says of the round that was due."""
    reason = reason_of_end(record.round_id.number, plan.rounds)
    if record.reason != reason:
        raise RejectedError(Reason.BAD_ANSWER, f"record {record.index}, reason of the end", reason, record.reason)


def check_same_history(record: RoundRecord, manifests: Sequence[Signed[Manifest]]) -> None:
    """Step 6, third part: every member saw the same record before this one, so there is one history for all."""
    for signed in manifests:
        if signed.body.previous != record.previous:
            raise RejectedError(
                Reason.CHAIN_MISMATCH,
                f"manifest of {signed.body.site}, previous",
                record.previous,
                signed.body.previous,
            )


def check_parts(expected: Expected, record: RoundRecord) -> None:
    """Step 7, before the download: the record names as many parts as the plan has."""
    if len(record.sum_digests) != len(expected.plan.places):
        raise RejectedError(
            Reason.BAD_ANSWER, "record, parts of the sum", len(expected.plan.places), len(record.sum_digests)
        )


def check_tags(number: int, holds: bool) -> None:
    """Step 7, as each part comes: its tags are the sum of the manifests' tags."""
    if not holds:
        what = f"sum, part {number}, tags"
        raise RejectedError(Reason.SUM_REJECTED, what, "the sum of the manifests' tags", "others")


def check_whole(whole: bool) -> None:
    """Step 7, at its end: so it was for all parts. Nothing is released before."""
    if not whole:
        raise RejectedError(Reason.SUM_REJECTED, "sum, tags", "of all parts", "of some")


def signers(document: Signed[AnyBody]) -> str:
    """Name whose signatures a document carries, whatever they are worth."""
    return "signed by " + (" ".join(sorted(document.signatures)) or "nobody")
