"""One connection between BEGIN and COMMIT, and what a transaction knows already.

Of what it has read of federations, rosters, rounds and submissions it asks once, until it changes that itself: nobody
else can while it lasts. What it has begun itself may be written later (new_submissions.py), before anybody asks for it.
Statements that every round runs are constants of the modules beside this one (statements.py
says why). Their parameters are named as in schema.py; those of conditions beside values to set begin with `this_`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, CursorResult, Executable, Row, Table

from service.audit_events.event import AuditEvent, make_event
from service.store.statements import Answer, Prepared

__all__ = ["Queries", "as_row", "columns_of"]

Found = TypeVar("Found")
Statement = Executable | Prepared

PUT_OFF = frozenset({"submissions", "parts", "dealings"})
"""Tables of which rows may be written later, and what refers to them."""


def columns_of(table: Table, kind: type[Any]) -> list[Column[Any]]:
    """Return the columns that are the fields of a row, in their order."""
    return [table.c[field.name] for field in fields(kind)]


def as_row(kind: Callable[..., Found]) -> Callable[[Row[Any]], Found]:
    """Return what makes a row of its columns, in the order of `columns_of`."""
    return lambda row: kind(*row)


class Queries:
    """Runs statements on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found: dict[tuple[str, ...], Any] = {}
        self.reported: list[AuditEvent] = []

    def report(self, name: str, **fields: str | int | None) -> None:
        """Have the audit log told of this transaction, once it is committed: see `make_event`."""
        self.reported.append(make_event(name, **fields))

    def write_down(self) -> None:
        """Write what was put off, of which nobody but this transaction has heard."""

    def _run(self, statement: Statement, values: Any = None) -> Answer | CursorResult[Any]:
        if not isinstance(statement, Prepared) or statement.concerns(PUT_OFF):
            self.write_down()
        return self._run_now(statement, values)

    def _run_now(self, statement: Statement, values: Any = None) -> Answer | CursorResult[Any]:
        if isinstance(statement, Prepared):
            return statement.run(self._connection, values)
        return self._connection.execute(statement, values)

    def _change(self, statement: Statement, values: Any = None) -> Answer | CursorResult[Any]:
        """Write to federations, rosters or rounds."""
        self.write_down()
        self._found.clear()
        return self._run(statement, values)

    def _first(self, make: Callable[[Row[Any]], Found], query: Statement, **values: Any) -> Found | None:
        row = self._run(query, values).first()
        return None if row is None else make(row)

    def _all(self, make: Callable[[Row[Any]], Found], query: Statement, **values: Any) -> list[Found]:
        return [make(row) for row in self._run(query, values).all()]

    def _bytes(self, query: Statement, **values: Any) -> bytes | None:
        found = self._run(query, values).scalar()
        return None if found is None else bytes(found)

    def _once(self, key: tuple[str, ...], find: Callable[[], Found]) -> Found:
        if key not in self._found:
            self._found[key] = find()
        found: Found = self._found[key]
        return found
