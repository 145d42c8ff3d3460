"""Founds federations on an aggregator's store, as the operator's commands do, without a process for each."""

from __future__ import annotations

from pathlib import Path

from he_agg.documents.roster import Member, Roster
from he_agg.documents.signed import Signed
from keys import GroupKey
from service.core.aggregator_key import AggregatorKey
from service.domain import events
from service.operator import operations
from tests.support.peers import operator

__all__ = ["aggregator_of", "found"]


def aggregator_of(data_dir: Path) -> Member:
    """The aggregator of this data directory, as a roster lists it."""
    return AggregatorKey.load_or_create(data_dir).member


def found(data_dir: Path, key: GroupKey, roster: Signed[Roster], *, start: bool = True) -> None:
    """Create a federation, and start it unless told otherwise.

    Args:
        data_dir: the aggregator's.
        key: whose public facts the aggregator gets.
        roster: who belongs to it.
        start: whether rounds begin.
    """
    with operator(data_dir) as (store, conductor):
        operations.create_federation(store, conductor, key.federation_document, roster.encode())
        if start:
            conductor.apply(key.plan.public.federation, events.Started())
