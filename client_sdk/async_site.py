"""`AsyncSite`: the verbs of `Site` on asyncio. CPU and file work runs in threads, so the event loop stays free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

from client_sdk._net.transport import AsyncTransport, TlsFiles
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

__all__ = ["AsyncRound", "AsyncSite"]

T = TypeVar("T")


class AsyncSite:
    """One hospital in one federation, on asyncio. `Site` documents the verbs and what they raise."""

    def __init__(self, session: Session, transport: AsyncTransport, listener: Listener | None = None) -> None:
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
        """Load identity, group key and roster; see `Site.open`. Blocks for as long as reading a few files takes.

        Args:
            config: the site's TOML file.
            passphrase: opens keystore and identity, or asks for what does.
            progress: called in the event loop with each `Event`.
            settings: settings by name, over those of the file.

        Raises:
            ConfigError: settings that do not make sense.
            KeystoreError: a secret file that must not be used.
        """
        loaded = Settings.load(config, settings)
        forbid_core_dumps()
        session = open_session(loaded, passphrase)
        tls = TlsFiles(loaded.ca_file, loaded.client_cert, loaded.client_key)
        return cls(session, AsyncTransport(loaded.url, session.signer, tls), progress)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncSite({self.name!r}, federation={self.federation!r})"

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

    async def rounds(self) -> AsyncIterator[AsyncRound]:
        """Yield every round that this site is invited to, as it opens; see `Site.rounds`."""
        after: str | None = None
        while True:
            opened = await self._run(next_round(self._session, after))
            if opened is None:
                return
            after = str(opened.id)
            await asyncio.to_thread(self._session.spool.prune, opened.id)
            yield AsyncRound(self, opened)

    async def current(self) -> AsyncRound | None:
        """Return the round that is open now, without waiting; see `Site.current`."""
        opened = await self._run(open_round(self._session))
        return None if opened is None else AsyncRound(self, opened)

    async def status(self) -> CurrentRound:
        """Tell where the federation stands; see `Site.status`."""
        return await self._run(current_round(self._session))

    def pending(self) -> list[str]:
        """Return ids of rounds whose submission is in the spool; see `Site.pending`."""
        return [str(round_id) for round_id in self._session.spool.pending(self.federation)]

    async def fetch(self, round_id: str | None = None) -> Mean:
        """Wait for the mean of a round, download and decrypt it; see `Site.fetch`."""
        if round_id is None:
            return await self._run(_flows.fetch_latest(self._session))
        return await self._run(_flows.fetch(self._session, RoundId.parse(round_id)))

    async def close(self) -> None:
        """Close the connections to the aggregator."""
        await self._transport.close()

    async def _run(self, flow: Flow[T], note: Listener | None = None) -> T:
        def listener(event: Event) -> None:
            if note is not None:
                note(event)
            if self._listener is not None:
                self._listener(event)

        return await self._transport.run(flow, listener)


class AsyncRound(RoundBase):
    """One open round. Train, then `aggregate`. `Round` documents the verbs and what they raise."""

    def __init__(self, site: AsyncSite, opened: OpenRound) -> None:
        super().__init__(site._session, opened)
        self._site = site

    async def aggregate(
        self,
        update: Mapping[str, Any],
        weight: int,
        *,
        rounding: Rounding = "nearest",
        on_overflow: OnOverflow = "error",
    ) -> Mean:
        """Encrypt, upload, wait, download, decrypt; see `Round.aggregate`.

        A cancelled call ends after the step under way; calling it again goes on from the spool.
        """
        return await self._run(
            _flows.aggregate(self._session, self._opened, Update(update, weight, rounding, on_overflow))
        )

    async def submit(
        self,
        update: Mapping[str, Any],
        weight: int,
        *,
        rounding: Rounding = "nearest",
        on_overflow: OnOverflow = "error",
    ) -> Receipt:
        """Encrypt and upload only; see `Round.submit`."""
        return await self._run(
            _flows.submit(self._session, self._opened, Update(update, weight, rounding, on_overflow))
        )

    async def resume(self) -> Mean:
        """Finish the submission that is stored for this round; see `Round.resume`."""
        return await self._run(_flows.resume(self._session, self._opened))

    async def fetch(self) -> Mean:
        """Wait for the mean, download and decrypt it; see `Round.fetch`."""
        return await self._run(_flows.fetch(self._session, self._opened.id, self._opened.closes_at))

    async def _run(self, flow: Flow[T]) -> T:
        return await self._site._run(flow, self._note)
