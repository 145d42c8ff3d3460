"""Decisions that share a commit: each is made once, and nobody hears of one before it, or of one that was undone."""

import contextlib
import threading
from typing import Any

import pytest

from he_agg.errors import Reason
from service.core.documents import Documents
from service.domain.events import Stage
from service.refusal import RefusedError
from service.store import sql
from service.store.batch import Batch
from service.store.rows import FederationRow


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


def test_a_refused_document_undoes_itself_alone(tmp_path):
    """Documents that share a commit: what the refused ones had written is gone, the others are there."""
    store: Any = sql.Store(f"sqlite:///{tmp_path / 'rows.sqlite3'}", busy_timeout_s=10, create=True)
    documents, commits = Documents(store), []
    told: dict[str, Any] = {}
    store.on_write = commits.append

    def accept(tx, document):
        tx.add_federation(FederationRow(document.decode(), document, Stage.CREATED, 1))
        if int(document[1:]) % 3 == 0:
            raise RefusedError(Reason.FORBIDDEN, document.decode())
        return int(document[1:]) % 3 == 1

    def send(name):
        try:
            told[name] = documents.take(name.encode(), accept, lambda tx: tx.federation(name) is not None)
        except RefusedError as refusal:
            told[name] = refusal.message

    names = [f"f{number}" for number in range(1, 31)]
    threads = [threading.Thread(target=send, args=(name,)) for name in names]
    with store.write():  # until all of them wait
        for thread in threads:
            thread.start()
        while len(documents._decisions._queue) < len(names) - 1:
            pass
    for thread in threads:
        thread.join()
    assert told == {
        name: name if number % 3 == 0 else (number % 3 == 1, number % 3 == 1) for number, name in enumerate(names, 1)
    }
    assert len(commits) == 3
    with store.read() as tx:
        assert {row.name for row in tx.federations()} == {name for name in names if int(name[1:]) % 3}
    store.close()
