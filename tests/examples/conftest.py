"""Examples as they stand, but for the processes that they start: these are forked, since importing takes seconds."""

from __future__ import annotations

from functools import partial

import pytest

from he_agg.host.processes import AggregatorProcess
from tests.support.server import server_zygote


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """The aggregator of a local federation, and the operator's commands."""
    monkeypatch.setattr("client_sdk.local.AggregatorProcess", partial(AggregatorProcess, spawn=server_zygote().spawn))
