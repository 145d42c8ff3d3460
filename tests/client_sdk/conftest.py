"""One real aggregator for all tests of the SDK and its toolkits, and federations on it."""

from __future__ import annotations

import itertools

import pytest

from client_sdk.local import local_federation
from tests.support.real import Hospitals
from tests.support.server import QUICK, start_server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def aggregator(tmp_path_factory):
    """An aggregator that tests share. Do not kill it."""
    with start_server(tmp_path_factory.mktemp("sdk") / "data", environment=QUICK) as server:
        yield server


@pytest.fixture(scope="session")
def hospitals(aggregator):
    """Founds federations of sites with keys and files, on the shared aggregator or another."""

    def found(root, server=None, *, start=True, holders=(), **options) -> Hospitals:
        plan = Hospitals.plan_of(f"sdk-{next(_numbers)}", **options)
        return Hospitals(server or aggregator, root, plan, start=start, holders=holders)

    return found


@pytest.fixture
def federate(hospitals, tmp_path):
    """Founds federations on the shared aggregator, with files in the test's own directory."""

    def found(**options) -> Hospitals:
        return hospitals(tmp_path, **options)

    return found


@pytest.fixture
def name():
    """A federation's name that is free on the aggregator."""
    return f"toolkit-{next(_numbers)}"


@pytest.fixture
def running(aggregator):
    """`local_federation` on the shared aggregator."""

    def run(plan, sites=3, options=()):
        return local_federation(plan, sites, aggregator=aggregator, options=options)

    return run
