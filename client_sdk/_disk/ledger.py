"""Remember which updates this site has sent, and which of them are in a sum: so that none goes into a second one.

::

    {"id":"<64 hex>","round":"<federation>.<round>.<attempt>","state":"sent","update":"<64 hex>"}

A line when a submission is about to be sent for the first time; one more when a verified record has said what became of
it, with the state `counted` or `left-out`. Nothing is ever changed. `update` is a keyed fingerprint
(`Identity.recognise`): to anybody without this site's identity it says nothing about the update, but whether two of its
updates were the same. A last line that a crash cut short counts as not written; nothing was sent for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from client_sdk._disk.lines import Lines
from he_agg import canonical
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId

__all__ = ["Fate", "Ledger", "Sent"]


class Fate(StrEnum):
    """What became of a submission."""

    SENT = "sent"
    """No verified record says it yet."""

    COUNTED = "counted"
    """It is a member of a published record."""

    LEFT_OUT = "left-out"
    """Its attempt failed, or was published without it."""


@dataclass(frozen=True)
class Sent:
    """What this site sent to an attempt: the id of its first manifest, and the fingerprint of what was encrypted."""

    round_id: RoundId
    submission_id: str
    update: str
    fate: Fate = Fate.SENT


class Ledger:
    """All that one site ever sent in one federation. Several processes of a site may use the file at once."""

    def __init__(self, path: Path) -> None:
        self._sent: dict[RoundId, Sent] = {}
        self._rounds_of: dict[str, list[RoundId]] = {}
        self._lines = Lines(path, self._take, "which updates it has sent before", Reason.BAD_CONFIG)

    def sent(self, round_id: RoundId) -> Sent | None:
        """Return what was sent to an attempt, or is about to be; None if nothing."""
        self._lines.read()
        return self._sent.get(round_id)

    def enter(self, round_id: RoundId, submission_id: str, update: str) -> None:
        """Note what is going to be sent; what is noted already stays."""
        if self.sent(round_id) is None:
            with self._lines.adding() as add:
                if round_id not in self._sent:
                    add(_line(Sent(round_id, submission_id, update)))

    def settle(self, round_id: RoundId, fate: Fate) -> None:
        """Note what a verified record says of a submission; of one that was never sent nothing is noted."""
        if (sent := self.sent(round_id)) is not None and sent.fate is Fate.SENT:
            with self._lines.adding() as add:
                if self._sent[round_id].fate is Fate.SENT:
                    add(_line(replace(sent, fate=fate)))

    def in_another(self, round_id: RoundId, update: str) -> Sent | None:
        """Find another attempt whose sum has this update, or may have it; None if there is none."""
        self._lines.read()
        others = (self._sent[other] for other in self._rounds_of.get(update, []) if other != round_id)
        return max((sent for sent in others if sent.fate is not Fate.LEFT_OUT), key=lambda s: s.round_id, default=None)

    def newest_counted(self) -> int:
        """Return the number of the newest round whose sum has an update of this site; 0 if there is none."""
        self._lines.read()
        return max((sent.round_id.number for sent in self._sent.values() if sent.fate is Fate.COUNTED), default=0)

    def _take(self, fields: canonical.Fields) -> None:
        round_id, submission_id = RoundId.parse(fields.string("round")), fields.hex("id", 32)
        update, state = fields.hex("update", 32), fields.string("state")
        fields.end()
        try:
            sent = Sent(round_id, submission_id, update, Fate(state))
        except ValueError as error:
            raise WireError(Reason.BAD_FIELD, f"line.state: expected one of {', '.join(Fate)}") from error
        if round_id not in self._sent:
            self._rounds_of.setdefault(update, []).append(round_id)
        self._sent[round_id] = sent


def _line(sent: Sent) -> dict[str, canonical.Json]:
    return {"round": str(sent.round_id), "id": sent.submission_id, "update": sent.update, "state": str(sent.fate)}
