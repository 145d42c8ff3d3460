"""Take in what sites say about sums, and let go of single submissions once enough of them have opened the sum."""

from __future__ import annotations

import logging

from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.documents.verdict import OPENED, Verdict
from he_agg.errors import Reason
from service.core.find import federation_named
from service.core.roster_cache import newest_roster, roster_of
from service.domain.events import Phase
from service.domain.verdicts import Standing, standing
from service.logs import log
from service.refusal import RefusedError
from service.store.rows import RoundRow
from service.store.transaction import Transaction

__all__ = ["accept_verdict", "disputed_round", "quorum", "release_undisputed", "standing_of"]


def quorum(tx: Transaction, row: RoundRow) -> int:
    """Return how many sites must be in a round's sum, and open it: by the plan and the round's roster."""
    roster = roster_of(tx, row.id.federation, row.basis.roster_version).body
    return max(federation_named(tx, row.id.federation).parsed.plan.min_sites, roster.min_sites)


def standing_of(tx: Transaction, row: RoundRow) -> Standing:
    """Tell how a published sum stands with its members."""
    return standing(tx.verdicts(row.id), quorum(tx, row))


def disputed_round(tx: Transaction, federation: str) -> RoundRow | None:
    """Return the attempt behind a federation's newest sum, if a site has rejected it before enough had opened it."""
    last = tx.last_published(federation)
    row = None if last is None else tx.round(last)
    return None if row is None or standing_of(tx, row) is not Standing.DISPUTED else row


def release_undisputed(tx: Transaction, federation: str) -> None:
    """Let go of the single submissions behind all sums that nobody disputes."""
    for row in tx.unreleased(federation):
        if standing_of(tx, row) is not Standing.DISPUTED:
            tx.release(row.id)


def accept_verdict(tx: Transaction, row: RoundRow, data: bytes, site: str, at: int) -> bool:
    """Take a site's verdict on a round. The same bytes again are no error.

    Raises:
        WireError: not a verdict, or not signed by its site.
        RefusedError: the round has no sum, the site is not in it, the verdict is on another record, or the site has
            said something else before.
    """
    signed = Signed.parse(Verdict, data)
    verdict, said = signed.body, tx.verdicts(row.id)
    if site in said and tx.verdict(row.id, site) == data:
        return False
    record = row.signed
    if row.phase is not Phase.PUBLISHED or record is None:
        over = row.phase in (Phase.FAILED, Phase.REJECTED, Phase.ENDED)
        reason = Reason.ROUND_FAILED if over else Reason.SUM_NOT_READY
        raise RefusedError(reason, f"round {row.id} is {row.phase}: it has no sum to judge", round_id=str(row.id))
    for what, reason, expected, got in (
        ("round", Reason.BAD_FIELD, str(row.id), str(verdict.round_id)),
        ("site", Reason.FORBIDDEN, site, verdict.site),
        ("record", Reason.BAD_FIELD, row.record_digest or "", verdict.record),
    ):
        if expected != got:
            raise RefusedError(reason, f"verdict, {what}: expected {expected[:63]}, got {got[:63]}")
    if site not in record.body.members:
        raise RefusedError(Reason.FORBIDDEN, f"site {site} is not in the sum of round {row.id}")
    signed.check_signed(newest_roster(tx, row.id.federation).body.keys_of(Role.SITE))
    if site in said:
        raise RefusedError(
            Reason.ALREADY_EXISTS,
            f"site {site} has said on round {row.id} already that it {said[site]} the sum",
            "the first verdict stays; `he-agg audit` shows it",
        )
    tx.add_verdict(row.id, site, verdict.verdict, data, at)
    if verdict.verdict != OPENED:
        log(logging.ERROR, "a site has rejected a sum", round_id=str(row.id), member=site)
        tx.report("verdict.rejected", federation=row.id.federation, round=str(row.id), member=site)
    least = quorum(tx, row)
    stands = standing({**said, site: verdict.verdict}, least)
    if stands is not standing(said, least):  # otherwise nobody waits for it
        if stands is Standing.OPENED:
            tx.release(row.id)
        tx.bump()
    return True
