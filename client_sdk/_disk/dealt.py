"""Remember to which holders this site has dealt for a round's number: to one list, in all attempts at it.

::

    {"holders":"<64 hex>","roster":1,"round":4}

Holders answer for one record of a number. Who deals to one list in one attempt and to another in the next can be made
to appear in two records, each with a list that has seen one of them only. `holders` is a digest of who they are and how
many it takes; what is sealed to them may change with the epoch. `roster` is a version that lists them. A line is added
before anything is dealt; nothing is ever changed. A last line that a crash cut short counts as not written: nothing was
dealt for it.
"""

from __future__ import annotations

from pathlib import Path

from client_sdk._disk.lines import Lines
from he_agg import canonical
from he_agg.documents.roster import Role, Roster
from he_agg.errors import Reason
from he_agg.ids import MAX_NUMBER

__all__ = ["Dealt"]


class Dealt:
    """The lists that one site has dealt to in one federation. Several processes of it may use the file at once."""

    def __init__(self, path: Path) -> None:
        self._lists: dict[int, tuple[str, int]] = {}
        self._lines = Lines(path, self._take, "to which holders it has dealt before", Reason.BAD_CONFIG)

    def pin(self, number: int, roster: Roster) -> bool:
        """Note the holders that are dealt to for a number, if none are noted yet.

        Args:
            roster: that the attempt opened under.

        Returns:
            Whether they are those that are noted: to others nothing may be dealt.
        """
        wanted = _digest(roster)
        self._lines.read()
        if number not in self._lists:
            with self._lines.adding() as add:
                if number not in self._lists:
                    add({"round": number, "holders": wanted, "roster": roster.version})
        return self._lists[number][0] == wanted

    def version(self, number: int) -> int | None:
        """Return a version of the roster that lists the holders of a number; None if nothing was dealt for it."""
        self._lines.read()
        return self._lists[number][1] if number in self._lists else None

    def _take(self, fields: canonical.Fields) -> None:
        number, holders = fields.integer("round", 1, MAX_NUMBER), fields.hex("holders", 32)
        version = fields.integer("roster", 1, MAX_NUMBER)
        fields.end()
        self._lists.setdefault(number, (holders, version))


def _digest(roster: Roster) -> str:
    if roster.holders is None:
        raise ValueError("expected a roster with holders")
    keys = {name: key.hex() for name, key in roster.keys_of(Role.HOLDER).items()}
    return canonical.digest({"keys": keys, "quorum": roster.holders.quorum, "threshold": roster.holders.threshold})
