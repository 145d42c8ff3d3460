"""The simulated world: an aggregator in the test's own process, with real application, store and files.

Requests go through the whole application, without a socket. Time is the test's. What the background worker would do by
itself is one method each here, so that a test decides what happens between any two steps. What sites do against an
aggregator in memory, which may lie, is in flows.py; processes and sockets are in real.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from he_agg import Plan
from he_agg.documents.record import RoundRecord
from he_agg.errors import ProtocolError
from he_agg.ids import RoundId
from keys import Identity
from service.aggregator import Aggregator
from service.domain import events
from service.domain.events import Phase
from service.http.app import create_app
from service.settings import Settings
from service.store.parts.base import PartStore
from service.store.rows import Keeping, RoundRow
from service.work.folding import fold_round
from tests.support.peers import Peer, Prepared, enrol, look_up, looked_up, prepare, read_record, take_parts
from tests.support.server import NO_TLS
from tests.support.trees import digests_of

__all__ = ["Clock", "Inside", "SimulatedFederation", "snapshot"]


class Clock:
    """Stands still until a test turns it."""

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now

    def __call__(self) -> float:
        return self.now


def snapshot(data_dir: Path) -> dict[str, Any]:
    """Everything the aggregator remembers: all rows of all tables but who does what, and all files."""
    with contextlib.closing(sqlite3.connect(data_dir / "aggregator.sqlite3")) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        names.remove("leases")
        tables = {name: sorted(db.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in names}
    return {"tables": tables, "files": digests_of(data_dir / "rounds")}


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


class Inside:
    """One aggregator; `close` and `open` are a restart."""

    def __init__(
        self, data_dir: Path, clock: Callable[[], float], part_store: PartStore | None = None, **settings: Any
    ) -> None:
        self.settings = Settings(data_dir=data_dir, **{"linger_s": 0, **settings})
        self.clock = clock
        self._part_store = part_store
        self._runner = asyncio.Runner()
        self._runner.get_loop()
        self.open()

    def open(self) -> None:
        self.aggregator = Aggregator.open(self.settings, self.clock, self._part_store)
        self.app = create_app(self.settings, self.aggregator)
        self.app.state.aggregator = self.aggregator  # the lifespan, which would start the worker, does not run
        self.client = httpx.Client(
            transport=AppTransport(self.app, self._runner), base_url="http://inside", verify=NO_TLS
        )

    def close(self) -> None:
        self.aggregator.close()

    def end(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
        self._runner.close()

    def peer(self, federation: str, member: Identity) -> Peer:
        return Peer(self.client, federation, member, self.clock)

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
            self.aggregator.worker.folder.fold(round_id)

    def fold_some(self, parts: int) -> None:
        """Fold some parts and stop, as if the process had died there."""
        for round_id in self.to_fold():
            self.aggregator.conductor.apply(round_id.federation, events.FoldBegan(round_id.number, round_id.attempt))
            with self.aggregator.store.read() as tx:
                plan = tx.federation(round_id.federation).parsed.plan
            countdown = iter([False] * parts)
            stopping = partial(next, countdown, True)
            fold_round(self.aggregator.store, self.aggregator.part_store, plan, round_id, stopping)


class SimulatedFederation(Inside):
    """An aggregator with one federation, whose first round is open. Requests may go past HTTP here.

    Attributes:
        clock: stands still.
        members: all private keys.
    """

    clock: Clock

    def __init__(
        self,
        data_dir: Path,
        plan: Plan,
        sites: Iterable[str] = "abc",
        *,
        keeping: Keeping | None = None,
        clock: Clock | None = None,
        part_store: PartStore | None = None,
        holders: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(data_dir, clock or Clock(), part_store, **settings)
        self.plan, self.name = plan, plan.public.federation
        self._before = looked_up(self.name)
        self.members = enrol(
            self.aggregator.store, self.aggregator.conductor, plan, list(sites), keeping=keeping, holders=holders
        )
        self.aggregator.conductor.apply(self.name, events.Started())

    def end(self) -> None:
        """And let `prepare` go by the federation that had this name before."""
        super().end()
        look_up(self.name, self._before)

    def at(self, member: str) -> Peer:
        """A member, over HTTP."""
        return self.peer(self.name, self.members.identities[member])

    def submit(self, site: str, seed: int, round_id: str, *, complete: bool = True) -> Prepared:
        """Without its completion every part is there, but the site has not come to the end of what it sends."""
        prepared = prepare(self.plan, round_id, site, seed)
        n_parts = len(prepared.parts)
        if complete:
            take_parts(self.aggregator, self.name, site, prepared, range(n_parts))
        else:
            with pytest.raises(ProtocolError, match="1 part"):
                take_parts(self.aggregator, self.name, site, prepared, range(1, n_parts))
            assert take_parts(self.aggregator, self.name, site, prepared, range(1)) is None
        return prepared

    def fold_one(self, round_id: str) -> None:
        """Fold one closed round and publish it, and do nothing else."""
        number = RoundId.parse(round_id)
        self.aggregator.conductor.apply(self.name, events.FoldBegan(number.number, number.attempt))
        assert fold_round(self.aggregator.store, self.aggregator.part_store, self.plan.public, number)
        self.aggregator.conductor.apply(self.name, events.Folded(number.number, number.attempt))

    def row(self, round_id: str) -> RoundRow | None:
        with self.aggregator.store.read() as tx:
            return tx.round(RoundId.parse(round_id))

    def record(self, round_id: str) -> RoundRecord:
        row = self.row(round_id)
        assert row is not None
        assert row.record is not None
        return read_record(row.record)
