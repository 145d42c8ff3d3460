"""`Site`: a hospital's end of a federation, blocking. `async_site.py` has the same verbs on asyncio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

from client_sdk._net.transport import TlsFiles, Transport
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.effects import Flow
from client_sdk._protocol.poll import OpenRound, current_round, next_round, open_round
from client_sdk._protocol.prepare import Update
from client_sdk._protocol.session import Passphrase, Session, open_session
from client_sdk._round import RoundBase
from client_sdk.config import Overrides, Settings
from client_sdk.progress import Event, Listener
from he_agg.ids import RoundId
from he_agg.plan.fixedpoint import Mean, OnOverflow, Rounding
from he_agg.plan.plan import Plan
from he_agg.protocol.messages import CurrentRound, Receipt
from keys.hardening import forbid_core_dumps

__all__ = ["Round", "Site"]

T = TypeVar("T")


class Site:
    """One hospital in one federation. Make it with `Site.open`, and close it, or use it in a `with` statement.

    Every method raises a `HeAggError` whose `reason` is for programs and whose `hint` says what to do next.
    """

    def __init__(self, session: Session, transport: Transport, listener: Listener | None = None) -> None:
        self._session = session
        self._transport = transport
        self._listener = listener

    @classmethod
    def open(
        cls,
        config: str | Path | None = None,
        *,
        passphrase: Passphrase = None,
        progress: Listener | None = None,
        **settings: Unpack[Overrides],
    ) -> Self:
        """Load identity, group key and roster, and get ready to talk to the aggregator. Sends nothing yet.

        Core dumps of this process are switched off, since it holds keys from here on; `HE_AGG_CORE_DUMPS=1` in the
        environment leaves them as they are.

        Args:
            config: the site's TOML file, with at least url, identity, keystore and roster.
            passphrase: opens keystore and identity, or asks for what does; used only if they have one.
            progress: called with an `Event` whenever a phase begins, gets on or ends, and before each retry.
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
        return cls(session, Transport(loaded.url, session.signer, tls), progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Site({self.name!r}, federation={self.federation!r})"

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

    def rounds(self) -> Iterator[Round]:
        """Yield every round that this site is invited to, as it opens, each once; end with the federation.

        While nothing is open it waits. An aggregator that is away for less than `patience_s` is waited for.
        A round that this site has submitted to already, before a restart, comes too: look at `round.submitted`.

        Raises:
            KeystoreError: the federation uses another group key than the keystore's; nothing was encrypted.
            PlanError: the federation follows another plan.
            TransportError: the aggregator was away for too long.
            ProtocolError: it refused, offers a roster that does not follow the pinned one, or went back on records.
            ConfigError: the roster has expired, or does not list this site any more.
        """
        after: str | None = None
        while True:
            opened = self._run(next_round(self._session, after))
            if opened is None:
                return
            after = str(opened.id)
            self._session.spool.prune(opened.id)
            yield Round(self, opened)

    def current(self) -> Round | None:
        """Return the open round to which this site is invited, without waiting; None if there is none.

        Raises:
            KeystoreError: the federation uses another group key than the keystore's.
            PlanError: the federation follows another plan.
            TransportError: the aggregator was away for too long.
            ProtocolError: it refused.
        """
        opened = self._run(open_round(self._session))
        return None if opened is None else Round(self, opened)

    def status(self) -> CurrentRound:
        """Tell where the federation stands, as the aggregator tells this site.

        Raises:
            TransportError: the aggregator was away for too long.
            ProtocolError: it refused.
        """
        return self._run(current_round(self._session))

    def pending(self) -> list[str]:
        """Return ids of rounds in the spool whose mean was not fetched yet, oldest first."""
        return [str(round_id) for round_id in self._session.spool.pending(self.federation)]

    def fetch(self, round_id: str | None = None) -> Mean:
        """Wait for the mean of a round, download and decrypt it.

        Args:
            round_id: which round; the newest published one if None.

        Raises:
            WireError: not a round id.
            InputError: a round of another federation.
            TransportError: the aggregator was away for too long.
            ProtocolError: the round failed, or the aggregator refused.
            DecryptionError: `SUM_REJECTED`, as for `Round.aggregate`.
        """
        if round_id is None:
            return self._run(_flows.fetch_latest(self._session))
        return self._run(_flows.fetch(self._session, RoundId.parse(round_id)))

    def close(self) -> None:
        """Close the connections to the aggregator."""
        self._transport.close()

    def _run(self, flow: Flow[T], note: Listener | None = None) -> T:
        def listener(event: Event) -> None:
            if note is not None:
                note(event)
            if self._listener is not None:
                self._listener(event)

        return self._transport.run(flow, listener)


class Round(RoundBase):
    """One open round. Train, then `aggregate`."""

    def __init__(self, site: Site, opened: OpenRound) -> None:
        super().__init__(site._session, opened)
        self._site = site

    def aggregate(
        self,
        update: Mapping[str, Any],
        weight: int,
        *,
        rounding: Rounding = "nearest",
        on_overflow: OnOverflow = "error",
    ) -> Mean:
        """Encrypt, upload, wait, download, decrypt: the weighted mean of all sites' updates.

        Called again with the same update after an interruption or a crash, it sends only what is missing, from the
        spool: the same bytes, never a new encryption.

        Args:
            update: named arrays, exactly the plan's tensors.
            weight: this site's sample count, 1 to the plan's cap. It is encrypted like the rest.
            rounding: "nearest", or "stochastic", which is unbiased.
            on_overflow: what values beyond the clip bound get: an "error", or "clip" to the bound.

        Raises:
            InputError: tensors or weight are not what the plan allows, or another update is stored for this round.
            TransportError: the aggregator was away for too long; the encrypted submission stays in the spool.
            ProtocolError: `ROUND_FAILED` (too few sites), `ROUND_CLOSED` (this site missed it; `fetch` gets the mean
                of the others), or the aggregator tells a history of records that contradicts what it told before.
            ConfigError: the roster has expired.
            DecryptionError: `SUM_REJECTED`: what the aggregator published is not what it must be; nothing was
                released, and the security log of the site says why.
        """
        return self._run(_flows.aggregate(self._session, self._opened, Update(update, weight, rounding, on_overflow)))

    def submit(
        self,
        update: Mapping[str, Any],
        weight: int,
        *,
        rounding: Rounding = "nearest",
        on_overflow: OnOverflow = "error",
    ) -> Receipt:
        """Encrypt and upload only. `fetch` or `resume` gets the mean later.

        Returns:
            The aggregator's promise to count the submission, or to name why not in the round's record.

        Raises:
            InputError: as for `aggregate`.
            TransportError: as for `aggregate`.
            ProtocolError: the round is closed, or the aggregator refused.
        """
        return self._run(_flows.submit(self._session, self._opened, Update(update, weight, rounding, on_overflow)))

    def resume(self) -> Mean:
        """Finish the submission that is stored for this round: send what is missing, wait, download, decrypt.

        Raises:
            InputError: nothing is stored for this round.
            TransportError: as for `aggregate`.
            ProtocolError: as for `aggregate`.
            DecryptionError: as for `aggregate`.
        """
        return self._run(_flows.resume(self._session, self._opened))

    def fetch(self) -> Mean:
        """Wait for the mean, download and decrypt it; this site need not be in it.

        Raises:
            TransportError: as for `aggregate`.
            ProtocolError: as for `aggregate`.
            DecryptionError: as for `aggregate`.
        """
        return self._run(_flows.fetch(self._session, self._opened.id, self._opened.closes_at))

    def _run(self, flow: Flow[T]) -> T:
        return self._site._run(flow, self._note)
