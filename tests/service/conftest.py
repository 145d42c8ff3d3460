"""One real server for most tests, each with a federation of its own that is founded while the server runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from tests.support.peers import make_plan
from tests.support.real import RealFederation
from tests.support.server import QUICK, ServerProcess, start_server
from tests.support.simulated import SimulatedFederation

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    """A server that tests share. Do not kill it: start one of your own for that."""
    with start_server(tmp_path_factory.mktemp("shared") / "data", environment=QUICK) as server:
        yield server


@pytest.fixture
def make_world(request):
    """Makes federations: on the shared server, or on one given."""
    worlds: list[tuple[RealFederation, bool]] = []

    def make(
        sites=("a", "b", "c"),
        *,
        server: ServerProcess | None = None,
        start: bool = True,
        holders: Sequence[str] = (),
        **options,
    ) -> RealFederation:
        target = server if server is not None else request.getfixturevalue("shared_server")
        plan = make_plan(f"federation-{next(_numbers)}", split=bool(holders), **options)
        world = RealFederation(target, plan, sites, start=start, holders=holders)
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
def inside(tmp_path):
    """A simulated federation `f` of the sites a, b and c."""
    opened = SimulatedFederation(tmp_path / "data", make_plan("f", deadline_s=100))
    yield opened
    opened.end()


@pytest.fixture
def own_server(tmp_path):
    """A server of the test's own, to kill."""
    with start_server(tmp_path / "data", environment=QUICK) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'aggregator.sqlite3'}"
    return request.getfixturevalue("postgres").new_database()
