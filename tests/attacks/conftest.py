"""Hospitals and a liar between them and one real aggregator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.deceived import Deceived
from tests.support.real import SITES
from tests.support.server import QUICK, start_server


@pytest.fixture(scope="session")
def aggregator(tmp_path_factory) -> Iterator:
    """A real aggregator that all attacks share; each has a federation of its own."""
    with start_server(tmp_path_factory.mktemp("attacks") / "data", environment=QUICK) as server:
        yield server


@pytest.fixture
def found(aggregator, tmp_path) -> Iterator:
    """Founds worlds."""
    worlds = []

    def make(**options) -> Deceived:
        world = Deceived(aggregator, tmp_path, **options)
        worlds.append(world)
        world.liar.__enter__()
        for name in SITES:
            world.open(name)
        return world

    yield make
    for world in worlds:
        for site in world.open_sites.values():
            site.close()
        world.close()
        world.liar.__exit__()


@pytest.fixture
def world(found) -> Deceived:
    """One world with an open round."""
    return found()
