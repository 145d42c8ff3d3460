"""Remember which updates this site has sent, and which of them are in a sum: so that none goes into a second one.

::

    {"record":null,"round":"<federation>.<round>.<attempt>","state":"sent","update":"<64 hex>","upload":"<32 hex>"}

A line when a submission is about to be sent for the first time; one more, with that record's digest, when a verified
record has said what became of it: `counted`, or `left-out`; and one more, `given-up`, when a later record gives that
sum up. Nothing is ever changed. `update` is a keyed fingerprint
(`Identity.recognise`): to anybody without this site's identity it says nothing about the update, but whether two of its
updates were the same. A last line that a crash cut short counts as not written; nothing was sent for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from client_sdk._disk.lines import Lines
from he_agg import canonical
from he_agg.documents.manifest import NONCE_BYTES
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

    GIVEN_UP = "given-up"
    """It is in a sum that was given up: the same round is tried again, with the same updates."""


@dataclass(frozen=True)
class Sent:
    """What this site sent to an attempt.

    Attributes:
        upload: nonce of its manifest.
        update: keyed fingerprint of what was encrypted.
        record: digest of the record that settled it; None as long as there is none.
    """

    round_id: RoundId
    upload: str
    update: str
    fate: Fate = Fate.SENT
    record: str | None = None


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

    def enter(self, round_id: RoundId, upload: str, update: str) -> Sent | None:
        """Note what is going to be sent, unless something is noted already: then that stays, and is returned."""
        if (before := self.sent(round_id)) is not None:
            return before
        with self._lines.adding() as add:
            if (before := self._sent.get(round_id)) is None:
                add(_line(Sent(round_id, upload, update)))
        return before

    def settle(self, round_id: RoundId, fate: Fate, record: str) -> None:
        """Note what a verified record says of a submission; of one that was never sent nothing is noted."""
        if (sent := self.sent(round_id)) is not None and sent.fate is Fate.SENT:
            self._move(replace(sent, fate=fate, record=record), Fate.SENT)

    def give_up(self, record: str) -> None:
        """Note that a verified record gives up the sum of another one."""
        self._lines.read()
        for sent in list(self._sent.values()):
            if sent.record == record and sent.fate is Fate.COUNTED:
                self._move(replace(sent, fate=Fate.GIVEN_UP), Fate.COUNTED)

    def in_another(self, round_id: RoundId, update: str) -> Sent | None:
        """Find another attempt whose sum has this update, or may have it; None if there is none.

        A sum that was given up does not keep it from another attempt at its own round, but from every other round.
        """
        self._lines.read()
        others = (self._sent[other] for other in self._rounds_of.get(update, []) if other != round_id)
        here = round_id.number
        holding = (
            sent
            for sent in others
            if sent.fate is not Fate.LEFT_OUT and (sent.fate is not Fate.GIVEN_UP or sent.round_id.number != here)
        )
        return max(holding, key=lambda sent: sent.round_id, default=None)

    def left_out(self, update: str) -> list[RoundId]:
        """Name the attempts that an update was sent to whose sum, as a verified record says, is without it."""
        self._lines.read()
        rounds = self._rounds_of.get(update, [])
        return [round_id for round_id in rounds if self._sent[round_id].fate is Fate.LEFT_OUT]

    def newest_counted(self) -> int:
        """Return the number of the newest round whose sum has an update of this site; 0 if there is none."""
        self._lines.read()
        return max((sent.round_id.number for sent in self._sent.values() if sent.fate is Fate.COUNTED), default=0)

    def _move(self, after: Sent, before: Fate) -> None:
        with self._lines.adding() as add:
            if self._sent[after.round_id].fate is before:
                add(_line(after))

    def _take(self, fields: canonical.Fields) -> None:
        round_id, upload = RoundId.parse(fields.string("round")), fields.hex("upload", NONCE_BYTES)
        update, state = fields.hex("update", 32), fields.string("state")
        record = fields.maybe("record", lambda name: fields.hex(name, 32))
        fields.end()
        try:
            sent = Sent(round_id, upload, update, Fate(state), record)
        except ValueError as error:
            raise WireError(Reason.BAD_FIELD, f"line.state: expected one of {', '.join(Fate)}") from error
        if round_id not in self._sent:
            self._rounds_of.setdefault(update, []).append(round_id)
        self._sent[round_id] = sent


def _line(sent: Sent) -> dict[str, canonical.Json]:
    return {
        "round": str(sent.round_id),
        "upload": sent.upload,
        "update": sent.update,
        "state": str(sent.fate),
        "record": sent.record,
    }
