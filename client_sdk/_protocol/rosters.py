"""Fetch rosters. Nothing is proven about them yet: who trusts one follows the next by their signatures."""

from __future__ import annotations

from functools import partial
from typing import Literal

from client_sdk._effects import Flow, Request, compute
from client_sdk._protocol.exchange import Retries, exchange
from he_agg.documents.roster import MAX_ROSTER_BYTES, Roster
from he_agg.documents.signed import Signed

__all__ = ["fetch_roster"]


def fetch_roster(retries: Retries, federation: str, which: int | Literal["newest"]) -> Flow[Signed[Roster]]:
    """Fetch one version. Ask for the newest first: a version that is not there is an error, at the aggregator too.

    Raises:
        WireError: what came is not a signed roster.
    """
    path = f"/v1/federations/{federation}/rosters/{which}"
    request = Request("GET", path, frozenset({200}), max_bytes=MAX_ROSTER_BYTES)
    response = yield from exchange(retries, request)
    return (yield from compute(partial(Signed.parse, Roster, response.body)))
