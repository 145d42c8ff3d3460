"""Submissions that begin in a transaction, and are written at its end, as they are by then.

Most begin, are whole and are accepted in the same transaction: as many statements as steps for each, of which all but
the last say what is not true any more. Over a network each is a way to the database and back, with the one writer's
lock held. So they are put together here, and those of all who share a commit go out together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from he_agg.ids import RoundId
from service.domain.submissions import State
from service.store.queries import columns_of
from service.store.rows import SubmissionRow
from service.store.schema import parts, submissions
from service.store.statements import adding

__all__ = ["NewSubmissions"]

_ADD = adding(
    submissions,
    *(column.name for column in columns_of(submissions, SubmissionRow)),
    "manifest",
    "created_at",
    "active_at",
)
_ADD_PART = adding(parts, "submission_id", "number", "digest", "stored")


class NewSubmissions:
    """Rows that are not written yet, by the id of their submission."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        self._parts: dict[str, list[dict[str, Any]]] = {}

    def __contains__(self, submission_id: str) -> bool:
        return submission_id in self._rows

    def add(self, row: SubmissionRow, parts_: int, at: int) -> None:
        """Begin one, of which so many parts are awaited."""
        values = {**vars(row), "round_id": str(row.round_id), "state": row.state.value}
        self._rows[row.id] = {**values, "manifest": None, "created_at": at, "active_at": at}
        nothing = {"submission_id": row.id, "digest": None, "stored": False}
        self._parts[row.id] = [{**nothing, "number": number} for number in range(parts_)]

    def set(self, submission_id: str, **values: Any) -> None:
        """Change columns of one."""
        self._rows[submission_id].update(values)

    def store_parts(self, submission_id: str, digests: Mapping[int, str]) -> None:
        """Note that parts are stored, and what they hold."""
        for number, digest in digests.items():
            self._parts[submission_id][number].update(digest=digest, stored=True)

    def completed(self, round_id: RoundId) -> frozenset[str]:
        """Return the sites of those that are complete by now."""
        done = (str(round_id), State.COMPLETE.value)
        return frozenset(row["site"] for row in self._rows.values() if (row["round_id"], row["state"]) == done)

    def write(self, connection: Connection) -> None:
        """Write them, and forget them here."""
        if self._rows:
            _ADD.run(connection, list(self._rows.values()))
            _ADD_PART.run(connection, [part for each in self._parts.values() for part in each])
            self.clear()

    def clear(self) -> None:
        """Forget them: what had begun them is undone."""
        self._rows.clear()
        self._parts.clear()
