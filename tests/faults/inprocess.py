"""An aggregator in the test's own process: real application, store and files; background work only when told to.

Requests go through the whole application, without a socket. Time is the test's. What the background worker would do by
itself is one method each here, so that a test decides what happens between any two steps.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path

import httpx

from he_agg.ids import RoundId
from keys import Identity
from service.aggregator import Aggregator
from service.domain import events
from service.domain.events import Phase
from service.http.app import create_app
from service.settings import Settings
from service.work.ahead import Ahead
from service.work.folding import fold_round
from tests.support.peers import Peer


class AppTransport(httpx.BaseTransport):
    """httpx to an ASGI application, from code that is not asynchronous."""

    def __init__(self, app, runner: asyncio.Runner) -> None:
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._runner = runner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def ask() -> httpx.Response:
            answer = await self._inner.handle_async_request(request)
            content = await answer.aread()
            return httpx.Response(answer.status_code, headers=answer.headers, content=content)

        return self._runner.run(ask())


class _Here(Executor):
    """Does what it is given before it returns."""

    def submit(self, work, /, *arguments, **named) -> Future:
        future: Future = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:  # the power going is none: it ends the test's process, as it were
            future.set_exception(error)
        return future


class _AtOnce(Aggregator):
    """Makes parts of sums ahead when they can be made, and not some time later in a thread."""

    def make_ahead(self) -> Ahead:
        return Ahead(self.store, self.part_store, _Here())


class Inside:
    """One aggregator; `close` and `open` are a restart."""

    def __init__(self, data_dir: Path, clock: Callable[[], float], part_store=None, **settings) -> None:
        self.settings = Settings(data_dir=data_dir, linger_s=0, **settings)
        self._clock = clock
        self._part_store = part_store
        self._runner = asyncio.Runner()
        self._runner.get_loop()
        self.open()

    def open(self) -> None:
        self.aggregator = _AtOnce.open(self.settings, self._clock, self._part_store)
        self.app = create_app(self.settings, self.aggregator)
        self.app.state.aggregator = self.aggregator  # the lifespan, which would start the worker, does not run
        self.client = httpx.Client(transport=AppTransport(self.app, self._runner), base_url="http://inside")

    def close(self) -> None:
        self.aggregator.close()

    def end(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
        self._runner.close()

    def peer(self, federation: str, member: Identity) -> Peer:
        return Peer(self.client, federation, member, self._clock)

    # background work, one step at a time

    def look(self) -> None:
        """Deadlines, expiry and scrubbing."""
        self.aggregator.worker._look()

    def to_fold(self) -> list[RoundId]:
        with self.aggregator.store.read() as tx:
            return [row.id for row in tx.rounds_in([Phase.CLOSED, Phase.FOLDING])]

    def fold(self) -> None:
        """Fold what is closed, and publish it."""
        for round_id in self.aggregator.worker._look()[1]:
            self.aggregator.worker._fold_now(round_id)

    def fold_some(self, parts: int) -> None:
        """Fold some parts and stop, as if the process had died there."""
        for round_id in self.to_fold():
            self.aggregator.conductor.apply(round_id.federation, events.FoldBegan(round_id.number, round_id.attempt))
            with self.aggregator.store.read() as tx:
                plan = tx.federation(round_id.federation).parsed.plan
            countdown = iter([False] * parts)
            stopping = partial(next, countdown, True)
            fold_round(self.aggregator.store, self.aggregator.part_store, plan, round_id, stopping)
