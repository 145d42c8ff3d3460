"""Leases: which replica does a piece of background work, so that two seldom do the same and a dead one is replaced.

They save work; they do not make it right. A replica that was asleep past the end of its lease may wake up in the middle
of a job that another has taken over. So every write of leased work goes through `hold`, which looks, within the very
transaction that writes, whether the lease is still the one that was taken: a token that nobody else ever had. Clocks
of replicas may differ; that makes a takeover early or late, never wrong.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass

from service.store.rows import LeaseRow
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["Lease", "LeaseLostError", "Leases"]


class LeaseLostError(Exception):
    """Another replica has taken the work over."""


@dataclass(frozen=True)
class Lease:
    """The right to do one thing, until somebody else has it."""

    name: str
    token: str


class Leases:
    """Takes leases for one process.

    Args:
        seconds: how long one lasts after it was last used. Units: seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float], seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._seconds = seconds
        self.holder = f"{socket.gethostname()[:40]}.{os.getpid()}.{secrets.token_hex(4)}"

    def is_free(self, tx: Transaction, name: str) -> bool:
        """Tell whether `take` may succeed: a look before the effort of a writing transaction."""
        row = tx.lease(name)
        return row is None or row.expires_at <= self._clock()

    def take(self, name: str) -> Lease | None:
        """Take a lease that is free or has run out; None if somebody has it."""
        with self._store.write() as tx:
            return self.take_in(tx, name) if self.is_free(tx, name) else None

    def taken(self, tx: Transaction, prefix: str) -> set[str]:
        """Return the names that begin so and that somebody has now."""
        return {row.name for row in tx.leases(prefix) if row.expires_at > self._clock()}

    def take_in(self, tx: Transaction, name: str) -> Lease:
        """Take a lease that the same transaction has found free."""
        lease = Lease(name, secrets.token_hex(16))
        tx.put_lease(LeaseRow(name, self.holder, lease.token, self._clock() + self._seconds))
        return lease

    def hold(self, tx: Transaction, lease: Lease) -> None:
        """See, within a transaction that writes, that a lease is still ours, and make it last from now on.

        Raises:
            LeaseLostError: it is not.
        """
        row = tx.lease(lease.name)
        if row is None or row.token != lease.token:
            raise LeaseLostError(lease.name)
        tx.put_lease(LeaseRow(lease.name, self.holder, lease.token, self._clock() + self._seconds))

    def release(self, lease: Lease) -> None:
        """Let a lease go, if it is still ours."""
        with self._store.write() as tx:
            self.release_in(tx, lease)

    def release_in(self, tx: Transaction, lease: Lease) -> bool:
        """Do so within a transaction. Returns whether it was still ours."""
        row = tx.lease(lease.name)
        if row is None or row.token != lease.token:
            return False
        tx.drop_lease(lease.name)
        return True
