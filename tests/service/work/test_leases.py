"""Leases: taken once, taken over when they have run out, and never written under by whoever lost one."""

import pytest

from service.store.sql import Store
from service.work.leases import LeaseLostError, Leases
from tests.support.simulated import Clock


@pytest.fixture
def store(database_url):
    opened = Store(database_url, busy_timeout_s=10, create=True)
    yield opened
    opened.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def replicas(store, clock):
    return Leases(store, clock, 30), Leases(store, clock, 30)


def test_one_holder_at_a_time(store, clock, replicas):
    one, two = replicas
    lease = one.take("fold:f.1.1")
    assert two.take("fold:f.1.1") is None
    assert one.take("fold:f.1.1") is None  # also within one process
    assert two.take("fold:g.1.1") is not None
    with store.read() as tx:
        assert not two.is_free(tx, "fold:f.1.1")
        assert tx.lease("fold:f.1.1").holder == one.holder != two.holder
    one.release(lease)
    assert two.take("fold:f.1.1") is not None


def test_using_it_makes_it_last(store, clock, replicas):
    one, two = replicas
    lease = one.take("sweep")
    for _ in range(5):
        clock.now += 29
        with store.write() as tx:
            one.hold(tx, lease)
        assert two.take("sweep") is None
    clock.now += 30
    assert two.take("sweep") is not None


def test_who_slept_too_long_writes_nothing(store, clock, replicas):
    one, two = replicas
    lease = one.take("sweep")
    clock.now += 31
    taken_over = two.take("sweep")

    def write():
        with store.write() as tx:
            tx.bump()
            one.hold(tx, lease)

    with pytest.raises(LeaseLostError):
        write()
    one.release(lease)  # and takes nothing from the other
    with store.write() as tx:
        assert tx.generation() == 0
        two.hold(tx, taken_over)


def test_a_late_holder_that_nobody_replaced_goes_on(store, clock, replicas):
    one, _ = replicas
    lease = one.take("sweep")
    clock.now += 1000
    with store.write() as tx:
        one.hold(tx, lease)


def test_leases_are_found_and_dropped_by_the_beginning_of_their_names(store, clock, replicas):
    one, two = replicas
    for name in ("fold:a_b.1.1:0", "fold:a_b.1.1:1", "fold:axb.1.1:0", "fold:a_b.1.10:0", "sweep"):
        assert one.take(name)
    clock.now += 31
    assert two.take("fold:a_b.1.1:1")
    with store.write() as tx:
        assert two.taken(tx, "fold:a_b.1.1:") == {"fold:a_b.1.1:1"}  # the other has run out
        tx.drop_leases("fold:a_b.1.1:")
        assert [row.name for row in tx.leases("")] == ["fold:a_b.1.10:0", "fold:axb.1.1:0", "sweep"]
        tx.drop_leases()
        assert tx.leases("") == []
