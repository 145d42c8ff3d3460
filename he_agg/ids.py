"""Names and ids: one text form each, safe in a URL, a file name and a log line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from he_agg.canonical import Fields, Json
from he_agg.errors import Reason, WireError

__all__ = ["MAX_NUMBER", "RoundId", "check_name"]

MAX_NUMBER = 10**9 - 1
"""The largest number of a round, and of an attempt."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_ROUND = re.compile(r"([a-z0-9][a-z0-9-]{0,62})\.([1-9][0-9]{0,8})\.([1-9][0-9]{0,8})\Z")


def check_name(name: str, what: str) -> str:
    """Return the name of a federation or a site if it may be one.

    Raises:
        WireError: not 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit.
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise WireError(
            Reason.BAD_FIELD,
            f"{what}: expected a name of 1 to 63 characters out of a-z, 0-9 and '-', not beginning with '-'",
            "take one like hospital-a or heart-failure-2026",
        )
    return name


@dataclass(frozen=True, order=True)
class RoundId:
    """One attempt at one round of one federation, written ``federation.number.attempt``."""

    federation: str
    number: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.federation}.{self.number}.{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> RoundId:
        """Read the text form."""
        match = _ROUND.match(text)
        if match is None:
            raise WireError(
                Reason.BAD_FIELD, "expected a round id like 'federation.3.1'", "`he-agg status` shows the open one"
            )
        return cls(match[1], int(match[2]), int(match[3]))

    def members(self) -> dict[str, Json]:
        """Return the members that a document about it begins with."""
        return {"federation": self.federation, "round": self.number, "attempt": self.attempt}

    @classmethod
    def of(cls, fields: Fields, what: str) -> RoundId:
        """Read the members that `members` gives."""
        federation = check_name(fields.string("federation"), f"{what}.federation")
        return cls(federation, fields.integer("round", 1, MAX_NUMBER), fields.integer("attempt", 1, MAX_NUMBER))
