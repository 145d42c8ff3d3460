"""A watched server, and federations on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.service.monitor.watched import Watched, watched_server
from tests.support.peers import make_plan
from tests.support.real import RealFederation


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A watched server that the tests of a module share."""
    with watched_server(tmp_path_factory.mktemp("watched") / "data") as watched:
        yield watched


@pytest.fixture
def world_on() -> Iterator[Callable[..., RealFederation]]:
    """Makes federations on a watched server."""
    worlds: list[RealFederation] = []

    def make(watched: Watched, name: str, sites=("a", "b", "c"), holders=(), **options: Any) -> RealFederation:
        plan = make_plan(name, split=bool(holders), **options)
        worlds.append(RealFederation(watched.server, plan, sites, holders=holders))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()
