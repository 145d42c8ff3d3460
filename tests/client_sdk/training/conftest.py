"""One aggregator for all tests of training, and federations on it."""

import itertools

import pytest

from client_sdk.local import local_federation
from tests.support.server import QUICK, start_server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def aggregator(tmp_path_factory):
    with start_server(tmp_path_factory.mktemp("training") / "data", environment=QUICK) as server:
        yield server


@pytest.fixture
def name():
    """A federation's name that is free on the aggregator."""
    return f"training-{next(_numbers)}"


@pytest.fixture
def running(aggregator):
    """`local_federation` on the shared aggregator."""

    def run(plan, sites=3, options=()):
        return local_federation(plan, sites, aggregator=aggregator, options=options)

    return run
