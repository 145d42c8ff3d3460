"""Share between sync and async sites and rounds all but the driving. `Site` and `Round` document the verbs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, Unpack

from client_sdk._net.server import TlsFiles
from client_sdk._net.transport import AsyncTransport, Transport
from client_sdk._protocol.poll import OpenRound
from client_sdk._protocol.session import Passphrase, Session, open_session
from client_sdk.config import Overrides, Settings
from client_sdk.federated import Sending, Update, given
from client_sdk.lines import Lines, somebody_watches
from client_sdk.progress import Event, Listener, Notice, Phase, PhaseFinished
from he_agg.audit.evidence import BrokenReceipt, parse_evidence
from he_agg.documents.roster import Roster
from he_agg.errors import InputError, Reason
from he_agg.plan.plan import Plan
from keys.hardening import forbid_core_dumps

__all__ = ["RoundBase", "SiteBase"]

_log = logging.getLogger("client_sdk")
_MOST_NOTICES = 10_000


class SiteBase:
    """One hospital in one federation: who it is, and how it is opened."""

    _connect: ClassVar[type[Transport] | type[AsyncTransport]]

    def __init__(self, session: Session, transport: Any, listener: Listener | None = None) -> None:
        self._session = session
        self._transport = transport
        self._listener = listener
        self._notices: list[Notice] = []
        self._closed = False

    def _check_open(self) -> None:
        if self._closed:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"site {self._session.site} was closed",
                "open it again with Site.open(...), and use it inside its `with` block",
            )

    @classmethod
    def open(
        cls,
        config: str | Path | None = None,
        *,
        passphrase: Passphrase = None,
        progress: Listener | bool | None = None,
        **settings: Unpack[Overrides],
    ) -> Self:
        """Load identity, group key and roster, and get ready to talk to the aggregator. Sends nothing yet.

        Core dumps of this process are switched off, since it holds keys from here on; `HE_AGG_CORE_DUMPS=1` in the
        environment leaves them as they are.

        Args:
            config: the site's TOML file, with at least url, identity, keystore and roster.
            passphrase: opens keystore and identity, or asks for what does; used only if they have one.
            progress: called with an `Event` whenever a phase begins, gets on or ends, before each retry, and of waits;
                of an async site in the event loop. True prints lines on stderr, False nothing; None prints them in a
                terminal and in notebooks.
            settings: settings by name, over those of the file.

        Raises:
            ConfigError: settings that do not make sense, among them plain http to another machine; a roster that is
                not signed, or does not list this site.
            KeystoreError: a secret file that is missing, damaged, or that others may read; an identity with another
                key than the roster lists.
        """
        loaded = Settings.load(config, settings)
        forbid_core_dumps()
        session = open_session(loaded, passphrase)
        tls = TlsFiles(loaded.ca_file, loaded.client_cert, loaded.client_key)
        if progress is None:
            progress = somebody_watches()
        listener = Lines(session.site) if progress is True else progress or None
        return cls(session, cls._connect(loaded.url, session.signer, tls), listener)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, federation={self.federation!r})"

    @property
    def name(self) -> str:
        """The site's name."""
        return self._session.site

    @property
    def federation(self) -> str:
        """Name of the federation: the one that the keystore is for."""
        return self._session.federation

    @property
    def plan(self) -> Plan:
        """What the federation agreed on: tensors, clip bounds, numbers of sites."""
        return self._session.key.plan

    @property
    def epoch(self) -> int:
        """Number of the newest epoch whose group key this site has."""
        return self._session.keys.look().epoch

    @property
    def roster(self) -> Roster:
        """The newest roster that this site trusts: who belongs to the federation, and how small a group may be."""
        return self._session.rosters.newest.body

    def pending(self) -> list[str]:
        """Return ids of rounds in the spool whose mean was not fetched yet, oldest first."""
        return [str(round_id) for round_id in self._session.pending()]

    def evidence(self) -> list[BrokenReceipt]:
        """Return what this site has kept of receipts that the aggregator broke."""
        return [one for data in self._session.spool.evidence(self.federation) for one in parse_evidence(data)]

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What people should know of the time since this site was opened: pauses, waits, rounds without it.

        Of a wait that goes on, the newest. The logger `client_sdk` and the listener are told of each when it comes.
        """
        return tuple(self._notices)

    def say(self, text: str) -> None:
        """Print a line where this site's progress is printed, and nowhere else."""
        if isinstance(self._listener, Lines):
            self._listener.say(text)

    def _keep(self, notice: Notice) -> None:
        _log.warning("%s", notice.text)
        last = self._notices[-1] if self._notices else notice
        same = (last.topic, last.round_id) == (notice.topic, notice.round_id)
        if same and last.waited_s < notice.waited_s:
            self._notices.pop()
        if len(self._notices) < _MOST_NOTICES:
            self._notices.append(notice)

    def _heard(self, note: Listener | None) -> Listener:
        """Tell of a flow's progress the round, which keeps its books, and the user."""

        def listener(event: Event) -> None:
            if isinstance(event, Notice):
                self._keep(event)
            for each in (note, self._listener):
                if each is not None:
                    each(event)

        return listener


class RoundBase:
    """One open round of a federation, as one site sees it. Comes from `site.rounds()` or `site.current()`."""

    def __init__(self, site: Any, opened: OpenRound) -> None:
        self._site = site
        self._session: Session = site._session
        self._opened = opened
        self._submitted = False
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
        return self._submitted or self._session.is_stored(self._opened.id)

    @property
    def seconds(self) -> Mapping[Phase, float]:
        """How long each phase took so far: encrypt, upload, wait, download, decrypt. Units: seconds."""
        return MappingProxyType(self._seconds)

    @property
    def bytes_up(self) -> int:
        """Bodies sent for this round, by this object: manifest and parts, re-sent ones included."""
        return self._bytes_up

    @property
    def bytes_down(self) -> int:
        """Bodies received for this round, by this object: record, manifests and parts of the sum."""
        return self._bytes_down

    def _given(self, update: Mapping[str, Any] | None, weight: int | None, **how: Unpack[Sending]) -> Update | None:
        made = given(update, weight, **how)
        if made is None and not self.submitted:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"round {self.id}: expected an update, or a submission to finish, got neither",
                "round.take_part(update, weight=len(dataset)); with weight=0 it gets the mean of the others",
            )
        return made

    def _note(self, event: Event) -> None:
        if isinstance(event, PhaseFinished):
            self._seconds[event.phase] = self._seconds.get(event.phase, 0.0) + event.seconds
            self._bytes_up += event.sent_bytes
            self._bytes_down += event.received_bytes
            if event.phase == "upload":
                self._submitted = True
