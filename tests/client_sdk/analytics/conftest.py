"""Federations for analyses on the aggregator that the SDK's tests share."""

from __future__ import annotations

import itertools

import pytest

from client_sdk import analytics
from client_sdk.local import local_federation, plan_for
from tests.client_sdk.analytics.comparing import bits

_numbers = itertools.count(1)


@pytest.fixture
def federate(aggregator):
    """Founds a federation for analyses."""

    def found(*questions, sites=3, **options):
        options = {"value_bits": analytics.VALUE_BITS, "name": f"analytics-{next(_numbers)}", **options}
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
