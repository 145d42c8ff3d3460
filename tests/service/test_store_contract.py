"""What every store has to do: one suite, run against SQLite and against a real PostgreSQL."""

import threading
import time

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError

from he_agg.ids import RoundId
from service.rounds import Phase, Round, Stage
from service.store.base import DamagedPart, FederationRow, Keeping, LeaseRow, PartRow, SiteRow, SubmissionRow
from service.store.sql import SqlStore

SITES = ("a", "b", "c")
ONE, TWO, THREE = RoundId("f", 1, 1), RoundId("f", 1, 2), RoundId("f", 2, 1)
LATE = 2**33  # after 2038
DIGESTS = ["d0" * 32, "d1" * 32]


@pytest.fixture
def stores(database_url):
    """Two stores on one database, as two processes have them."""
    opened = [SqlStore(database_url, busy_timeout_s=10, create=True) for _ in range(2)]
    yield opened
    for store in opened:
        store.close()


@pytest.fixture
def store(stores):
    return stores[0]


def open_round(tx, round_id, sites=SITES, phase=Phase.OPEN):
    tx.open_round(round_id, Round(round_id.number, round_id.attempt, Phase.OPEN, LATE, LATE + 60, frozenset(sites)))
    if phase is not Phase.OPEN:
        tx.end_round(round_id, phase, b"record", "ab" * 32, LATE)


def submit(tx, site, round_id=ONE, state="open"):
    row = SubmissionRow(f"{site}{round_id.number}{round_id.attempt}" * 16, round_id, site, state, None)
    tx.add_submission(row, b"manifest \0", DIGESTS, LATE)
    if state == "complete":
        tx.accept(row.id, LATE + 1)
    return row


@pytest.fixture
def filled(store):
    with store.write() as tx:
        tx.add_federation(FederationRow("f", b"document \0", Stage.CREATED, LATE, None, Keeping(0.5, 3, True)))
        tx.add_federation(FederationRow("e", b"another", Stage.CREATED, LATE))
        for number, site in enumerate(SITES):
            tx.add_site(SiteRow("f", site, LATE), f"{number:064}")
    return store


def test_federations_and_sites(filled):
    with filled.write() as tx:
        tx.set_stage("f", Stage.PAUSED)
        tx.set_paused("f", LATE + 5)
        tx.set_token("f", "b", "9" * 64)
    with filled.read() as tx:
        row = tx.federation("f")
        assert row == FederationRow("f", b"document \0", Stage.PAUSED, LATE, LATE + 5, Keeping(0.5, 3, True))
        assert tx.federation("g") is None
        assert [row.name for row in tx.federations()] == ["e", "f"]
        assert tx.federation("e").keeping == Keeping()
        assert [site.name for site in tx.sites("f")] == list(SITES)
        assert tx.sites("e") == []
        assert tx.site_of_token("9" * 64) == SiteRow("f", "b", LATE)
        assert tx.site_of_token(f"{1:064}") is None


def test_rounds(filled):
    with filled.write() as tx:
        open_round(tx, ONE, "ab", Phase.FAILED)
        open_round(tx, TWO, phase=Phase.PUBLISHED)
        open_round(tx, THREE)
        tx.move_deadline(THREE, LATE + 99)
        tx.add_sum_part(TWO, 0, DIGESTS[0])
    with filled.read() as tx:
        assert tx.newest_round("f").id == THREE
        assert tx.newest_round("e") is None
        assert tx.last_published("f") == TWO
        assert tx.round(THREE).deadline_at == LATE + 99
        assert (tx.round(TWO).record, tx.round(TWO).record_digest) == (b"record", "ab" * 32)
        assert tx.invited(ONE) == {"a", "b"}
        assert [row.id for row in tx.rounds_in([Phase.OPEN, Phase.PUBLISHED])] == [TWO, THREE]
        # The federation keeps the submissions of what was published; of what failed there is nothing to keep.
        assert [row.id for row in tx.unscrubbed()] == [ONE]
        assert [row.id for row in tx.kept_sums("f")] == [TWO]
    with filled.write() as tx:
        tx.scrub(ONE)
        tx.scrub_sum(TWO)
    with filled.write() as tx:
        assert tx.unscrubbed() == tx.kept_sums("f") == []
        assert tx.sums_to_remove() == [TWO]
        tx.forget_sum(TWO)
        assert tx.sums_to_remove() == []
        assert tx.round(TWO).record == b"record"


def test_submissions_and_parts(filled):
    with filled.write() as tx:
        open_round(tx, ONE)
        a, b, c = (
            submit(tx, site, state=state) for site, state in zip(SITES, ("complete", "complete", "open"), strict=True)
        )
        for row in (a, b):
            for number in (0, 1):
                tx.mark_stored(row.id, number, LATE)
        tx.mark_stored(c.id, 1, LATE + 7)
    with filled.write() as tx:
        assert tx.submission(a.id).accepted_at == LATE + 1
        assert tx.submission_of(ONE, "c") == c
        assert tx.manifest(a.id) == b"manifest \0"
        assert tx.part(c.id, 0) == PartRow(c.id, 0, DIGESTS[0], False)
        assert tx.part(c.id, 2) is None
        assert (tx.missing(a.id), tx.missing(c.id)) == ([], [0])
        assert tx.digests_of_part(ONE, 1) == [(a.id, "a", DIGESTS[1]), (b.id, "b", DIGESTS[1])]
        assert (tx.stored_submissions("f"), tx.stored_submissions("f", "a"), tx.stored_submissions("e")) == (3, 1, 0)
        tx.mark_damaged(b.id, 1, LATE + 8)
        assert tx.damaged(ONE) == [DamagedPart(b.id, "b", 1, LATE + 8)]
        tx.mark_stored(b.id, 1, LATE + 9)
        assert tx.damaged(ONE) == []
        tx.exclude_open(ONE)
        assert [row.state for row in tx.submissions(ONE)] == ["complete", "complete", "excluded"]
        tx.exclude_all(ONE)
        assert {row.state for row in tx.submissions(ONE)} == {"excluded"}


def test_an_idle_submission_expires_and_opens_again(filled):
    with filled.write() as tx:
        open_round(tx, ONE)
        a, b = submit(tx, "a"), submit(tx, "b")
        submit(tx, "c", state="complete")
        tx.mark_stored(a.id, 0, LATE + 7)
    with filled.write() as tx:
        assert tx.idle(LATE + 7) == []
        assert tx.idle(LATE + 8) == [a]  # b holds nothing
        for submission_id in (a.id, b.id):
            tx.expire(submission_id)
        assert [row.state for row in tx.expiring()] == ["expiring", "expiring"]
        assert tx.missing(a.id) == [0, 1]
        tx.reopen(a.id)
        assert tx.submission(a.id).state == "open"
        tx.exclude_open(ONE)
        tx.reopen(b.id)  # too late
        assert tx.submission(b.id).state == "excluded"


def test_parts_of_a_sum_are_replaced(filled):
    with filled.write() as tx:
        open_round(tx, ONE)
        tx.add_sum_part(ONE, 1, DIGESTS[0])
        tx.add_sum_part(ONE, 0, DIGESTS[0])
        tx.add_sum_part(ONE, 1, DIGESTS[1])
        assert tx.sum_digests(ONE) == {0: DIGESTS[0], 1: DIGESTS[1]}


def test_leases(store):
    row = LeaseRow("fold:f.1.1", "one", "00" * 16, LATE + 0.25)
    with store.write() as tx:
        tx.put_lease(row)
        tx.put_lease(LeaseRow("sweep", "one", "01" * 16, 1.0))
        assert tx.lease(row.name) == row
        tx.put_lease(LeaseRow(row.name, "two", "02" * 16, 2.0))
        assert tx.lease(row.name).holder == "two"
        tx.drop_lease(row.name)
        assert tx.lease(row.name) is None
        tx.drop_leases()
        assert tx.lease("sweep") is None


def test_numbers(store):
    with store.write() as tx:
        assert tx.number("directory") is None
        tx.set_number("directory", 2**62)
        tx.bump()
        assert (tx.number("directory"), tx.generation()) == (2**62, 1)


def second_submission(tx):
    submit(tx, "a")
    tx.add_submission(SubmissionRow("ff" * 32, ONE, "a", "open", None), b"", DIGESTS, LATE)


def not_invited(tx):
    tx.add_submission(SubmissionRow("ff" * 32, ONE, "d", "open", None), b"", DIGESTS, LATE)


@pytest.mark.parametrize(
    "violate",
    [
        second_submission,
        not_invited,
        lambda tx: tx.add_site(SiteRow("g", "a", LATE), "7" * 64),
        lambda tx: tx.add_site(SiteRow("f", "d", LATE), f"{0:064}"),
        lambda tx: open_round(tx, ONE),
        lambda tx: tx.add_sum_part(RoundId("f", 9, 9), 0, DIGESTS[0]),
    ],
    ids=["second submission", "not invited", "no federation", "used token", "second round", "no round"],
)
def test_what_must_not_be_is_refused_by_the_database_itself(filled, violate):
    with filled.write() as tx:
        open_round(tx, ONE)
    with pytest.raises(IntegrityError) as caught, filled.write() as tx:
        violate(tx)
    assert "parameters hidden" in str(caught.value)
    with filled.read() as tx:
        assert tx.submissions(ONE) == []


def test_what_raises_is_undone(store):
    def fail_within():
        with store.write() as tx:
            tx.bump()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_within()
    with store.read() as tx:
        assert tx.generation() == 0


def test_a_reader_sees_one_state_and_holds_nobody_up(stores):
    one, two = stores
    with one.read() as reading:
        assert reading.generation() == 0
        with two.write() as tx:
            tx.bump()
        assert reading.generation() == 0
    with one.read() as reading:
        assert reading.generation() == 1


def test_writers_are_alone_and_see_the_newest_state(stores):
    seen = []

    def count(store):
        for _ in range(25):
            with store.write() as tx:
                before = tx.generation()
                tx.bump()
                seen.append((before, tx.generation()))

    threads = [threading.Thread(target=count, args=(stores[i % 2],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [(n, n + 1) for n in range(100)]


def test_waiting_for_a_writer_ends(database_url):
    patient = SqlStore(database_url, busy_timeout_s=10, create=True)
    hasty = SqlStore(database_url, busy_timeout_s=0.2, create=True)
    with patient.write():
        began = time.monotonic()
        with pytest.raises(DBAPIError), hasty.write():
            pass
        assert time.monotonic() - began < 5
    with hasty.write() as tx:
        tx.bump()
    patient.close()
    hasty.close()
