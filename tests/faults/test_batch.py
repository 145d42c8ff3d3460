"""Decisions that share a commit: each is made once, and nobody hears of one before it, or of one that was undone."""

import contextlib
import threading
from typing import Any

import pytest

from service.store.batch import Batch


class Store:
    """Counts transactions; the first one waits until it is let go, so that others queue up behind it."""

    def __init__(self, failing: int | None = None) -> None:
        self.begun = self.committed = 0
        self.go = threading.Event()
        self._failing = failing

    @contextlib.contextmanager
    def write(self):
        self.begun += 1
        assert self.go.wait(10)
        yield self
        if self.begun == self._failing:
            raise OSError(28, "full")
        self.committed += 1


def run_all(store, decide, items):
    batch, outcomes, errors = Batch(store, decide), {}, {}

    def one(item):
        try:
            outcomes[item] = (batch.run(item), store.committed)
        except OSError as error:
            errors[item] = error

    threads = [threading.Thread(target=one, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    while len(batch._queue) < len(items) - 1:  # the first is in its transaction
        pass
    store.go.set()
    for thread in threads:
        thread.join()
    return outcomes, errors


def test_who_waits_together_is_committed_together():
    store, decided = Store(), []
    outcomes, errors = run_all(store, lambda _, item: decided.append(item) or item * 2, range(20))
    assert not errors
    assert sorted(decided) == list(range(20))
    assert {item: outcome for item, (outcome, _) in outcomes.items()} == {item: item * 2 for item in range(20)}
    assert store.committed == 2
    assert all(committed >= 1 for _, committed in outcomes.values()), "answered before the commit"


def test_what_was_undone_is_told_to_all_who_shared_it():
    store = Store(failing=2)
    outcomes, errors = run_all(store, lambda _, item: item, range(10))
    assert (len(outcomes), len(errors)) == (1, 9)
    assert store.committed == 1


def test_a_batch_goes_on_after_a_failure():
    store: Any = Store(failing=1)
    store.go.set()
    batch = Batch(store, lambda _, item: item)
    with pytest.raises(OSError, match="full"):
        batch.run(1)
    assert batch.run(2) == 2
