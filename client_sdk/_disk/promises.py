"""Remember which record of each round this member answers as a holder: one for a number, for ever.

::

    {"attempt":0,"record":null,"round":4}            the first line: it makes no promise up to this number
    {"attempt":1,"record":"<64 hex>","round":5}      a promise

A line is added and fsynced before anybody hears of the promise; nothing is ever changed. Two answers for one number
would give two sums, and their difference. So a holder that has lost this file begins a new one only with a new sharing
key, and sits out the number that was open then: it cannot know what it had promised for it. A last line that a crash
cut short counts as not written; nobody heard of it. Beside it are the answers' bytes, kept before they are sent.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from client_sdk._disk.files import explained
from client_sdk._disk.lines import Lines
from he_agg import canonical
from he_agg.errors import Reason, WireError
from he_agg.host.files import beside, make_directory, sync_directory
from he_agg.ids import MAX_NUMBER, RoundId

__all__ = ["Promise", "Promises"]

_BEGIN_ANEW = (
    "never restore it from a backup, which may be older: this holder would answer a round twice. Move the file and the "
    "folder of sharing keys beside it away; this holder is out until the coordinators begin the next epoch"
)


@dataclass(frozen=True)
class Promise:
    """What was promised for a number.

    Attributes:
        record: digest of the signed record, 64 hex digits.
    """

    attempt: int
    record: str


class Promises:
    """The promises of one member in one federation. Several processes of a member may use the file at once.

    Args:
        path: the journal.
        answers: the folder of kept answers.
    """

    def __init__(self, path: Path, answers: Path) -> None:
        self._made: dict[int, Promise] = {}
        self._newest: int | None = None
        self._answers = answers
        self._lines = Lines(path, self._take, "", Reason.BAD_CONFIG, _BEGIN_ANEW)

    def begin(self, sits_out: int) -> None:
        """Begin the journal if there is none, before a sharing key is made.

        Args:
            sits_out: newest number of which no record is promised; 0 for none.
        """
        with self._lines.adding() as add:
            if self._newest is None:
                add({"round": sits_out, "attempt": 0, "record": None})

    @property
    def begun(self) -> bool:
        """Whether there is a journal: without one nothing is promised."""
        self._lines.read()
        return self._newest is not None

    @property
    def newest(self) -> int:
        """The newest number of a promise, or up to which none is made; 0 for neither."""
        self._lines.read()
        return self._newest or 0

    def of(self, number: int) -> Promise | None:
        """Return what was promised for a number; None if nothing was."""
        self._lines.read()
        return self._made.get(number)

    def make(self, round_id: RoundId, record: str) -> None:
        """Promise a record of a round: from here on no other one of its number, and none of an older number.

        Raises:
            WireError: another one is promised, or a later number is, or there is no journal.
        """
        promise = Promise(round_id.attempt, record)
        with self._lines.adding() as add:
            if self._made.get(round_id.number) == promise:
                return
            if self._newest is None:
                raise WireError(Reason.CHAIN_MISMATCH, "promise: expected the journal of this holder, it is gone")
            if round_id.number <= self._newest:
                known = self._made.get(round_id.number)
                had = "none up to" if known is None else f"record {known.record[:12]} of attempt {known.attempt}, for"
                raise WireError(
                    Reason.CHAIN_MISMATCH,
                    f"promise for round {round_id}: {had} number {max(round_id.number, self._newest)}, and no other",
                )
            add({"round": round_id.number, "attempt": promise.attempt, "record": record})

    def answer(self, round_id: RoundId) -> bytes | None:
        """Read the answer that was made for an attempt; None if there is none yet."""
        path = self._answer_path(round_id)
        with explained(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def keep_answer(self, round_id: RoundId, encoded: bytes) -> None:
        """Keep an answer before it is sent, and let older numbers' go, which were settled before this one opened."""
        path = self._answer_path(round_id)
        with explained(path):
            make_directory(self._answers)
            with beside(path, encoded) as temporary:
                temporary.replace(path)
            sync_directory(self._answers)
            for other in self._answers.iterdir():
                number = other.name.partition(".")[0]
                if number.isdigit() and int(number) < round_id.number:
                    with contextlib.suppress(FileNotFoundError):
                        other.unlink()

    def _answer_path(self, round_id: RoundId) -> Path:
        return self._answers / f"{round_id.number}.{round_id.attempt}"

    def _take(self, fields: canonical.Fields) -> None:
        first = self._newest is None
        number = fields.integer("round", 0 if first else (self._newest or 0) + 1, MAX_NUMBER)
        attempt = fields.integer("attempt", 0 if first else 1, 0 if first else MAX_NUMBER)
        record = fields.maybe("record", lambda name: fields.hex(name, 32))
        fields.end()
        if (record is None) != first:
            raise WireError(Reason.BAD_FIELD, "line.record: expected null in the first line, and a digest after it")
        self._newest = number
        if record is not None:
            self._made[number] = Promise(attempt, record)
