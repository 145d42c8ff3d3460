"""Remember what this site has found when it looked at sums, and which of its verdicts the aggregator has not got yet.

::

    {"attempt":1,"found":"opened","record":"<64 hex>","round":12,"signature":"<128 hex>"}
    {"attempt":1,"found":"opened","record":"<64 hex>","round":12,"signature":null}

A line when the site has looked at a sum, added and fsynced before the mean is handed out: so it knows after any crash
which sums it has opened. One more, without the signature, when the verdict was delivered, or refused for good. Nothing
is ever changed; what a site has found last about an attempt counts. A last line that a crash cut short counts as not
written.
"""

from __future__ import annotations

from pathlib import Path

from client_sdk._disk.lines import Lines
from he_agg import canonical
from he_agg.documents.signed import Signed
from he_agg.documents.verdict import OPENED, REJECTED, Verdict
from he_agg.errors import Reason, WireError
from he_agg.ids import MAX_NUMBER, RoundId
from he_agg.signing import SIGNATURE_BYTES

__all__ = ["Verdicts"]


class Verdicts:
    """The verdicts of one site in one federation. Several processes of the site may use the file at once."""

    def __init__(self, path: Path, federation: str, site: str) -> None:
        self._federation, self._site = federation, site
        self._found: dict[int, dict[int, str]] = {}
        self._unsent: dict[RoundId, Signed[Verdict]] = {}
        self._lines = Lines(path, self._take, "which sums it has opened", Reason.BAD_CONFIG)

    def keep(self, signed: Signed[Verdict]) -> None:
        """Keep a verdict. One that is here stays, unless a sum that was rejected has been opened since."""
        verdict = signed.body
        with self._lines.adding() as add:
            if self._known(verdict.round_id) not in (OPENED, verdict.verdict):
                add(_line(verdict, signed.signatures[self._site]))

    def found(self, round_id: RoundId) -> str | None:
        """Return what this site has found about an attempt; None if that is nothing yet."""
        self._lines.read()
        return self._known(round_id)

    def opened(self, number: int) -> RoundId | None:
        """Return the attempt at a round whose sum this site has opened, if there is one."""
        self._lines.read()
        attempts = sorted(attempt for attempt, found in self._found.get(number, {}).items() if found == OPENED)
        return RoundId(self._federation, number, attempts[0]) if attempts else None

    def unsent(self) -> list[Signed[Verdict]]:
        """Return the verdicts that are still to be delivered, oldest first."""
        self._lines.read()
        return [self._unsent[round_id] for round_id in sorted(self._unsent)]

    def settle(self, round_id: RoundId) -> None:
        """Note that a verdict need not be sent again."""
        with self._lines.adding() as add:
            if (signed := self._unsent.get(round_id)) is not None:
                add(_line(signed.body, None))

    def _known(self, round_id: RoundId) -> str | None:
        return self._found.get(round_id.number, {}).get(round_id.attempt)

    def _take(self, fields: canonical.Fields) -> None:
        number, attempt = fields.integer("round", 1, MAX_NUMBER), fields.integer("attempt", 1, MAX_NUMBER)
        record, found = fields.hex("record", 32), fields.string("found")
        signature = fields.maybe("signature", lambda name: fields.hex(name, SIGNATURE_BYTES))
        fields.end()
        if found not in (OPENED, REJECTED):
            raise WireError(Reason.BAD_FIELD, f"line.found: expected {OPENED} or {REJECTED}")
        round_id = RoundId(self._federation, number, attempt)
        self._found.setdefault(number, {})[attempt] = found
        if signature is None:
            self._unsent.pop(round_id, None)
        else:
            verdict = Verdict(round_id, record, self._site, found)
            self._unsent[round_id] = Signed(verdict, {self._site: bytes.fromhex(signature)})


def _line(verdict: Verdict, signature: bytes | None) -> dict[str, canonical.Json]:
    return {
        "round": verdict.round_id.number,
        "attempt": verdict.round_id.attempt,
        "record": verdict.record,
        "found": verdict.verdict,
        "signature": None if signature is None else signature.hex(),
    }
