"""What a round knows about itself, and the keeping of its books; `Round` and `AsyncRound` add the verbs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from client_sdk._protocol.poll import OpenRound
from client_sdk._protocol.session import Session
from client_sdk.progress import Event, Phase, PhaseFinished

__all__ = ["RoundBase"]


class RoundBase:
    """One open round of a federation, as one site sees it. Comes from `site.rounds()` or `site.current()`.

    Args:
        session: the site.
        opened: the round.
    """

    def __init__(self, session: Session, opened: OpenRound) -> None:
        self._session = session
        self._opened = opened
        self._submitted = opened.submitted
        self._seconds: dict[Phase, float] = {}
        self._bytes_up = 0
        self._bytes_down = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, submitted={self.submitted})"

    @property
    def id(self) -> str:
        """The round's id: federation, number and attempt."""
        return str(self._opened.id)

    @property
    def federation(self) -> str:
        """Name of the federation."""
        return self._opened.id.federation

    @property
    def number(self) -> int:
        """Number of the round, from 1."""
        return self._opened.id.number

    @property
    def attempt(self) -> int:
        """Number of the attempt, from 1; a round that failed is tried again."""
        return self._opened.id.attempt

    @property
    def submitted(self) -> bool:
        """Whether this site has submitted to it, or has an encrypted submission on the way in its spool."""
        return self._submitted or self._session.spool.entry(self._opened.id).is_stored

    @property
    def seconds(self) -> Mapping[Phase, float]:
        """How long each phase took so far: encrypt, upload, wait, download, verify, decrypt. Units: seconds."""
        return MappingProxyType(self._seconds)

    @property
    def bytes_up(self) -> int:
        """Bodies sent for this round, by this object: manifest and parts, re-sent ones included."""
        return self._bytes_up

    @property
    def bytes_down(self) -> int:
        """Bodies received for this round, by this object: record, manifests and parts of the sum."""
        return self._bytes_down

    def _note(self, event: Event) -> None:
        if isinstance(event, PhaseFinished):
            self._seconds[event.phase] = self._seconds.get(event.phase, 0.0) + event.seconds
            self._bytes_up += event.sent_bytes
            self._bytes_down += event.received_bytes
            if event.phase == "upload":
                self._submitted = True
