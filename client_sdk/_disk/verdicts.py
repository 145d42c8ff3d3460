"""Keep what this site has found when it looked at sums: its signed verdicts, and which the aggregator has not got yet.

::

    <spool>/<site>/<federation>.verdicts/3.1.unsent     the verdict on attempt 1 of round 3, not delivered yet
    <spool>/<site>/<federation>.verdicts/2.1            delivered, or refused for good

A verdict is durable before the mean is handed out, so that a site knows after any crash which sums it has opened.
"""

from __future__ import annotations

from pathlib import Path

from client_sdk._disk.files import explained
from he_agg.documents.signed import Signed
from he_agg.documents.verdict import OPENED, Verdict
from he_agg.errors import ConfigError, Reason, WireError
from he_agg.host.files import replace, sync_directory
from he_agg.ids import RoundId

__all__ = ["Verdicts"]

_UNSENT = ".unsent"


class Verdicts:
    """The verdicts of one site in one federation."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, signed: Signed[Verdict]) -> None:
        """Keep a verdict. One that is here stays, unless a sum that was rejected has been opened since."""
        round_id = signed.body.round_id
        known = self.of(round_id)
        if known is not None and known.verdict in (OPENED, signed.body.verdict):
            return
        with explained(self._path):
            if not self._path.is_dir():
                self._path.mkdir(mode=0o700)
                sync_directory(self._path.parent)
            replace(self._file(round_id, _UNSENT), signed.encode())
            self._file(round_id).unlink(missing_ok=True)

    def of(self, round_id: RoundId) -> Verdict | None:
        """Return the verdict on an attempt; None if this site has found nothing about it yet."""
        for name in (_UNSENT, ""):
            path = self._file(round_id, name)
            with explained(path):
                try:
                    data = path.read_bytes()
                except FileNotFoundError:
                    continue
            return _parse(path, data).body
        return None

    def opened(self, number: int) -> RoundId | None:
        """Return the attempt at a round whose sum this site has opened, if there is one."""
        with explained(self._path):
            paths = sorted(self._path.glob(f"{number}.*"))
            for path in paths:
                verdict = _parse(path, path.read_bytes()).body
                if verdict.verdict == OPENED:
                    return verdict.round_id
        return None

    def unsent(self) -> list[Signed[Verdict]]:
        """Return the verdicts that are still to be delivered, oldest first."""
        with explained(self._path):
            found = [_parse(path, path.read_bytes()) for path in self._path.glob(f"*{_UNSENT}")]
        return sorted(found, key=lambda signed: signed.body.round_id)

    def settle(self, round_id: RoundId) -> None:
        """Note that a verdict need not be sent again."""
        with explained(self._path):
            self._file(round_id, _UNSENT).replace(self._file(round_id))

    def _file(self, round_id: RoundId, end: str = "") -> Path:
        return self._path / f"{round_id.number}.{round_id.attempt}{end}"


def _parse(path: Path, data: bytes) -> Signed[Verdict]:
    try:
        return Signed.parse(Verdict, data)
    except WireError as error:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"{path} is damaged: {error.message}",
            "restore the file from your backup; without it this site could open two sums of one round",
        ) from error
