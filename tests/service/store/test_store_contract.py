"""What every store has to do: one suite, run against SQLite and against a real PostgreSQL."""

import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from he_agg.errors import Reason
from he_agg.ids import RoundId
from service.domain.events import Phase, Round, Stage
from service.domain.submissions import State
from service.refusal import RefusedError
from service.store.failures import StoreBusyError, StoreFullError
from service.store.rows import (
    Basis,
    ChainHead,
    DamagedPart,
    EpochRow,
    FederationRow,
    Keeping,
    LeaseRow,
    PartRow,
    RosterRow,
    SubmissionRow,
)
from service.store.sql import Store
from service.store.statements import Prepared
from tests.support.postgres import end_connections

SITES = ("a", "b", "c")
ONE, TWO, THREE = RoundId("f", 1, 1), RoundId("f", 1, 2), RoundId("f", 2, 1)
LATE = 2**33  # after 2038
BASIS = Basis(3, "5d" * 32, "c0" * 32, 2)
DIGESTS = ["d0" * 32, "d1" * 32]


@pytest.fixture
def stores(database_url):
    """Two stores on one database, as two processes have them."""
    opened = [Store(database_url, busy_timeout_s=10, create=True) for _ in range(2)]
    yield opened
    for store in opened:
        store.close()


@pytest.fixture
def store(stores):
    return stores[0]


def open_round(tx, round_id, sites=SITES, phase=Phase.OPEN):
    state = Round(round_id.number, round_id.attempt, Phase.OPEN, LATE, LATE + 60, frozenset(sites))
    tx.open_round(round_id, state, BASIS)
    if phase is not Phase.OPEN:
        head = tx.chain_head(round_id.federation)
        tx.end_round(round_id, phase, b"record", ChainHead(head.index + 1, f"{round_id.attempt:02}" * 32), LATE)


def submit(tx, site, round_id=ONE, state=State.OPEN):
    row = SubmissionRow(f"{site}{round_id.number}{round_id.attempt}" * 8, round_id, site, State.OPEN)
    tx.add_submission(row, len(DIGESTS), LATE)
    if state is State.COMPLETE:
        tx.add_manifest(row.id, "d1" * 32, b"manifest \0")
        tx.move_submission(row.id, state, LATE + 1)
    return row


@pytest.fixture
def filled(store):
    with store.write() as tx:
        tx.add_federation(FederationRow("f", b"document \0", Stage.CREATED, LATE, None, Keeping(3, True)))
        tx.add_federation(FederationRow("e", b"another", Stage.CREATED, LATE))
        tx.add_epoch(EpochRow("f", 3, "5d" * 32), None, LATE)
        tx.add_epoch(EpochRow("e", 1, "6e" * 32), b"bundle \0", LATE)
    return store


def test_federations(filled):
    with filled.write() as tx:
        tx.set_stage("f", Stage.PAUSED)
        tx.set_paused("f", LATE + 5)
    with filled.read() as tx:
        row = tx.federation("f")
        assert row == FederationRow("f", b"document \0", Stage.PAUSED, LATE, LATE + 5, Keeping(3, True))
        assert tx.federation("g") is None
        assert [row.name for row in tx.federations()] == ["e", "f"]
        assert tx.federation("e").keeping == Keeping()


def test_rosters(filled):
    with filled.write() as tx:
        assert tx.roster("f", 2) is None
        for version in (9, 10, 2):
            tx.add_roster(RosterRow("f", version, f"{version:064}"), b"roster \0 %d" % version, LATE)
        tx.add_roster(RosterRow("e", 1, "00" * 32), b"", LATE)
    with filled.read() as tx:
        assert tx.newest_roster("f") == tx.roster("f", 10) == RosterRow("f", 10, f"{10:064}")
        assert tx.roster("f", 3) is None
        assert tx.roster_document("f", 9) == b"roster \0 9"
        assert (tx.roster_versions("f"), tx.roster_versions("e"), tx.roster_versions("g")) == ([2, 9, 10], [1], [])


def test_epochs_and_commitments(filled):
    with filled.write() as tx:
        tx.add_epoch(EpochRow("f", 10, "7f" * 32), b"ten", LATE)
        tx.set_bundle("f", 3, b"three \0")
        for site in ("b-a", "ba", "a"):
            tx.add_commitment("f", 10, site, site.encode(), LATE)
    with filled.read() as tx:
        assert tx.newest_epoch("f") == tx.epoch("f", 10) == EpochRow("f", 10, "7f" * 32)
        assert tx.epoch("f", 4) is None
        assert (tx.bundle("f", 3), tx.bundle("f", 10), tx.bundle("f", 4)) == (b"three \0", b"ten", None)
        assert tx.newest_epoch("e") == EpochRow("e", 1, "6e" * 32)
        assert tx.commitments("f", 10) == [b"a", b"b-a", b"ba"]  # by site, whatever the database's language
        assert (tx.commitment("f", 10, "ba"), tx.commitment("f", 3, "ba")) == (b"ba", None)


def test_what_holders_send(filled):
    with filled.write() as tx:
        for holder in ("b-a", "ba", "a"):
            tx.add_sharing_key("f", 3, holder, holder.encode(), LATE)
        tx.add_sharing_key("e", 1, "a", b"of another federation", LATE)
        state = Round(1, 1, Phase.OPEN, LATE, LATE + 60, frozenset(SITES))
        tx.open_round(ONE, state, replace(BASIS, holders="88" * 32), b"list \0")
        open_round(tx, TWO)
        for holder in ("b-a", "ba", "a"):
            tx.add_echo(ONE, holder, b"echo " + holder.encode(), LATE)
        tx.add_answer(ONE, "ba", b"answer", LATE)
        tx.add_complaint(ONE, "ba", "c", "sealed", b"one", LATE)
        tx.add_complaint(ONE, "b-a", "d", "opened", b"two", LATE)
        tx.add_complaint(ONE, "b-a", "c", "opened", b"three", LATE)
    with filled.read() as tx:
        assert list(tx.sharing_keys("f", 3).items()) == [("a", b"a"), ("b-a", b"b-a"), ("ba", b"ba")]
        assert (tx.holders_with_keys("f", 3), tx.holders_with_keys("f", 4)) == (["a", "b-a", "ba"], [])
        assert (tx.sharing_key("f", 3, "ba"), tx.sharing_key("f", 3, "c")) == (b"ba", None)
        assert (tx.round(ONE).basis.holders, tx.holder_list(ONE)) == ("88" * 32, b"list \0")
        assert (tx.round(TWO).basis.holders, tx.holder_list(TWO)) == (None, None)
        assert (tx.echo(ONE, "ba"), tx.echo(ONE, "c"), tx.echo(TWO, "ba")) == (b"echo ba", None, None)
        assert (tx.echoes(ONE), tx.echoed(ONE)) == ([b"echo a", b"echo b-a", b"echo ba"], ["a", "b-a", "ba"])
        assert (tx.answer(ONE, "ba"), tx.answers(ONE), tx.answered(ONE)) == (b"answer", [b"answer"], ["ba"])
        assert tx.complained(ONE) == [("b-a", "c", "opened"), ("b-a", "d", "opened"), ("ba", "c", "sealed")]
        assert (tx.complaints(ONE), tx.complaint(ONE, "b-a", "d")) == ([b"three", b"two", b"one"], b"two")
        assert tx.complained(TWO) == tx.answers(TWO) == []
    with filled.write() as tx:
        tx.drop_sharing_keys("f", 3, {"a", "ba"})
        assert (tx.holders_with_keys("f", 3), tx.holders_with_keys("e", 1)) == (["b-a"], ["a"])
    for said in (
        lambda tx: tx.add_echo(ONE, "a", b"another", LATE),
        lambda tx: tx.add_answer(ONE, "ba", b"another", LATE),
        lambda tx: tx.add_complaint(ONE, "ba", "c", "sealed", b"another", LATE),
        lambda tx: tx.add_sharing_key("f", 3, "b-a", b"another", LATE),
    ):
        with pytest.raises(IntegrityError), filled.write() as tx:
            said(tx)


def test_dealings_go_when_their_round_is_settled_or_has_failed(filled):
    with filled.write() as tx:
        open_round(tx, ONE)
        open_round(tx, TWO)
        rows = [submit(tx, site, each, State.COMPLETE) for each in (ONE, TWO) for site in "ba"]
        for row in rows:
            assert tx.dealing_digest(row.id) is None
            tx.add_dealing(row.id, DIGESTS[0], f"dealing \0 of {row.site}".encode())
        assert tx.dealing_digest(rows[0].id) == DIGESTS[0]
        assert list(tx.dealings(ONE).items()) == [("a", b"dealing \0 of a"), ("b", b"dealing \0 of b")]
        assert tx.dealings_to_remove(LATE * 2) == []
        tx.end_round(ONE, Phase.FAILED, b"record", ChainHead(1, "01" * 32), LATE)
        tx.end_round(TWO, Phase.PUBLISHED, b"record", ChainHead(2, "02" * 32), LATE)
        assert (tx.round(TWO).is_awaited, tx.round(ONE).is_awaited) == (True, False)
        assert tx.dealings_to_remove(LATE * 2) == [ONE]
        tx.settle_round(TWO, LATE + 5)
        assert (tx.round(TWO).is_awaited, tx.round(TWO).settled_at) == (False, LATE + 5)
        assert (tx.dealings_to_remove(LATE + 5), tx.dealings_to_remove(LATE + 6)) == ([ONE], [ONE, TWO])
        tx.remove_dealings(TWO)
        assert (tx.dealings(TWO), tx.dealings_to_remove(LATE * 2)) == ({}, [ONE])


def test_the_chain(filled):
    with filled.write() as tx:
        assert tx.chain_head("f") == ChainHead(0, "0" * 64)
        open_round(tx, ONE, phase=Phase.FAILED)
        open_round(tx, TWO)
        tx.close_round(TWO, LATE + 3)
        assert tx.chain_head("f") == ChainHead(1, "01" * 32)
        tx.end_round(TWO, Phase.PUBLISHED, b"two", ChainHead(2, "02" * 32), LATE + 9)
    with filled.read() as tx:
        assert tx.chain_head("f") == ChainHead(2, "02" * 32)
        assert [tx.record_at("f", index) for index in (1, 2)] == [tx.round(ONE), tx.round(TWO)]
        assert tx.record_at("f", 3) is tx.record_at("e", 1) is None
        assert (tx.round(TWO).basis, tx.round(TWO).closed_at, tx.round(ONE).closed_at) == (BASIS, LATE + 3, None)


def test_counts_and_what_ended_last(filled):
    with filled.write() as tx:
        assert (tx.count_rounds(), tx.count_submissions(), tx.recent_rounds("f", 9)) == ({}, {}, [])
        open_round(tx, ONE, phase=Phase.FAILED)
        open_round(tx, TWO, phase=Phase.PUBLISHED)
        open_round(tx, THREE)
        submit(tx, "a", TWO, state=State.COMPLETE)
        submit(tx, "b", TWO, state=State.COMPLETE)
        submit(tx, "a", THREE)
    with filled.read() as tx:
        assert tx.count_rounds() == {("f", Phase.FAILED): 1, ("f", Phase.PUBLISHED): 1, ("f", Phase.OPEN): 1}
        assert tx.count_submissions() == {("f", State.COMPLETE): 2, ("f", State.OPEN): 1}
        assert tx.recent_rounds("f", 9) == [tx.round(TWO), tx.round(ONE)]
        assert tx.recent_rounds("f", 1) == [tx.round(TWO)]
        assert tx.recent_rounds("e", 9) == []
        assert (tx.round(TWO).ended_at, tx.round(THREE).ended_at) == (LATE, None)


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
        assert (tx.round(TWO).record, tx.round(TWO).record_digest) == (b"record", "02" * 32)
        assert tx.invited(ONE) == {"a", "b"}
        assert [row.id for row in tx.rounds_in([Phase.OPEN, Phase.PUBLISHED])] == [TWO, THREE]
        # The federation keeps the submissions of what was published; of what failed there is nothing to keep.
        assert [row.id for row in tx.unscrubbed(LATE * 2)] == [ONE]
        assert [row.id for row in tx.kept_sums("f")] == [TWO]
    with filled.write() as tx:
        tx.scrub(ONE)
        tx.scrub_sum(TWO)
    with filled.write() as tx:
        assert tx.unscrubbed(LATE * 2) == tx.kept_sums("f") == []
        assert tx.sums_to_remove() == [TWO]
        tx.forget_sum(TWO)
        assert tx.sums_to_remove() == []
        assert tx.round(TWO).record == b"record"


def test_submissions_and_parts(filled):
    with filled.write() as tx:
        open_round(tx, ONE)
        a, b, c = (
            submit(tx, site, state=state)
            for site, state in zip(SITES, (State.COMPLETE, State.COMPLETE, State.OPEN), strict=True)
        )
        for row in (a, b):
            for number in (0, 1):
                tx.mark_stored(row.id, {number: DIGESTS[number]}, LATE)
        tx.mark_stored(c.id, {1: DIGESTS[1]}, LATE + 7)
    with filled.write() as tx:
        assert tx.submission(a.id).accepted_at == LATE + 1
        assert tx.submission_of(ONE, "c") == c
        assert tx.manifest(a.id) == b"manifest \0"
        assert tx.manifests(ONE) == [b"manifest \0"] * 2
        assert tx.part(c.id, 0) == PartRow(c.id, 0, None, False)
        assert tx.part(c.id, 2) is None
        assert (tx.missing(a.id), tx.missing(c.id)) == ([], [0])
        assert tx.digests_of_part(ONE, 1) == [(a.id, "a", DIGESTS[1]), (b.id, "b", DIGESTS[1])]
        assert (tx.stored_submissions("f"), tx.stored_submissions("e")) == (3, 0)
        assert (tx.counted_submissions("f"), tx.counted_submissions("f", "a")) == (3, 1)
        tx.mark_damaged(b.id, 1, LATE + 8)
        assert tx.damaged(ONE) == [DamagedPart(b.id, "b", 1, LATE + 8)]
        tx.mark_stored(b.id, {1: DIGESTS[1]}, LATE + 9)
        assert tx.damaged(ONE) == []
        tx.move_submission(a.id, State.EXCLUDED)
        assert [row.state for row in tx.submissions(ONE)] == [State.EXCLUDED, State.COMPLETE, State.OPEN]
        assert tx.submission(a.id).accepted_at == LATE + 1  # its receipt is still known


def test_what_a_transaction_remembers_of_submissions_is_what_is_written(filled):
    """After every kind of write it says the same from memory as from the rows."""

    def told(tx):
        ids = [f"{site}11" * 8 for site in SITES]
        return (
            [tx.submission(each) for each in ids],
            [tx.submission_of(ONE, site) for site in SITES],
            [sorted(tx.parts(each), key=lambda part: part.number) for each in ids],
            tx.completed(ONE),
            {name: count for name, count in tx.awaited_parts().items() if count},
        )

    a, b = "a11" * 8, "b11" * 8
    with filled.write() as tx:
        open_round(tx, ONE)
        seen = [told(tx)]
        for write in (
            lambda: submit(tx, "a"),
            lambda: tx.mark_stored(a, {0: DIGESTS[0]}, LATE),
            lambda: tx.add_manifest(a, "d1" * 32, b"manifest"),
            lambda: tx.move_submission(a, State.COMPLETE, LATE + 1),
            lambda: submit(tx, "b"),
            lambda: tx.mark_stored(b, {0: DIGESTS[0], 1: DIGESTS[1]}, LATE),
            lambda: tx.drop_parts(b, [0]),
            lambda: tx.mark_damaged(a, 0, LATE + 2),
            lambda: tx.mark_stored(a, {0: DIGESTS[0]}, LATE + 3),
            lambda: tx.unmark_parts(b),
            lambda: tx.remove_submission(b),
            lambda: submit(tx, "c"),
            lambda: tx.move_submission(a, State.EXCLUDED),
            lambda: tx.scrub(ONE),
        ):
            write()
            remembered = told(tx)
            tx._found.clear()
            assert remembered == told(tx)
            tx._found.clear()
            for site in SITES:
                tx.look_for(f"{site}11" * 8, ONE, site)
            assert remembered == told(tx)
            assert remembered != seen[-1]
            seen.append(remembered)


def count_statements(monkeypatch):
    texts, run = [], Prepared.run

    def counted(self, connection, values=None):
        texts.append(str(self._statement))
        return run(self, connection, values)

    monkeypatch.setattr(Prepared, "run", counted)
    return texts


def test_submissions_that_begin_and_end_in_a_transaction_are_written_once(filled, monkeypatch):
    with filled.write() as tx:
        open_round(tx, ONE)
    sent = [SubmissionRow(f"{site}11" * 8, ONE, site, State.OPEN) for site in SITES]
    with filled.write() as tx:
        assert (tx.completed(ONE), tx.awaited_parts()) == (frozenset(), {})
        asked = count_statements(monkeypatch)
        for number, row in enumerate(sent):
            tx.look_for(row.id, ONE, row.site)
            assert tx.submission(row.id) is None
            tx.add_submission(row, 2, LATE)
            tx.mark_stored(row.id, {0: DIGESTS[0], 1: DIGESTS[1]}, LATE + 1)
            tx.add_manifest(row.id, f"{number:02}" * 32, row.site.encode())
            tx.move_submission(row.id, State.COMPLETE, LATE + 2)
            assert [part.digest for part in tx.parts(row.id)] == DIGESTS
            assert tx.completed(ONE) == {each.site for each in sent[: number + 1]}
            assert tx.awaited_parts() == {"f": 0}
        assert [text.partition(" ")[0] for text in asked] == ["SELECT"] * 3, asked
    assert [text.partition("(")[0] for text in asked[3:]] == ["INSERT INTO submissions ", "INSERT INTO parts "]
    with filled.read() as tx:
        assert tx.manifests(ONE) == [site.encode() for site in SITES]
        assert {(row.state, row.accepted_at) for row in tx.submissions(ONE)} == {(State.COMPLETE, LATE + 2)}
        assert tx.digests_of_part(ONE, 1) == [(row.id, row.site, DIGESTS[1]) for row in sent]
        assert tx.idle(LATE * 2) == []


def test_what_is_not_written_yet_is_there_for_whoever_asks(filled):
    """In the transaction that has begun it, and after what was refused apart."""

    def refuse(tx, other):
        with tx.apart():
            tx.mark_stored(other.id, {0: DIGESTS[0]}, LATE)
            submit(tx, "c")
            raise RefusedError(Reason.FORBIDDEN, "no")

    with filled.write() as tx:
        open_round(tx, ONE)
        mine, other = submit(tx, "a"), SubmissionRow("b11" * 8, ONE, "b", State.OPEN)
        assert (tx.missing(mine.id), tx.stored_submissions("f")) == ([0, 1], 1)
        tx.mark_stored(mine.id, {1: DIGESTS[1]}, LATE)
        tx.add_submission(other, 2, LATE)
        tx.look_for("ff" * 16, ONE, "b")  # one of each: the other has not gone
        assert tx.submission_of(ONE, "b") == other
        with pytest.raises(RefusedError):
            refuse(tx, other)
        assert tx.submission_of(ONE, "c") is None
        assert (tx.submission(mine.id), tx.submission_of(ONE, "b")) == (mine, other)
        tx.set_stage("f", Stage.RUNNING)
        assert (tx.submission(mine.id), tx.submission_of(ONE, "b")) == (mine, other)
    with filled.read() as tx:
        assert [row.id for row in tx.submissions(ONE)] == [mine.id, other.id]
        assert (tx.missing(mine.id), tx.missing(other.id)) == ([0], [0, 1])
        assert tx.awaited_parts() == {"f": 3}


def test_what_a_head_is_met_with_is_one_statement(filled, monkeypatch):
    with filled.write() as tx:
        tx.add_roster(RosterRow("f", 1, "c0" * 32), b"one", LATE)
        tx.add_roster(RosterRow("f", 2, "c1" * 32), b"two", LATE)
        open_round(tx, ONE, "ab")
        open_round(tx, TWO, "ab")
        submit(tx, "a", TWO)  # other rounds' are no business of this one
        mine, other = submit(tx, "a"), submit(tx, "b")

    def told(tx, site, upload):
        return (
            tx.round(ONE),
            tx.federation("f"),
            tx.newest_roster("f"),
            tx.is_invited(ONE, site),
            tx.submission_of(ONE, site),
            tx.submission(upload),
        )

    met = [("a", mine.id), ("a", other.id), ("b", "ff" * 16), ("c", "ff" * 16), ("c", other.id)]
    with filled.read() as tx:
        expected = []
        for site, upload in met:
            expected.append(told(tx, site, upload))
            tx._found.clear()
    asked = count_statements(monkeypatch)

    def look(tx, federation="f", round_id=ONE, site="a", upload=mine.id):
        tx.look_at_head(federation, str(round_id), site, upload)
        return tx

    for (site, upload), each in zip(met, expected, strict=True):
        asked.clear()
        assert filled.look(lambda tx: told(look(tx, site=site, upload=upload), site, upload)) == each  # noqa: B023
        assert len(asked) == 1, asked
    for named in ({"federation": "e"}, {"round_id": THREE}):
        assert not filled.look(lambda tx: look(tx, **named)._found)  # noqa: B023


def test_an_idle_submission_expires_and_opens_again(filled):
    with filled.write() as tx:
        open_round(tx, ONE)
        a, b = submit(tx, "a"), submit(tx, "b")
        submit(tx, "c", state=State.COMPLETE)
        tx.mark_stored(a.id, {0: DIGESTS[0]}, LATE + 7)
    with filled.write() as tx:
        assert tx.idle(LATE + 7) == []
        assert tx.idle(LATE + 8) == [a]  # b holds nothing
        for submission_id in (a.id, b.id):
            tx.move_submission(submission_id, State.EXPIRING)
            tx.unmark_parts(submission_id)
        assert [row.id for row in tx.expiring()] == [a.id, b.id]
        assert tx.missing(a.id) == [0, 1]
        tx.move_submission(a.id, State.OPEN)
        assert tx.submission(a.id).state is State.OPEN
        assert tx.expiring() == [tx.submission(b.id)]


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
    tx.add_submission(SubmissionRow("ff" * 16, ONE, "a", State.OPEN), len(DIGESTS), LATE)


def second_record(tx):
    open_round(tx, TWO, phase=Phase.FAILED)
    tx.end_round(ONE, Phase.FAILED, b"record", ChainHead(1, "ff" * 32), LATE)


def not_invited(tx):
    tx.add_submission(SubmissionRow("ff" * 16, ONE, "d", State.OPEN), len(DIGESTS), LATE)


@pytest.mark.parametrize(
    "violate",
    [
        second_submission,
        not_invited,
        lambda tx: tx.add_roster(RosterRow("g", 1, "7" * 64), b"", LATE),
        lambda tx: tx.add_roster(RosterRow("f", 1, "7" * 64), b"", LATE),
        lambda tx: tx.add_epoch(EpochRow("f", 3, "7" * 64), None, LATE),
        lambda tx: tx.add_commitment("f", 4, "a", b"", LATE),
        second_record,
        lambda tx: open_round(tx, ONE),
        lambda tx: tx.add_sum_part(RoundId("f", 9, 9), 0, DIGESTS[0]),
    ],
    ids=[
        "second submission",
        "not invited",
        "no federation",
        "second roster of a version",
        "second key of an epoch",
        "no epoch",
        "second record at a place",
        "second round",
        "no round",
    ],
)
def test_what_must_not_be_is_refused_by_the_database_itself(filled, violate):
    with filled.write() as tx:
        open_round(tx, ONE)
        tx.add_roster(RosterRow("f", 1, "7" * 64), b"", LATE)
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


def test_what_raises_apart_is_undone_alone(store):
    def told(tx):
        return tx.generation(), tx.bumped, len(tx.reported), tx.federation("g")

    def fail_within(tx):
        with tx.apart():
            tx.add_federation(FederationRow("g", b"undone", Stage.CREATED, LATE))
            tx.bump()
            tx.report("federation.ended", federation="g", reason="r", record="d0" * 32)
            assert told(tx)[:3] == (2, True, 1)
            assert tx.federation("g") is not None
            raise RefusedError(Reason.FORBIDDEN, "no")

    with store.write() as tx:
        tx.bump()
        with tx.apart():
            assert not tx.bumped
        assert told(tx) == (1, True, 0, None)
        with pytest.raises(RefusedError):
            fail_within(tx)
        assert told(tx) == (1, True, 0, None)
        with tx.apart():
            tx.add_federation(FederationRow("g", b"kept", Stage.CREATED, LATE))
    with store.read() as tx:
        assert (tx.generation(), tx.federation("g").document) == (1, b"kept")


def test_a_store_that_fails_apart_says_so(stores, database_url):
    """SQLite ends a transaction by itself when it is full, savepoints and all; PostgreSQL where a connection ends."""
    store, other = stores

    def fill(tx):
        with tx.apart():
            if store.is_shared:
                assert end_connections(database_url)
            else:
                tx._connection.execute(text("PRAGMA max_page_count = 1"))
            tx.add_federation(FederationRow("g", bytes(2**22), Stage.CREATED, LATE))

    def write():
        with store.write() as tx:
            fill(tx)

    with pytest.raises(StoreBusyError if store.is_shared else StoreFullError):
        write()
    with other.read() as tx:
        assert tx.federation("g") is None


def test_a_reader_sees_one_state_and_holds_nobody_up(stores):
    one, two = stores
    with one.read() as reading:
        assert reading.generation() == 0
        with two.write() as tx:
            tx.bump()
        assert reading.generation() == 0
    with one.read() as reading:
        assert reading.generation() == 1


def test_a_single_statement_needs_no_transaction(stores):
    one, two = stores
    assert one.look(lambda tx: tx.generation()) == 0
    with two.write() as tx:
        tx.bump()
        assert one.look(lambda tx: tx.generation()) == 0
    assert one.look(lambda tx: tx.generation()) == 1
    for _ in range(100):  # it keeps no connection
        with pytest.raises(ZeroDivisionError):
            one.look(lambda tx: tx.generation() // 0)


def test_connections_that_a_restart_has_ended_are_replaced_unseen(postgres):
    url = postgres.new_database()
    store = Store(url, busy_timeout_s=10, create=True)

    def write():
        with store.write() as tx:
            tx.bump()
            return tx.generation()

    def read():
        with store.read() as tx:
            return tx.generation()

    acts, ended = (write, read, lambda: store.look(lambda tx: tx.generation())), 0
    for act in acts * 2:
        with store.read(), store.read(), store.read():  # three connections in the pool, and all of them are lost
            pass
        ended += end_connections(url)
        act()
    assert ended >= 18
    assert read() == 2
    store.close()


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
    patient = Store(database_url, busy_timeout_s=10, create=True)
    hasty = Store(database_url, busy_timeout_s=0.2, create=True)
    with patient.write():
        began = time.monotonic()
        with pytest.raises(StoreBusyError), hasty.write():
            pass
        assert time.monotonic() - began < 5
    with hasty.write() as tx:
        tx.bump()
    patient.close()
    hasty.close()
