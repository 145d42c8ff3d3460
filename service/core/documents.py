"""Signed documents come in: each is accepted or refused by itself, and those that wait together share a commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from he_agg.errors import HeAggError
from service.store.batch import Batch
from service.store.failures import StoreError
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["Documents"]

Accept = Callable[[Transaction, bytes], bool]
Awaited = Callable[[Transaction], bool]


class _Sent(NamedTuple):
    document: bytes
    accept: Accept
    awaited: Awaited


class _Taken(NamedTuple):
    new: bool
    awaited: bool


class Documents:
    """Takes documents in."""

    def __init__(self, store: Store) -> None:
        self._decisions = Batch(store, _decide)

    def take(self, document: bytes, accept: Accept, awaited: Awaited) -> tuple[bool, bool]:
        """Accept a document. Returns when that is durable.

        Args:
            accept: writes what follows from it, and tells whether it is new. What it raises undoes that.
            awaited: asked after a new document whether anybody waits for what is there now.

        Returns:
            Whether it is new, and awaited.
        """
        outcome = self._decisions.run(_Sent(document, accept, awaited))
        if isinstance(outcome, HeAggError):
            raise outcome
        return outcome


def _decide(tx: Transaction, sent: _Sent) -> _Taken | HeAggError:
    try:
        with tx.apart():
            new = sent.accept(tx, sent.document)
            return _Taken(new, new and sent.awaited(tx))
    except StoreError:
        raise
    except HeAggError as refusal:
        return refusal
