"""The error that a request ends in when it cannot be granted. `problems` makes a document of it."""

from __future__ import annotations

from typing import Any

from he_agg.errors import ProtocolError, Reason

__all__ = ["RefusedError"]


class RefusedError(ProtocolError):
    """A request that cannot be granted, with members for its problem document.

    Args:
        reason: key into `problems.PROBLEMS`.
        status: HTTP status, where it is another one than the table's.
        members: more members of the document, JSON values.
    """

    def __init__(
        self, reason: Reason, message: str, hint: str = "", *, status: int | None = None, **members: Any
    ) -> None:
        super().__init__(reason, message, hint)
        self.status = status
        self.members = members
