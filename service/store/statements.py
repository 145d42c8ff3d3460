"""Statements that are always the same: made into the database's text once, then run by its driver.

SQLAlchemy takes 26 us to run a statement that it has made before, and a hundred for one that is put together first;
SQLite takes 2, and this here 5. So whatever runs in a round is a constant beside its row class, and only commands of
the operator put statements together. Names of parameters, types and errors are SQLAlchemy's either way, for both
databases.
"""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, Table, UpdateBase, bindparam, insert
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

from service.store.failures import end_if_disk_failed

__all__ = ["Answer", "Prepared", "adding", "run_text"]

Values = Mapping[str, Any]

_FEW = 4
"""For more the driver of PostgreSQL sets a pipeline up, which takes it as long as so many statements."""

_HIDDEN = ("hidden",)
"""In the place of values in errors: a manifest is one."""


class Answer:
    """What a statement found: all of it, read at once."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> Sequence[Any]:
        """Return all rows."""
        return self._rows

    def first(self) -> Any:
        """Return the first row; None if there is none."""
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        """Return the only row."""
        (row,) = self._rows
        return row

    def scalar(self) -> Any:
        """Return the first column of the first row; None if there is none."""
        return self._rows[0][0] if self._rows else None

    def scalar_one(self) -> Any:
        """Return the first column of the only row."""
        return self.one()[0]


class Prepared:
    """A statement, and its text for each database that it was run on.

    Args:
        statement: has named parameters, and nothing else that changes.
    """

    def __init__(self, statement: Select[Any] | UpdateBase) -> None:
        self._statement = statement
        self._texts: dict[str, _Text] = {}
        self._words: frozenset[str] | None = None

    def concerns(self, tables: frozenset[str]) -> bool:
        """Tell whether it names one of these tables."""
        if self._words is None:
            self._words = frozenset(re.findall(r"\w+", str(self._statement)))
        return not self._words.isdisjoint(tables)

    def run(self, connection: Connection, values: Values | list[Values] | None = None) -> Answer:
        """Run it once, or once for each of several sets of values.

        Raises:
            DBAPIError: as SQLAlchemy raises it, without the values.
        """
        dialect = connection.dialect
        text = self._texts.get(dialect.name)
        if text is None:
            text = self._texts[dialect.name] = _text(self._statement, dialect)
        driver: Any = connection.connection.dbapi_connection
        try:
            if isinstance(values, list):
                cursor = driver.cursor()
                many = [text.arguments(each) for each in values]
                if len(many) > _FEW:
                    cursor.executemany(text.sql, many)
                    return Answer([], cursor.rowcount)
                return Answer([], sum(cursor.execute(text.sql, one).rowcount for one in many))
            cursor = driver.execute(text.sql, text.arguments(values or {}))
            if not isinstance(self._statement, Select):
                return Answer([], cursor.rowcount)
            if text.row is None:  # the driver says only now what it makes of each type
                text.row = _row_of(self._statement, dialect, cursor.description)
            return Answer([text.row(row) for row in cursor.fetchall()], cursor.rowcount)
        except dialect.loaded_dbapi.Error as error:
            raise _failure(dialect, text.sql, error) from error


def adding(table: Table, *columns: str) -> Prepared:
    """Return the statement that adds a row of these columns, each a parameter of its name."""
    return Prepared(insert(table).values({name: bindparam(name) for name in columns}))


def run_text(connection: Connection, sql: str) -> None:
    """Run a statement without parameters or rows."""
    driver: Any = connection.connection.dbapi_connection
    try:
        driver.execute(sql)
    except connection.dialect.loaded_dbapi.Error as error:
        raise _failure(connection.dialect, sql, error) from error


@dataclass
class _Text:
    """A statement in the words of one database.

    Attributes:
        order: names of parameters where they go by position; None where they go by name.
        fixed: what the statement itself has for parameters.
        into: what a parameter goes through before the driver gets it.
        row: what makes a row of what the driver returns; None before the first.
    """

    sql: str
    order: Sequence[str] | None
    fixed: Values
    into: Mapping[str, Callable[[Any], Any]]
    row: Callable[[Sequence[Any]], Any] | None = None

    def arguments(self, values: Values) -> Any:
        if self.into:
            values = {name: self.into[name](value) if name in self.into else value for name, value in values.items()}
        if self.fixed:
            values = {**self.fixed, **values}
        return values if self.order is None else [values[name] for name in self.order]


def _text(statement: Select[Any] | UpdateBase, dialect: Dialect) -> _Text:
    compiled: Any = statement.compile(dialect=dialect)
    asked = {bind.key for bind in compiled.binds.values() if bind.required}
    made = compiled.construct_expanded_state(dict.fromkeys(asked))  # lists within the statement become its text
    into = {name: process for name, process in made.processors.items() if process is not None}
    fixed = {
        name: into[name](value) if name in into else value
        for name, value in made.parameters.items()
        if name not in asked
    }
    order = made.positiontup if compiled.positional else None
    return _Text(made.statement, order, fixed, {name: into[name] for name in asked & into.keys()})


def _row_of(
    statement: Select[Any], dialect: Dialect, described: Sequence[Sequence[Any]]
) -> Callable[[Sequence[Any]], Any]:
    columns = statement.selected_columns
    # Some have no name that Python takes, such as a count, which is read by its place.
    found = namedtuple("Found", columns.keys(), rename=True)  # type: ignore[misc]
    make: Callable[[Iterable[Any]], Any] = found._make
    processes = [
        column.type.dialect_impl(dialect).result_processor(dialect, what[1])
        for column, what in zip(columns, described, strict=True)
    ]
    processors = [(place, process) for place, process in enumerate(processes) if process is not None]
    if not processors:
        return make

    def row(raw: Iterable[Any]) -> Any:
        values = list(raw)
        for place, process in processors:
            values[place] = process(values[place])
        return make(values)

    return row


def _failure(dialect: Dialect, sql: str, error: Exception) -> BaseException:
    """Make SQLAlchemy's error of a driver's; it says nothing of values."""
    end_if_disk_failed(error)
    errors = dialect.loaded_dbapi.Error
    return DBAPIError.instance(sql, _HIDDEN, error, errors, hide_parameters=True, dialect=dialect)
