"""One aggregator for all analyses, and federations on it."""

from __future__ import annotations

import itertools

import pytest

from client_sdk import analytics
from client_sdk.local import local_federation, plan_for
from tests.support.server import QUICK, start_server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def aggregator(tmp_path_factory):
    """An aggregator that tests share."""
    with start_server(tmp_path_factory.mktemp("analytics") / "data", environment=QUICK) as server:
        yield server


@pytest.fixture
def federate(aggregator):
    """Founds a federation for analyses."""

    def found(*questions, sites=3, **options):
        options = {"value_bits": analytics.VALUE_BITS, "name": f"analytics-{next(_numbers)}"} | options
        plan = plan_for(analytics.layout_for(*questions), sites, **options)
        return local_federation(plan, sites, aggregator=aggregator)

    return found


@pytest.fixture
def ask(federate):
    """Ask one question at all sites; all results must be the same to the bit."""

    def asked(question, shares):
        with federate(question, sites=len(shares)) as federation:
            results = federation.everywhere(lambda site, i: analytics.run(site, question, *shares[i]))
        first = bits(results[0])
        assert all(bits(result) == first for result in results[1:])
        return results[0]

    return asked


def bits(value):
    """Everything in a result, for comparisons to the bit."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: bits(getattr(value, name)) for name in value.__dataclass_fields__}
    if hasattr(value, "mask"):
        return value.filled(-1).tobytes(), value.mask.tobytes()
    if hasattr(value, "tobytes"):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: bits(member) for key, member in value.items()}
    return repr(value)


def split(rng, rows, parts=3):
    """Unequal shares of the row numbers, none empty."""
    cuts = np_sorted_cuts(rng, rows, parts)
    order = rng.permutation(rows)
    return [order[a:b] for a, b in itertools.pairwise([0, *cuts, rows])]


def np_sorted_cuts(rng, rows, parts):
    return sorted(rng.choice(range(1, rows), size=parts - 1, replace=False).tolist())
