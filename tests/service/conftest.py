"""One real server for most tests, each with a federation of its own that is registered while the server runs."""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from he_agg import Plan
from service.domain.events import Phase
from service.operator import operations
from tests.support.peers import Peer, make_plan, operator, register
from tests.support.postgres import running_postgres
from tests.support.server import ServerProcess, start_server

QUICK = {"HE_AGG_RECHECK_S": "0.05", "HE_AGG_LINGER_S": "0.5"}
_numbers = itertools.count(1)


def snapshot(data_dir: Path) -> dict[str, Any]:
    """Everything the aggregator remembers: all rows of all tables but who does what, and all files."""
    with closing(sqlite3.connect(data_dir / "aggregator.sqlite3")) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        names.remove("leases")
        tables = {name: sorted(db.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in names}
    root = data_dir / "rounds"
    files = {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }
    return {"tables": tables, "files": files}


class World:
    """A federation on a server, and its sites."""

    def __init__(self, server: ServerProcess, plan: Plan, sites: list[str], *, start: bool = True) -> None:
        self.server = server
        self.plan = plan
        self.name = plan.public.federation
        self.sites = sites
        self.members = register(server.data_dir, plan, sites, start=start)
        self.client = httpx.Client(base_url=server.url, timeout=30)
        self.peers = {name: Peer(self.client, self.name, member) for name, member in self.members.items()}

    def peer(self, site: str | None = None) -> Peer:
        return self.peers[self.sites[0] if site is None else site]

    @property
    def round_id(self) -> str:
        """The open round."""
        answer = self.peer().current(wait=5).json()
        assert answer["round_id"], answer
        return answer["round_id"]

    def snapshot(self) -> dict[str, Any]:
        return snapshot(self.server.data_dir)

    def close(self) -> None:
        self.client.close()

    def end(self) -> None:
        """End the federation and wait until nothing of it is left to do: other tests compare whole stores."""
        with operator(self.server.data_dir) as (store, conductor):
            operations.end(store, conductor, self.name)
        self.rest()

    def rest(self) -> None:
        """Wait until the aggregator has nothing left to do by itself."""
        with operator(self.server.data_dir) as (store, _):
            for _ in range(1000):
                with store.read() as tx:
                    busy = [*tx.rounds_in([Phase.CLOSED, Phase.FOLDING]), *tx.unscrubbed(), *tx.sums_to_remove()]
                if not busy:
                    return
                time.sleep(0.01)
            raise AssertionError(f"the aggregator does not come to rest: {busy}")


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    """A server that tests share. Do not kill it: start one of your own for that."""
    with start_server(tmp_path_factory.mktemp("shared") / "data", environment=QUICK) as server:
        yield server


@pytest.fixture
def make_world(request):
    """Makes federations: on the shared server, or on one given."""
    worlds: list[tuple[World, bool]] = []

    def make(sites=("a", "b", "c"), *, server: ServerProcess | None = None, start: bool = True, **options) -> World:
        target = server if server is not None else request.getfixturevalue("shared_server")
        plan = make_plan(f"federation-{next(_numbers)}", **options)
        world = World(target, plan, list(sites), start=start)
        worlds.append((world, server is None))
        return world

    yield make
    for world, shared in worlds:
        world.close()
        if shared:
            world.end()


@pytest.fixture
def world(make_world):
    """A running federation of the sites a, b and c."""
    return make_world()


@pytest.fixture
def own_server(tmp_path):
    """A server of the test's own, to kill."""
    with start_server(tmp_path / "data", environment=QUICK) as server:
        yield server


@pytest.fixture(scope="session")
def postgres():
    """A real PostgreSQL, started when the first test needs it."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'aggregator.sqlite3'}"
    return request.getfixturevalue("postgres").new_database()
