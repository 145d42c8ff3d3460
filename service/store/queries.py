"""One connection between BEGIN and COMMIT, and what a transaction knows already.

Of what it has read of federations, rosters and rounds it asks once, until it changes one of them itself: nobody else
can while it lasts. Statements that every request runs are constants of the modules beside this one, since putting one
together costs more than running it. Their parameters are named as in schema.py; those of conditions beside values to
set begin with `this_`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, CursorResult, Executable, Row, Select, Table

__all__ = ["Queries", "as_row", "columns_of"]

Found = TypeVar("Found")


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

    def _run(self, statement: Executable, values: Any = None) -> CursorResult[Any]:
        return self._connection.execute(statement, values)

    def _change(self, statement: Executable, values: Any = None) -> CursorResult[Any]:
        """Write to federations, rosters or rounds."""
        self._found.clear()
        return self._connection.execute(statement, values)

    def _first(self, make: Callable[[Row[Any]], Found], query: Select[Any], **values: Any) -> Found | None:
        row = self._connection.execute(query, values).first()
        return None if row is None else make(row)

    def _all(self, make: Callable[[Row[Any]], Found], query: Select[Any], **values: Any) -> list[Found]:
        return [make(row) for row in self._connection.execute(query, values).all()]

    def _bytes(self, query: Select[Any]) -> bytes | None:
        found = self._connection.execute(query).scalar()
        return None if found is None else bytes(found)

    def _once(self, key: tuple[str, ...], find: Callable[[], Found]) -> Found:
        if key not in self._found:
            self._found[key] = find()
        found: Found = self._found[key]
        return found
