"""What a round record must say before anything is opened: pure checks, in the order in which they matter."""

from __future__ import annotations

from client_sdk._session import Session
from he_agg.errors import ProtocolError, Reason
from he_agg.ids import RoundId
from he_agg.record import RoundRecord

__all__ = ["check_member", "check_own", "check_record"]

_NOT_OPENED = "nothing was opened; tell the operator and the coordinator"


def check_record(session: Session, round_id: RoundId, record: RoundRecord) -> None:
    """See that a record is of this round, plan and key, and that its sum may be opened.

    A sum of fewer sites than the plan's least number could show single updates to whoever gets it, so the number is
    checked here against the site's own plan, whatever the aggregator thinks.

    Raises:
        ProtocolError: it is not, or the round failed.
    """
    key, plan = session.key, session.plan
    for what, reason, expected, got in (
        ("round", Reason.BAD_ANSWER, str(round_id), str(record.round_id)),
        ("plan", Reason.PLAN_MISMATCH, key.plan_id, record.plan_id),
        ("epoch", Reason.KEY_MISMATCH, str(key.epoch), str(record.epoch)),
        ("group key", Reason.KEY_MISMATCH, key.key_id, record.key_id),
    ):
        if expected != got:
            raise ProtocolError(
                reason, f"record of round {round_id}, {what}: expected {expected[:80]}, got {got[:80]}", _NOT_OPENED
            )
    if record.outcome == "failed":
        why = record.excluded.get(session.site)
        raise ProtocolError(
            Reason.ROUND_FAILED,
            f"round {round_id} failed: too few sites submitted, at least {plan.min_sites} are needed"
            + (f"; of this site it says: {_word(why)}" if why else ""),
            "site.rounds() goes on with the next attempt; submit again there",
        )
    if not plan.min_sites <= len(record.members) <= plan.max_sites:
        raise ProtocolError(
            Reason.BAD_ANSWER,
            f"record of round {round_id}: expected the sum of {plan.min_sites} to {plan.max_sites} sites, "
            f"got {len(record.members)}",
            _NOT_OPENED,
        )
    if len(record.sum_digests) != len(plan.places):
        raise ProtocolError(
            Reason.BAD_ANSWER,
            f"record of round {round_id}: expected a sum of {len(plan.places)} parts, got {len(record.sum_digests)}",
            _NOT_OPENED,
        )


def check_own(session: Session, record: RoundRecord, own: str) -> None:
    """See that if this site is in the sum, then with the submission that it sent.

    Args:
        session: the site.
        record: a record that `check_record` has seen.
        own: id of the submission in the spool.

    Raises:
        ProtocolError: the sum has another submission in this site's name.
    """
    counted = record.members.get(session.site)
    if counted is not None and counted != own:
        raise ProtocolError(
            Reason.BAD_ANSWER,
            f"record of round {record.round_id}: expected submission {own[:12]} of site {session.site}, "
            f"got {counted[:12]}: somebody submitted in this site's name",
            _NOT_OPENED,
        )


def check_member(session: Session, record: RoundRecord, own: str) -> None:
    """See that this site is in the sum, with the submission that it sent.

    Raises:
        ProtocolError: it is excluded, missing, or in it with another submission.
    """
    check_own(session, record, own)
    if session.site in record.members:
        return
    why = record.excluded.get(session.site)
    if why is None:
        raise ProtocolError(
            Reason.BAD_ANSWER,
            f"record of round {record.round_id}: expected submission {own[:12]} of site {session.site} "
            "in the sum or excluded with a reason, got neither",
            _NOT_OPENED,
        )
    raise ProtocolError(
        Reason.ROUND_CLOSED,
        f"round {record.round_id} was published without this site's submission {own[:12]}: {_word(why)}",
        "round.fetch() gets the mean of the other sites; site.rounds() goes on to the next round",
    )


def _word(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
