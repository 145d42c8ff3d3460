"""`AsyncSite`: the verbs of `Site` on asyncio. CPU and file work runs in threads, so the event loop stays free."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Self, TypeVar, Unpack

from client_sdk._base import RoundBase, SiteBase
from client_sdk._effects import Flow
from client_sdk._net.transport import AsyncTransport
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.poll import last_published, next_round, open_round, status
from client_sdk.federated import Outcome, Sending, Update
from client_sdk.progress import Listener
from he_agg.documents.state import FederationState
from he_agg.ids import RoundId
from he_agg.plan.fixedpoint import Mean
from he_agg.protocol.messages import Receipt

__all__ = ["AsyncRound", "AsyncSite"]

T = TypeVar("T")


class AsyncSite(SiteBase):
    """One hospital in one federation, on asyncio. `Site` documents the verbs and what they raise.

    `open` and `pending` block for as long as reading a few files takes.
    """

    _connect = AsyncTransport
    _transport: AsyncTransport

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def rounds(self) -> AsyncIterator[AsyncRound]:
        """Yield every round that this site is invited to, as it opens; see `Site.rounds`."""
        after: str | None = None
        while (opened := await self._run(next_round(self._session, after))) is not None:
            after = str(opened.id)
            yield AsyncRound(self, opened)

    async def current(self) -> AsyncRound | None:
        """Return the round that is open now, without waiting; see `Site.current`."""
        opened = await self._run(open_round(self._session))
        return None if opened is None else AsyncRound(self, opened)

    async def status(self) -> FederationState:
        """Tell where the federation stands; see `Site.status`."""
        return await self._run(status(self._session))

    async def last_published(self) -> str | None:
        """Return the id of the newest round with a mean; see `Site.last_published`."""
        found = await self._run(last_published(self._session))
        return None if found is None else str(found)

    async def fetch(self, round_id: str | None = None) -> Mean:
        """Wait for the mean of a round, download and decrypt it; see `Site.fetch`."""
        if round_id is None:
            return await self._run(_flows.fetch_latest(self._session))
        return await self._run(_flows.fetch(self._session, RoundId.parse(round_id)))

    async def close(self) -> None:
        """Close the connections to the aggregator."""
        self._closed = True
        await self._transport.close()

    async def _run(self, flow: Flow[T], note: Listener | None = None) -> T:
        self._check_open()
        return await self._transport.run(flow, self._heard(note))


class AsyncRound(RoundBase):
    """One open round. `Round` documents the verbs and what they raise.

    A cancelled call ends after the step under way; calling it again goes on from the spool.
    """

    async def take_part(
        self, update: Mapping[str, Any] | None = None, weight: int | None = None, **how: Unpack[Sending]
    ) -> Outcome:
        """Encrypt, upload, wait, download, decrypt, and say how the round went; see `Round.take_part`."""
        made = self._given(update, weight, **how)
        return await self._run(_flows.take_part(self._session, self._opened, made))

    async def aggregate(self, update: Mapping[str, Any], weight: int, **how: Unpack[Sending]) -> Mean:
        """Encrypt, upload, wait, download, decrypt; see `Round.aggregate`."""
        return await self._run(_flows.aggregate(self._session, self._opened, Update(update, weight, **how)))

    async def submit(self, update: Mapping[str, Any], weight: int, **how: Unpack[Sending]) -> Receipt:
        """Encrypt and upload only; see `Round.submit`."""
        return await self._run(_flows.submit(self._session, self._opened, Update(update, weight, **how)))

    async def resume(self) -> Mean:
        """Finish the submission that is stored for this round; see `Round.resume`."""
        return await self._run(_flows.resume(self._session, self._opened))

    async def fetch(self) -> Mean:
        """Wait for the mean, download and decrypt it; see `Round.fetch`."""
        return await self._run(_flows.fetch(self._session, self._opened.id, self._opened.closes_at))

    async def _run(self, flow: Flow[T]) -> T:
        site: AsyncSite = self._site
        return await site._run(flow, self._note)
