"""What must not stay: single submissions, old sums, abandoned uploads. And what must."""

import pytest

from he_agg.documents.federation import FederationDocument
from he_agg.documents.verdict import OPENED, REJECTED
from he_agg.errors import InputError, ProtocolError, Reason
from he_agg.ids import RoundId
from service.domain.submissions import State
from service.operator import operations
from service.store.parts.base import SUM, PartKey, Space
from service.store.rows import Keeping
from service.work.housekeeping import purge_leftovers
from tests.support.peers import KEY_ID, expected_sum, make_plan, prepare, read_part, read_receipt, take_end, take_parts
from tests.support.simulated import SimulatedFederation
from tests.support.trust import consortium

ONE, TWO = RoundId("f", 1, 1), RoundId("f", 2, 1)


@pytest.fixture
def make(tmp_path):
    opened = []

    def make(keeping=None, plan=None, **settings):
        inside = SimulatedFederation(tmp_path / "data", plan or make_plan("f", rounds=10), keeping=keeping, **settings)
        opened.append(inside)
        return inside

    yield make
    for inside in opened:
        inside.end()


def play(inside, number):
    prepared = [inside.submit(site, number * 10 + i, f"f.{number}.1") for i, site in enumerate("abc")]
    inside.fold_one(f"f.{number}.1")
    judge(inside, f"f.{number}.1")
    inside.aggregator.worker._look()
    return prepared


def judge(inside, round_id, sites="abc", found=OPENED):
    for site in sites:
        assert inside.at(site).judge(round_id, found).status_code == 201


def files(inside, round_id):
    root = inside.aggregator.part_store._root / str(round_id)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.part"))


SUM_FILES = [f"sum/{n}.part" for n in range(3)]


def test_single_submissions_go_as_soon_as_enough_sites_have_opened_the_sum(make):
    inside = make()
    prepared = [inside.submit(site, i, "f.1.1") for i, site in enumerate("abc")]
    inside.aggregator.worker._look()
    assert len(files(inside, ONE)) == 9  # closed, but there is no sum yet
    inside.aggregator.worker.folder.fold(ONE)
    judge(inside, "f.1.1", "a")
    inside.aggregator.worker._look()
    assert len(files(inside, ONE)) == 12  # one is not enough: the plan asks for two
    judge(inside, "f.1.1", "b")
    inside.aggregator.worker._look()
    assert files(inside, ONE) == SUM_FILES
    receipt = take_end(inside.aggregator, "f", "a", prepared[0])
    assert read_receipt(receipt.encode()).id == prepared[0].id


def test_single_submissions_go_after_a_time_though_nobody_says_anything(make):
    inside = make(keep_unopened_s=1000.0, sweep_s=1e-9)
    for i, site in enumerate("abc"):
        inside.submit(site, i, "f.1.1")
    inside.fold_one("f.1.1")
    inside.clock.now += 1000
    inside.aggregator.worker._look()
    assert len(files(inside, ONE)) == 12
    inside.clock.now += 2
    inside.aggregator.worker._look()
    assert files(inside, ONE) == SUM_FILES


def test_single_submissions_go_when_a_later_sum_is_there_unless_theirs_is_disputed(make):
    inside = make()
    for number, found in ((1, None), (2, REJECTED), (3, None)):
        for i, site in enumerate("abc"):
            inside.submit(site, number * 10 + i, f"f.{number}.1")
        inside.fold_one(f"f.{number}.1")
        if found:
            judge(inside, f"f.{number}.1", "a", found)
        inside.aggregator.worker._look()
    kept = [len(files(inside, RoundId("f", number, 1))) for number in (1, 2, 3)]
    assert kept == [3, 12, 12]
    judge(inside, "f.2.1", "bc")
    inside.aggregator.worker._look()
    assert files(inside, TWO) == SUM_FILES


def test_single_submissions_make_room_on_a_full_disk(make, monkeypatch, caplog):
    inside = make()
    for i, site in enumerate("abc"):
        inside.submit(site, i, "f.1.1")
    inside.fold_one("f.1.1")
    part_store = inside.aggregator.part_store
    with monkeypatch.context() as patch:
        patch.setattr(part_store, "space", lambda: Space(0, 10**12))
        with pytest.raises(ProtocolError) as caught:
            inside.submit("a", 1, "f.2.1")
        assert caught.value.reason is Reason.STORAGE_FULL
    inside.aggregator.worker._look()
    assert files(inside, ONE) == SUM_FILES
    assert "single submissions go before enough sites" in caplog.text
    inside.submit("a", 1, "f.2.1")


def test_submissions_are_kept_for_audit_where_the_operator_wants_it(make):
    inside = make(Keeping(keep_submissions=True))
    play(inside, 1)
    assert len(files(inside, ONE)) == 12
    inside.clock.now = inside.row("f.2.1").deadline_at
    inside.aggregator.worker._look()
    assert inside.row("f.2.1").phase == "failed"
    assert len(files(inside, ONE)) == 12


@pytest.mark.parametrize("options", [{"keep_sums": 2}, {"keeping": Keeping(keep_sums=2)}])
def test_old_sums_go_and_their_records_stay(make, options):
    inside = make(**options)
    records = []
    for number in range(1, 6):
        play(inside, number)
        records.append(inside.row(f"f.{number}.1").record)
    inside.aggregator.worker._look()
    for number in range(1, 6):
        round_id = RoundId("f", number, 1)
        assert files(inside, round_id) == (SUM_FILES if number > 3 else [])
        row = inside.row(str(round_id))
        assert (row.record, row.sum_scrubbed) == (records[number - 1], number <= 3)
        with inside.aggregator.store.read() as tx:
            assert len(tx.sum_digests(round_id)) == (3 if number > 3 else 0)


def test_who_asks_for_an_old_sum_is_told(make_world):
    world = make_world("ab", rounds=8)
    rounds = []
    for number in range(7):  # the server keeps five
        round_id = world.peer().current(wait=10)["round_id"]
        for i, site in enumerate("ab"):
            world.peer(site).submit(prepare(world.plan, round_id, site, number * 2 + i))
        assert world.peer().record(round_id, wait=10).json()["record"]["body"]["outcome"] == "published"
        rounds.append(round_id)
    world.peer().current(wait=1, after=world.round_id)
    gone = world.peer().sum_from(rounds[0])
    assert (gone.status_code, gone.json()["reason"]) == (410, "sum-gone")
    assert world.peer().record(rounds[0]).status_code == 200
    assert world.peer().sum_from(rounds[-1]).status_code == 200


def test_an_abandoned_upload_expires_and_can_be_sent_again(make):
    inside = make(plan=make_plan("f", deadline_s=10**6), upload_expiry_s=1000.0)
    uploads, worker = inside.aggregator.uploads, inside.aggregator.worker
    promised = inside.submit("a", 1, "f.1.1")
    abandoned = inside.submit("b", 2, "f.1.1", complete=False)
    inside.clock.now += 900
    active = inside.submit("c", 3, "f.1.1", complete=False)
    inside.clock.now += 200
    worker._swept = None
    worker._look()
    assert {path.split("/")[1] for path in files(inside, ONE)} == {promised.upload, active.upload}
    assert uploads.status("f", "b", abandoned.round_id, abandoned.upload).missing == [0, 1, 2]
    assert (
        uploads.status("f", "b", abandoned.round_id, abandoned.upload).state,
        uploads.status("f", "a", promised.round_id, promised.upload).missing,
    ) == ("open", [])
    with pytest.raises(ProtocolError) as caught:
        take_end(inside.aggregator, "f", "b", abandoned)
    assert caught.value.reason is Reason.INCOMPLETE
    inside.submit("b", 2, "f.1.1")
    take_end(inside.aggregator, "f", "c", active)
    inside.fold_one("f.1.1")
    for number, expected in enumerate(expected_sum(inside.plan, [promised, abandoned, active])):
        got = read_part(inside.plan, number, inside.aggregator.part_store.path(PartKey(ONE, SUM, number)).read_bytes())
        assert (got == expected).all()


def test_an_upload_that_goes_on_while_it_expires_loses_no_part_unnoticed(make, monkeypatch):
    """The file is written before the expiry and the row after it: the mark must not outlive the file."""
    inside = make(plan=make_plan("f", deadline_s=10**6), upload_expiry_s=1000.0)
    uploads, worker = inside.aggregator.uploads, inside.aggregator.worker
    part_store = inside.aggregator.part_store
    prepared = prepare(inside.plan, "f.1.1", "a", 1)
    take_parts(inside.aggregator, "f", "a", prepared, range(1))
    inside.clock.now += 2000
    put_all = part_store.put_all

    def put_and_sleep(files):
        put_all(files)
        worker._swept = None
        worker._look()

    with monkeypatch.context() as patch:
        patch.setattr(part_store, "put_all", put_and_sleep)
        with pytest.raises(ProtocolError) as caught:
            take_parts(inside.aggregator, "f", "a", prepared, range(1, 2))
    assert caught.value.reason is Reason.BUSY
    assert uploads.status("f", "a", prepared.round_id, prepared.upload).missing == [0, 1, 2]
    inside.submit("a", 1, "f.1.1")


def test_an_expiry_that_was_interrupted_is_finished(make):
    inside = make()
    abandoned = inside.submit("b", 2, "f.1.1", complete=False)
    with inside.aggregator.store.write() as tx:
        tx.move_submission(abandoned.upload, State.EXPIRING)
        tx.unmark_parts(abandoned.upload)
    with pytest.raises(ProtocolError) as caught:
        take_parts(inside.aggregator, "f", "b", abandoned, range(1))
    assert caught.value.reason is Reason.BUSY
    inside.aggregator.worker._look()
    assert files(inside, ONE) == []
    inside.submit("b", 2, "f.1.1")


def test_an_upload_that_is_completed_while_it_expires_keeps_its_parts(make, monkeypatch):
    """It was found idle; then its site came back, and was quicker than the removal."""
    inside = make(plan=make_plan("f", deadline_s=10**6), upload_expiry_s=1000.0)
    late = inside.submit("a", 1, "f.1.1", complete=False)
    inside.clock.now += 2000
    store = inside.aggregator.store
    with store.read() as tx:
        (idle,) = tx.idle(int(inside.clock.now) - 1000)
    receipt = take_end(inside.aggregator, "f", "a", late)
    assert read_receipt(receipt.encode()).id == late.id
    inside.aggregator.worker._housekeeper._expire(idle, lambda _: None)
    assert len(files(inside, ONE)) == 3
    assert inside.aggregator.uploads.status("f", "a", late.round_id, late.upload).state == "complete"


def test_options_are_checked(make):
    inside = make()
    document = FederationDocument(make_plan("g").public, 1, KEY_ID)
    store, conductor = inside.aggregator.store, inside.aggregator.conductor
    roster = consortium("g", "abc", conductor.key.signing_key).roster.encode()
    with pytest.raises(InputError) as caught:
        operations.create_federation(store, conductor, document, roster, keeping=Keeping(keep_sums=0))
    assert caught.value.reason is Reason.BAD_ARGUMENT
    assert operations.create_federation(store, conductor, document, roster, keeping=Keeping(5))
    assert not operations.create_federation(store, conductor, document, roster, keeping=Keeping(5))
    with pytest.raises(InputError, match="exists with"):
        operations.create_federation(store, conductor, document, roster)


@pytest.mark.parametrize("keep", [False, True])
def test_what_came_after_a_round_was_scrubbed_goes_at_the_next_start(make, keep):
    """Its writer had no time to be told that the round is over."""
    inside = make(Keeping(keep_submissions=keep))
    for i, site in enumerate("abc"):
        inside.submit(site, i, "f.1.1")
    inside.fold_one("f.1.1")
    judge(inside, "f.1.1")
    inside.submit("a", 1, "f.2.1", complete=False)
    inside.aggregator.worker._look()
    part_store, late = inside.aggregator.part_store, PartKey(ONE, "ab" * 32, 0)
    part_store.put_all([(late, b"too late")])
    before = files(inside, ONE) + files(inside, TWO)
    purge_leftovers(inside.aggregator.store, part_store)
    lost = set(before) - {*files(inside, ONE), *files(inside, TWO)}
    assert lost == (set() if keep else {f"submissions/{late.owner}/0.part"})
