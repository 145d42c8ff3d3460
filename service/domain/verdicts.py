"""Judge a sum by its sites' verdicts, as pure functions. No store, no clock, no files.

::

    AWAITED ──── so many members said "opened" as must be in a sum ────> OPENED
       │                                                                    ▲
       │ a member said "rejected"                                           │ the same
       └──────────────────────────────> DISPUTED ───────────────────────────┘

One "rejected" does not spoil a round that enough others have opened: it says something about the one who said it, or
about what it was shown. One "rejected" before that is a dispute, in which nobody is accused yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from he_agg.documents.verdict import OPENED, REJECTED

__all__ = ["Standing", "standing"]


class Standing(StrEnum):
    """How a published sum stands with its members."""

    AWAITED = "awaited"
    OPENED = "opened"
    DISPUTED = "disputed"


def standing(verdicts: Mapping[str, str], least: int) -> Standing:
    """Tell how a sum stands.

    Args:
        verdicts: of its members, by site.
        least: how many must say that they opened it.
    """
    said = list(verdicts.values())
    if said.count(OPENED) >= least:
        return Standing.OPENED
    return Standing.DISPUTED if REJECTED in said else Standing.AWAITED
