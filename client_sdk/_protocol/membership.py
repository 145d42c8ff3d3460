"""Tell a sum that this site cannot open, and need not be able to, from one that must not be believed."""

from __future__ import annotations

from functools import partial

from client_sdk._effects import Flow, compute
from client_sdk._protocol.accept import RejectedError
from client_sdk._protocol.history import check_record, know_roster, take_record
from client_sdk._protocol.session import MemberSession, Session
from he_agg.documents.record import RoundRecord
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, HeAggError, InputError, Reason
from he_agg.ids import RoundId

__all__ = ["check_can_open", "check_group_of_then", "take_verified"]


def check_can_open(session: Session, round_id: RoundId, signed: Signed[RoundRecord]) -> Flow[None]:
    """Check that this site has what a record's sum is opened with: the epoch's keystore, and the roster of that time.

    Before it says that it has not, the record is verified as every record of the history is: an aggregator does not
    choose what this site believes of its own membership.

    Raises:
        KeystoreError: `NOT_MY_EPOCH`: this site was a member, and has no keystore of the epoch.
        InputError: `NOT_YET_MEMBER`: it was none when the round opened.
        ConfigError: it has the roster of that time no longer.
        RejectedError: the record must not be believed.
    """
    record = signed.body
    key = yield from compute(partial(session.keys.of, record.epoch))
    unknown = session.rosters.named(record.roster) is None
    if key is None or (unknown and not session.rosters.is_complete):
        yield from take_verified(session, round_id, signed)
        raise _why_not(session, record)


def check_group_of_then(session: MemberSession, least: int, signed: Signed[RoundRecord]) -> Flow[None]:
    """Tell a sum of the past that was of enough sites then, and is of too few for the newest roster.

    Only of a record that was in the history before: whoever goes on with small groups after a roster that forbids them
    is refused as a liar.

    Args:
        least: how many it had to be of by the roster of its time, the plan and this site's settings.

    Raises:
        InputError: it is such a sum.
    """
    record, newest = signed.body, session.rosters.newest.body
    if not least <= len(record.members) < newest.min_sites:
        return
    if record.index > (yield from compute(partial(len, session.chain))):
        return
    if signed.digest == (yield from compute(partial(session.chain.head, record.index))):
        raise InputError(
            Reason.ROSTER_MISMATCH,
            f"round {record.round_id} is of {len(record.members)} sites, enough by the roster of its time; version "
            f"{newest.version} wants sums of at least {newest.min_sites}, and site {session.site} opens no smaller one",
            "what came of it a site has that opened it then, a coordinator's for example",
        )


def take_verified(session: MemberSession, round_id: RoundId, signed: Signed[RoundRecord]) -> Flow[None]:
    """Verify a record as part of the history, and remember it.

    Raises:
        RejectedError: it is about another round, not signed by an aggregator, or does not follow the one before.
    """
    record = signed.body
    if record.round_id != round_id:
        raise RejectedError(Reason.BAD_ANSWER, "record, round", round_id, record.round_id)
    yield from know_roster(session, record)
    yield from check_record(session, signed)
    if record.index > (yield from compute(partial(len, session.chain))) or signed.digest != (
        yield from compute(partial(session.chain.head, record.index))
    ):
        yield from take_record(session, signed)


def _why_not(session: Session, record: RoundRecord) -> HeAggError:
    roster, newest = session.rosters.named(record.roster), session.rosters.newest.body
    named = session.site in record.members or session.site in record.excluded
    if not named and (roster is None or session.site not in roster.having(Role.SITE)):
        return InputError(
            Reason.NOT_YET_MEMBER,
            f"round {record.round_id}, of epoch {record.epoch}: site {session.site} was no member of federation "
            f"{session.federation} when it opened, and has no key for it",
            "its sum is for those who were members; what came of it another site has, a coordinator's for example",
        )
    if roster is None:
        return ConfigError(
            Reason.ROSTER_MISMATCH,
            f"round {record.round_id}: site {session.site} was a member when it opened, and has no roster of that time "
            f"any more; the oldest that it has is version {session.rosters.oldest.body.version} of {newest.version}",
            "restore the folder beside the roster, `roster.json.versions`, from your backup",
        )
    return session.not_my_epoch(record.epoch)
