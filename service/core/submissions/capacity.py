"""Check that there is room for one more submission: on the disk, and within the quotas.

Asked once, when a submission begins, and for everything that it will need: what has begun is then let in to its
end. So the disk fills up to a reserve at most, and what has a receipt, its sum included, always finds its place.
When the disk is full, what is kept only in case that a sum is disputed goes first; quotas do not count it.
"""

from __future__ import annotations

import logging

from he_agg.errors import Reason
from service.core.event_loop import leave_event_loop
from service.logs import log
from service.refusal import RefusedError
from service.settings import Settings
from service.store.parts.base import PartStore
from service.store.rows import FederationRow
from service.store.transaction import Transaction

__all__ = ["Capacity"]


class Capacity:
    """Knows the limits."""

    def __init__(self, settings: Settings, part_store: PartStore) -> None:
        self._settings = settings
        self._part_store = part_store
        self._awaited_bytes = 0  # when it was counted last

    def let_go(self, tx: Transaction) -> None:
        """Give up the single submissions that wait only for sites to open the sum of them, for the disk is full."""
        for federation in tx.federations():
            for row in tx.unreleased(federation.name):
                log(
                    logging.WARNING,
                    "the disk is full: single submissions go before enough sites have said that they opened the sum",
                    round_id=str(row.id),
                )
                tx.release(row.id)
                tx.bump()

    def foresee(self, tx: Transaction, federation: FederationRow, site: str) -> None:
        """Check that a submission of a site seems to have room, before anything of it is here.

        It is counted only where what was awaited last leaves too little.

        Raises:
            RefusedError: as of `check`.
            OffLoopError: it has to be counted.
        """
        try:
            self.check_disk(federation.parsed.plan.wire_bytes + self._awaited_bytes)
        except RefusedError:
            leave_event_loop()
            self.check(tx, federation, site)

    def check(self, tx: Transaction, federation: FederationRow, site: str) -> None:
        """Check that a new submission of a site has room.

        Raises:
            RefusedError: `STORAGE_FULL`, or `QUOTA_EXCEEDED`.
        """
        size = federation.parsed.plan.wire_bytes
        name = federation.name
        # Of a federation its sums count, too; of a site what it sent. Counted only where there is a quota.
        if quota := self._settings.federation_quota_bytes:
            count = tx.counted_submissions(name) + len(tx.kept_sums(name)) + 2
            _check_quota(f"federation {name}", count * size, quota)
        if quota := self._settings.site_quota_bytes:
            _check_quota(f"site {site}", (tx.counted_submissions(name, site) + 1) * size, quota)
        self._awaited_bytes = self._awaited(tx, federation)
        self.check_disk(size + self._awaited_bytes)
        self._awaited_bytes += size

    def check_disk(self, needed: int = 0) -> None:
        """Check that the part store has room for this many bytes above the reserve."""
        space, reserve = self._part_store.space(), self._settings.reserve_bytes
        if space is not None and space.free_bytes < reserve + needed:
            raise RefusedError(
                Reason.STORAGE_FULL,
                f"{needed} bytes are wanted and {reserve} kept in reserve, {space.free_bytes} are free",
                "the operator has to free space; submissions with a receipt are safe",
            )

    def _awaited(self, tx: Transaction, federation: FederationRow) -> int:
        """Count what others may still send and what sums of running rounds will take. Units: bytes."""
        awaited, unsummed = tx.awaited_parts(), tx.unsummed()
        alone = {*awaited, *unsummed} <= {federation.name}
        plans = {row.name: row.parsed.plan for row in ([federation] if alone else tx.federations())}
        parts = sum(number * max(place.wire_bytes for place in plans[name].places) for name, number in awaited.items())
        return parts + sum(plans[name].wire_bytes for name in unsummed)


def _check_quota(what: str, used: int, quota: int) -> None:
    if used > quota:
        raise RefusedError(
            Reason.QUOTA_EXCEEDED,
            f"{what} would hold {used} bytes with this submission, its quota is {quota}",
            "the operator can raise the quota, or keep fewer sums or submissions",
        )
