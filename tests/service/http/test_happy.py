"""Whole rounds over a real socket: exact sums, every request twice, any order, many at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from he_agg.protocol.messages import SubmissionStatus
from tests.support.peers import expected_sum, prepare, read_ended, read_receipt, read_record, read_sum
from tests.support.trees import living


def sum_of(world, round_id):
    return read_sum(world.plan, world.peer().sum_from(round_id).content)


def assert_sum(world, round_id, prepared):
    record = read_ended(world.peer().record(round_id, wait=20).content).record
    assert record.outcome == "published"
    assert sorted(record.members.values()) == sorted(p.id for p in prepared)
    for got, expected in zip(sum_of(world, round_id), expected_sum(world.plan, prepared), strict=True):
        np.testing.assert_array_equal(got, expected)
    return record


def test_three_sites_two_rounds_exact_sums(make_world):
    world = make_world(rounds=2)
    chain = []
    for number in (1, 2):
        round_id = world.round_id
        assert round_id == f"{world.name}.{number}.1"
        prepared = [prepare(world.plan, round_id, site, 10 * number + i) for i, site in enumerate("abc")]
        for site, submission in zip("abc", prepared, strict=True):
            receipt = read_receipt(world.peer(site).submit(submission).content)
            assert (receipt.id, receipt.round_id, receipt.site) == (submission.id, round_id, site)
        chain.append(assert_sum(world, round_id, prepared))
    assert not chain[0].excluded
    current = world.peer().current(wait=20)
    assert (current["stage"], current["round_id"], current["index"]) == ("ended", None, 3)
    end = world.peer().record_at(3)
    ended = read_ended(world.peer().record(f"{world.name}.3.1").content)
    assert (ended.signed.encode(), ended.manifests) == (end.content, [])
    body = read_record(end.content)
    assert (body.outcome, body.reason, body.members, body.excluded) == ("ended", "rounds", {}, {})
    assert world.peer().record_at(4).status_code == 404


def test_what_never_opened_takes_nothing(make_world):
    """Everything but the record is refused for an id that is the end's."""
    world = make_world(rounds=1)
    for i, site in enumerate("abc"):
        world.peer(site).submit(prepare(world.plan, f"{world.name}.1.1", site, i))
    assert world.peer().current(after=f"{world.name}.1.1", wait=20)["stage"] == "ended"
    end, late = f"{world.name}.2.1", prepare(world.plan, f"{world.name}.2.1", "a", 9)
    answers = [
        world.peer().submit(late),
        world.peer().sum_from(end),
    ]
    assert [(answer.status_code, answer.json()["reason"]) for answer in answers] == [
        (409, "round-closed"),
        (409, "round-failed"),
    ]
    assert answers[0].json()["record"]["body"]["outcome"] == "ended"


def test_a_one_hot_sum_has_no_two(world):
    round_id = world.round_id
    hot = {"a": 0, "b": 8192, "c": 3 * 8192 - 1}
    prepared = [prepare(world.plan, round_id, site, 1, one_hot=position) for site, position in hot.items()]
    for submission, site in zip(prepared, hot, strict=True):
        world.peer(site).submit(submission)
        world.peer(site).submit(submission)
    assert_sum(world, round_id, prepared)
    total = np.concatenate(sum_of(world, round_id))
    assert {int(i): int(total[i]) for i in np.flatnonzero(total)} == dict.fromkeys(hot.values(), 1)


def test_every_request_may_be_repeated(world):
    round_id, submissions = world.round_id, []
    for i, site in enumerate("abc"):
        peer, submission = world.peer(site), prepare(world.plan, world.round_id, site, i)
        submissions.append(submission)
        for number, part in enumerate(submission.parts[:-1]):
            assert [peer.put(submission, number, part).status_code for _ in range(3)] == [204] * 3
        assert [peer.put(submission, 2, submission.parts[2]).status_code for _ in range(3)] == [200] * 3
        receipts = [peer.complete(submission) for _ in range(3)]
        assert [r.status_code for r in receipts] == [200] * 3
        assert len({r.content for r in receipts}) == 1
        # and still, once it is complete
        assert peer.put(submission, 0, submission.parts[0]).status_code == 204
        before = receipts[0].content
    assert_sum(world, round_id, submissions)
    # and when all of it is over and the single parts are gone
    last, peer = submissions[-1], world.peer("c")
    status = SubmissionStatus.parse(peer.status(last).content)
    assert (status.state, status.missing) == ("complete", [])
    assert peer.put(last, 1, last.parts[1]).status_code == 204
    assert peer.complete(last).content == before
    assert peer.record(round_id).content == peer.record(round_id).content


def test_parts_in_any_order_and_status_tells_what_is_missing(world):
    peer, submission = world.peer(), prepare(world.plan, world.round_id, "a", 7)
    assert peer.put(submission, 2, submission.parts[2]).status_code == 409
    status = SubmissionStatus.parse(peer.status(submission).content)
    assert (status.upload, status.state, status.parts, status.missing) == (submission.upload, "open", 3, [0, 1])
    assert peer.put(submission, 0, submission.parts[0]).status_code == 204
    assert SubmissionStatus.parse(peer.status(submission).content).missing == [1]
    early = peer.complete(submission)
    assert (early.status_code, early.json()["reason"], early.json()["missing"]) == (409, "incomplete", [1])
    assert peer.put(submission, 1, submission.parts[1]).status_code == 204
    assert peer.complete(submission).status_code == 200
    assert peer.current()["invited"] == ["a", "b", "c"]


def test_all_sites_at_once_and_every_part_on_two_connections(world):
    round_id = world.round_id
    prepared = {site: prepare(world.plan, round_id, site, i) for i, site in enumerate("abc")}
    with ThreadPoolExecutor(12) as pool:
        puts = [(site, n) for n in range(3) for site in "abc"] * 2
        answers = list(pool.map(lambda p: world.peer(p[0]).put(prepared[p[0]], p[1], prepared[p[0]].parts[p[1]]), puts))
        assert {a.status_code for a in answers} <= {200, 204, 409}
        receipts = list(pool.map(lambda site: world.peer(site).complete(prepared[site]), "abc" * 3))
    assert {r.status_code for r in receipts} == {200}
    assert_sum(world, round_id, list(prepared.values()))


def test_single_submissions_are_deleted_once_enough_sites_have_opened_the_sum(world):
    round_id = world.round_id
    for i, site in enumerate("abc"):
        world.peer(site).submit(prepare(world.plan, round_id, site, i))
    world.peer().record(round_id, wait=20)
    next_round = world.round_id
    assert (world.server.data_dir / "rounds" / round_id / "submissions").exists()
    assert [world.peer(site).judge(round_id).status_code for site in "abca"] == [201, 201, 201, 200]
    assert next_round != round_id
    directory = world.server.data_dir / "rounds" / round_id
    for _ in range(100):
        if not (directory / "submissions").exists():
            break
        world.peer().current(wait=0.1, after=next_round)
    assert sorted(p.name for p in living(directory)) == ["0.part", "1.part", "2.part", "sum"]


def test_rounds_of_two_federations_do_not_mix(make_world):
    first, second = make_world(), make_world()
    round_id = second.round_id
    stranger = first.peer()
    for answer in (
        stranger.record(round_id),
        stranger.sum_from(round_id),
        stranger.submit(prepare(second.plan, round_id, "a", 1)),
    ):
        assert (answer.status_code, answer.json()["reason"]) == (404, "unknown-round")
    path = f"/v1/federations/{second.name}/state"
    answer = stranger.request("GET", path)
    assert (answer.status_code, answer.json()["reason"]) == (404, "unknown-federation")


@pytest.mark.parametrize("wide", [8, 16, 20])
def test_every_profile_of_the_plan_folds(make_world, wide):
    world = make_world(value_bits=wide, values=100)
    round_id = world.round_id
    prepared = [prepare(world.plan, round_id, site, i) for i, site in enumerate("abc")]
    for site, submission in zip("abc", prepared, strict=True):
        world.peer(site).submit(submission)
    assert_sum(world, round_id, prepared)
