"""One transaction. Its methods run a statement or two each, and block: call them off the event loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import String, bindparam, delete, func, insert, select, text, update

from he_agg.errors import HeAggError
from service.store.failures import StoreError
from service.store.head_rows import HeadRows
from service.store.holding_rows import HoldingRows
from service.store.queries import as_row, columns_of
from service.store.rows import LeaseRow
from service.store.schema import leases, meta, parts, sum_parts
from service.store.statements import Prepared, adding, run_text

__all__ = ["CHANNEL", "Transaction"]

CHANNEL = "he_agg"
"""By which PostgreSQL tells other processes that something has changed: see news.py."""

_LEASE_COLUMNS = columns_of(leases, LeaseRow)
_LEASE = Prepared(select(*_LEASE_COLUMNS).where(leases.c.name == bindparam("name")))
_ADD_LEASE = adding(leases, *(column.name for column in _LEASE_COLUMNS))
_DROP_LEASE = Prepared(delete(leases).where(leases.c.name == bindparam("name")))
_PREFIX = bindparam("prefix", type_=String)
_PREFIXED = func.substr(leases.c.name, 1, func.length(_PREFIX)) == _PREFIX
_LEASES = Prepared(select(*_LEASE_COLUMNS).where(_PREFIXED).order_by(leases.c.name))
_DROP_LEASES = Prepared(delete(leases).where(_PREFIXED))
_GENERATION = Prepared(select(meta.c.number).where(meta.c.name == "generation"))
_BUMP = Prepared(update(meta).where(meta.c.name == "generation").values(number=meta.c.number + 1))
_NOTIFY = text(f"NOTIFY {CHANNEL}")


class Transaction(HeadRows, HoldingRows):
    """Reads and writes within one transaction.

    Attributes:
        bumped: whether it has told that rounds have changed; within `apart`, whether that has.
    """

    bumped = False

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Undo what was written within if it is refused there, and nothing that was written before.

        Whatever else is raised ends the whole transaction: it may be that the database has done so already.
        """
        self.write_down()
        before, self.bumped, reported = self.bumped, False, len(self.reported)
        run_text(self._connection, "SAVEPOINT apart")
        try:
            yield
        except HeAggError as refusal:
            if isinstance(refusal, StoreError):
                raise
            run_text(self._connection, "ROLLBACK TO SAVEPOINT apart")
            run_text(self._connection, "RELEASE SAVEPOINT apart")
            self._found.clear()
            self._new.clear()
            del self.reported[reported:]
            self.bumped = before
            raise
        run_text(self._connection, "RELEASE SAVEPOINT apart")
        self.bumped = self.bumped or before

    def lease(self, name: str) -> LeaseRow | None:
        """Return who has the lease, or had it."""
        return self._first(as_row(LeaseRow), _LEASE, name=name)

    def put_lease(self, row: LeaseRow) -> None:
        """Write it, whoever had it."""
        self.drop_lease(row.name)
        self._run(_ADD_LEASE, vars(row))

    def drop_lease(self, name: str) -> None:
        """Drop a lease, whoever has it."""
        self._run(_DROP_LEASE, {"name": name})

    def leases(self, prefix: str) -> list[LeaseRow]:
        """Return the leases whose names begin so, whether they have run out or not."""
        return self._all(as_row(LeaseRow), _LEASES, prefix=prefix)

    def drop_leases(self, prefix: str = "") -> None:
        """Drop all leases whose names begin so, whoever has them."""
        self._run(_DROP_LEASES, {"prefix": prefix})

    def number(self, name: str) -> int | None:
        """Read a number of `meta`."""
        number = self._run(select(meta.c.number).where(meta.c.name == name)).scalar()
        return None if number is None else int(number)

    def set_number(self, name: str, number: int) -> None:
        """Write a number of `meta` that is not there yet."""
        self._run(insert(meta).values(name=name, number=number))

    def drop_number(self, name: str) -> bool:
        """Remove a number of `meta`. Returns whether there was one."""
        return self._run(delete(meta).where(meta.c.name == name)).rowcount > 0

    def names_parts(self) -> bool:
        """Tell whether any part is stored, of a submission or of a sum."""
        stored = (select(parts.c.number).where(parts.c.stored), select(sum_parts.c.number))
        return any(self._run(query.limit(1)).first() is not None for query in stored)

    def generation(self) -> int:
        """Return a number that grows with every `bump`."""
        return int(self._run(_GENERATION).scalar_one())

    def bump(self) -> None:
        """Tell whoever waits, in this process or another, that rounds have changed."""
        self.bumped = True
        self._run(_BUMP)
        if self._connection.dialect.name == "postgresql":  # otherwise there are no others
            self._run(_NOTIFY)
