"""Many small decisions in one transaction: whoever waits for the store's one writer goes in with the next who gets it.

A commit costs an fsync whatever is in it, and parts come in dozens at a time. Nobody is answered before the commit that
holds its decision, and each decision is made within that transaction, as if alone: only the commit is shared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["Batch"]

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _Waiting(Generic[Item, Outcome]):
    def __init__(self, item: Item) -> None:
        self.item = item
        self.done = False
        self.outcome: list[Outcome] = []
        self.error: BaseException | None = None


class Batch(Generic[Item, Outcome]):
    """Decisions of one kind.

    Args:
        decide: makes one decision within a transaction. It returns refusals instead of raising them: whatever it
            raises undoes the decisions of all who share the transaction, who are all told so.
    """

    def __init__(self, store: Store, decide: Callable[[Transaction, Item], Outcome]) -> None:
        self._store = store
        self._decide = decide
        self._queue: list[_Waiting[Item, Outcome]] = []
        self._queue_lock = threading.Lock()
        self._leader = threading.Lock()

    def run(self, item: Item) -> Outcome:
        """Decide on one item. Returns when that is durable."""
        mine: _Waiting[Item, Outcome] = _Waiting(item)
        with self._queue_lock:
            self._queue.append(mine)
        with self._leader:
            if not mine.done:
                with self._queue_lock:
                    together, self._queue = self._queue, []
                self._run_together(together)
        if mine.error is not None:
            raise mine.error
        return mine.outcome[0]

    def _run_together(self, together: list[_Waiting[Item, Outcome]]) -> None:
        error: BaseException | None = None
        try:
            with self._store.write() as tx:
                for waiting in together:
                    waiting.outcome = [self._decide(tx, waiting.item)]
        except BaseException as caught:
            error = caught
        for waiting in together:
            waiting.error, waiting.done = error, True
