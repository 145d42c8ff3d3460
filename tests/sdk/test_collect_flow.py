"""Waiting for a record, checking it, fetching and opening the sum: without a network, against every kind of lie."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_sdk import _flows
from client_sdk._effects import Request, Response
from client_sdk.progress import PhaseFinished
from he_agg.errors import DecryptionError, HeAggError, InputError, ProtocolError, Reason, TransportError
from he_agg.ids import RoundId
from he_agg.wire import encode_part
from keys import GroupKey
from tests.sdk.world import (
    OPEN,
    ROUND,
    FakeAggregator,
    World,
    assert_mean_of,
    json_of,
    problem,
    session_for,
    small_plan,
    unreachable,
    update_of,
)

PLAN = small_plan()
PLACES = PLAN.public.places


@pytest.fixture
def aggregator():
    aggregator = FakeAggregator(PLAN)
    aggregator.others_submit()
    return aggregator


def test_whole_round_is_exact(tmp_path, aggregator):
    session, world = session_for(tmp_path, PLAN), World(aggregator)
    mean = world.run(_flows.aggregate(session, OPEN, update_of()))
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])
    assert (mean.n_sites, mean.total_weight) == (3, 3)
    assert [e.phase for e in world.events if isinstance(e, PhaseFinished)] == [
        "encrypt",
        "upload",
        "wait",
        "download",
        "decrypt",
    ]
    received = sum(e.received_bytes for e in world.events if isinstance(e, PhaseFinished))
    assert received == PLAN.public.wire_bytes + len(aggregator.record.encode())
    assert list((tmp_path / "spool" / "a").iterdir()) == []


def test_weights_count_exactly(tmp_path, aggregator):
    mean = World(aggregator).run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of(weight=8)))
    assert mean.total_weight == 10
    # 0.8, 0.1 and 0.1 of 32767, each rounded once
    assert mean.sums[:4].tolist() == [26214, 3277, 3277, 0]
    assert_mean_of(mean, PLAN, [update_of(0, weight=8), update_of(1), update_of(2)])


def test_a_pause_moves_the_end_of_patience(tmp_path, aggregator):
    """The aggregator has no record for a day and a half, for which the federation is paused."""
    day = 86400.0

    def meddle(request: Request, body: bytes):
        if request.path.startswith("/v1/federations"):
            state = "paused" if world.time < 2 * day else "waiting"
            return json_of(dataclasses.replace(aggregator.current, state=state, round_id=None))
        if "/record" in request.path and world.time < 1.5 * day:
            world.time += 1800
            return Response(204)
        return None

    world = World(aggregator, meddle)
    world.run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert world.time > 1.5 * day


def test_a_part_that_the_aggregators_disk_damaged_is_sent_again(tmp_path, aggregator):
    asked = 0

    def meddle(request: Request, body: bytes):
        nonlocal asked
        if "/record" in request.path:
            asked += 1
            if asked == 1:
                del aggregator.parts[aggregator.complete["a"]][1]
            if any(len(parts) != len(PLACES) for parts in aggregator.parts.values()):
                return Response(204)
        return None

    world = World(aggregator, meddle)
    mean = world.run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])
    assert [path.rsplit("/", 1)[1] for path in world.paths("PUT")] == ["0", "1", "2", "1"]


def test_waits_as_long_as_it_takes(tmp_path, aggregator):
    """Polls without haste while the round is open, and the aggregator is away now and then."""
    left = [Response(204), unreachable(), Response(204), problem(503, "internal"), Response(204)]

    def meddle(request: Request, body: bytes):
        return left.pop(0) if "/record" in request.path and left else None

    world = World(aggregator, meddle)
    world.run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert left == []
    wait = next(e.seconds for e in world.events if isinstance(e, PhaseFinished) and e.phase == "wait")
    assert wait >= 180.0


def test_long_poll_that_does_not_wait_is_not_a_busy_loop(tmp_path, aggregator):
    times = []

    def meddle(request: Request, body: bytes):
        if "/record" in request.path and len(times) < 5:
            world.time -= 30.0  # answered at once
            times.append(world.time)
            return Response(204)
        return None

    world = World(aggregator, meddle)
    world.run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert times == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_result_that_never_comes(tmp_path, aggregator):
    session = dataclasses.replace(session_for(tmp_path, PLAN), result_s=100.0)
    aggregator.current = dataclasses.replace(aggregator.current, state="waiting", round_id=None)
    world = World(aggregator, lambda request, body: Response(204) if "/record" in request.path else None)
    with pytest.raises(ProtocolError, match="expected a result by now") as caught:
        world.run(_flows.aggregate(session, OPEN, update_of()))
    assert caught.value.reason == Reason.SUM_NOT_READY
    assert OPEN.closes_at + 100 < world.time < OPEN.closes_at + 200
    assert session.spool.entry(ROUND).is_stored


def lied_to(tmp_path, aggregator, flow=_flows.aggregate, **changed):
    """Aggregate against a record that is changed in some members."""

    def meddle(request: Request, body: bytes):
        if "/record" in request.path and aggregator.record is None:
            aggregator.close(**changed)

    session = session_for(tmp_path, PLAN)
    world = World(aggregator, meddle)
    with pytest.raises(ProtocolError) as caught:
        world.run(flow(session, OPEN, update_of()))
    assert not any("/sum/" in path for path in world.paths("GET")), "it was downloaded all the same"
    return session, caught.value


@pytest.mark.parametrize(
    ("changed", "reason", "text"),
    [
        ({"round_id": RoundId("test", 1, 2)}, Reason.BAD_ANSWER, "expected test.1.1, got test.1.2"),
        ({"round_id": RoundId("other", 1, 1)}, Reason.BAD_ANSWER, "expected test.1.1, got other.1.1"),
        ({"plan_id": "00" * 32}, Reason.PLAN_MISMATCH, "plan: expected"),
        ({"key_id": "00" * 32}, Reason.KEY_MISMATCH, "group key: expected"),
        ({"epoch": 2}, Reason.KEY_MISMATCH, "epoch: expected 1, got 2"),
        ({"members": {"a": "00" * 32, "b": "11" * 32}}, Reason.BAD_ANSWER, "somebody submitted in this site's name"),
        ({"members": {"b": "00" * 32, "c": "11" * 32}}, Reason.BAD_ANSWER, "or excluded with a reason, got neither"),
        ({"sum_digests": ("00" * 32,)}, Reason.BAD_ANSWER, "expected a sum of 3 parts, got 1"),
        ({"sum_digests": ("00" * 32,) * 4}, Reason.BAD_ANSWER, "expected a sum of 3 parts, got 4"),
        ({"members": {f"s{i}": "00" * 32 for i in range(6)}}, Reason.BAD_ANSWER, "of 2 to 5 sites, got 6"),
        ({"members": {}}, Reason.BAD_ANSWER, "of 2 to 5 sites, got 0"),
    ],
)
def test_wrong_record_is_refused_before_the_download(tmp_path, aggregator, changed, reason, text):
    session, error = lied_to(tmp_path, aggregator, **changed)
    assert error.reason == reason
    assert text in error.message
    assert session.spool.entry(ROUND).is_stored


def test_sum_of_too_few_sites_is_not_opened(tmp_path, aggregator):
    """The sum of one site is its update; the site's own plan says how many there must be."""
    own = {}

    def meddle(request: Request, body: bytes):
        if "/record" in request.path and aggregator.record is None:
            own["a"] = aggregator.complete["a"]
            aggregator.close(members=dict(own), excluded={"b": "late", "c": "late"})

    world = World(aggregator, meddle)
    with pytest.raises(ProtocolError, match="expected the sum of 2 to 5 sites, got 1"):
        world.run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert not any("/sum/" in path for path in world.paths("GET"))


def test_own_exclusion_is_told_with_its_reason(tmp_path, aggregator):
    members = {site: aggregator.complete[site] for site in "bc"}
    session, error = lied_to(tmp_path, aggregator, members=members, excluded={"a": "bad-digest"})
    assert error.reason == Reason.ROUND_CLOSED
    assert "published without this site's submission" in error.message
    assert "bad-digest" in error.message
    assert "round.fetch()" in error.hint
    assert not session.spool.entry(ROUND).is_stored  # it can never be counted


def test_failed_round(tmp_path, aggregator):
    session, error = lied_to(
        tmp_path, aggregator, outcome="failed", members={}, excluded={"a": "round-failed"}, sum_digests=()
    )
    assert error.reason == Reason.ROUND_FAILED
    assert "at least 2 are needed; of this site it says: round-failed" in error.message
    assert "next attempt" in error.hint
    assert session.spool.pending("test") == []


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\x00" * 9, b"<html>", b'{"v":1}', b"[" * 99_999])
def test_record_that_is_none(tmp_path, aggregator, body):
    world = World(aggregator, lambda request, _: Response(200, {}, body) if "/record" in request.path else None)
    with pytest.raises(ProtocolError, match=r"record of round test\.1\.1") as caught:
        world.run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert caught.value.reason == Reason.BAD_ANSWER


def with_sum(aggregator, change):
    """Let the first part of the sum be another one. The record names its digest if `change` says so."""

    def meddle(request: Request, body: bytes):
        if "/record" in request.path and aggregator.record is None:
            aggregator.close()
            data, digest_too = change(aggregator.sum[0])
            aggregator.sum[0] = data
            if digest_too:
                digests = (hashlib.sha256(data).hexdigest(), *aggregator.record.sum_digests[1:])
                aggregator.record = dataclasses.replace(aggregator.record, sum_digests=digests)

    return meddle


@pytest.mark.parametrize(
    "change",
    [
        lambda part: b"",
        lambda part: part[:-1],
        lambda part: part + b"\0",
        lambda part: part[:100] + bytes([part[100] ^ 1]) + part[101:],
    ],
)
def test_sum_part_with_a_wrong_digest(tmp_path, aggregator, change):
    world = World(aggregator, with_sum(aggregator, lambda part: (change(part), False)))
    session = session_for(tmp_path, PLAN)
    with pytest.raises(ProtocolError, match="as the record says, got") as caught:
        world.run(_flows.aggregate(session, OPEN, update_of()))
    assert caught.value.reason == Reason.BAD_DIGEST
    assert len([p for p in world.paths("GET") if "/sum/" in p]) == 3  # it may have been the network
    assert session.spool.entry(ROUND).is_stored


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda part: part[:10], Reason.TRUNCATED),
        (lambda part: part[:-1], Reason.TRUNCATED),
        (lambda part: part + b"\0", Reason.TRAILING_BYTES),
        (lambda part: b"X" + part[1:], Reason.BAD_MAGIC),
        (lambda part: part[:24] + bytes(32) + part[56:], Reason.PLAN_MISMATCH),
        (lambda part: part[:64] + b"\xff" * (len(part) - 64), Reason.RESIDUE_OUT_OF_RANGE),
    ],
)
def test_sum_part_that_is_none_although_its_digest_is_right(tmp_path, aggregator, change, reason):
    world = World(aggregator, with_sum(aggregator, lambda part: (change(part), True)))
    with pytest.raises(HeAggError) as caught:
        world.run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert caught.value.reason == reason


def test_sum_under_another_key_does_not_open(tmp_path, aggregator):
    """A foreign ciphertext in the place of the sum: no numbers come out, an error does."""
    from he_agg.codecs import codec_for

    other = GroupKey.create(PLAN)
    values = np.zeros(PLAN.public.values, dtype=np.int32)
    foreign = [
        encode_part(part, PLACES[part.number], PLAN.plan_id)
        for part in codec_for(PLAN.public).encrypt(values, other, ROUND)
    ]
    world = World(aggregator, with_sum(aggregator, lambda part: (foreign[0], True)))
    session = session_for(tmp_path, PLAN)
    with pytest.raises(DecryptionError):
        world.run(_flows.aggregate(session, OPEN, update_of()))


def test_sum_of_another_number_of_sites_does_not_open(tmp_path, aggregator):
    """The record names three members, the sum is of two: the count inside the ciphertext tells."""

    def meddle(request: Request, body: bytes):
        if "/record" in request.path and aggregator.record is None:
            everybody = dict(aggregator.complete)
            aggregator.complete.pop("c")
            aggregator.close(members=everybody, excluded={})

    with pytest.raises(DecryptionError) as caught:
        World(aggregator, meddle).run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert caught.value.reason == Reason.COUNT_MISMATCH


def test_part_that_the_network_changed_is_fetched_again(tmp_path, aggregator):
    changed = []

    def meddle(request: Request, body: bytes):
        if "/sum/" in request.path and len(changed) < 2:
            changed.append(request.path)
            return Response(200, {}, b"changed" + aggregator(request, body).body)
        return None

    mean = World(aggregator, meddle).run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])


def test_interrupted_download_goes_on_with_the_missing_parts(tmp_path, aggregator):
    def meddle(request: Request, body: bytes):
        return unreachable() if request.path.endswith("/sum/0/parts/1") else None

    session = session_for(tmp_path, PLAN, patience_s=1.0)
    with pytest.raises(TransportError):
        World(aggregator, meddle).run(_flows.aggregate(session, OPEN, update_of()))
    # The disk spoils what was fetched: that part alone is fetched again.
    session.spool.entry(ROUND).sum_path(0).write_bytes(b"rot")
    again = World(aggregator)
    mean = again.run(_flows.resume(session, OPEN))
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])
    assert [path[-1] for path in again.paths("GET") if "/sum/" in path] == ["0", "1", "2"]
    assert again.paths("PUT") == []


def test_resume_finishes_after_the_round_has_closed(tmp_path, aggregator):
    """Complete before the crash, closed after it: the aggregator takes nothing more, and the record has the site."""
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    world = World(aggregator, lambda r, b: problem(409, "round-closed") if r.method == "POST" else None)
    mean = world.run(_flows.resume(session, OPEN))
    assert mean.n_sites == 3
    assert session.spool.pending("test") == []


def test_resume_of_a_round_that_closed_too_early(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN, patience_s=1.0)
    offline = World(aggregator, lambda request, body: unreachable() if request.method == "PUT" else None)
    with pytest.raises(TransportError):
        offline.run(_flows.aggregate(session, OPEN, update_of()))
    aggregator.close()
    world = World(aggregator, lambda r, b: problem(409, "round-closed") if r.method == "POST" else None)
    with pytest.raises(ProtocolError, match="published without this site's submission"):
        world.run(_flows.resume(session, OPEN))
    # The mean of the others can be had all the same.
    mean = World(aggregator).run(_flows.fetch(session, ROUND))
    assert_mean_of(mean, PLAN, [update_of(1), update_of(2)])


def test_resume_without_anything_stored(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    with pytest.raises(InputError, match="expected a stored submission"):
        World(aggregator).run(_flows.resume(session, OPEN))
    with pytest.raises(ProtocolError, match="not in this spool"):
        World(aggregator).run(_flows.resume(session, dataclasses.replace(OPEN, submitted=True)))


def test_fetch_checks_the_own_submission_if_it_is_known(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    aggregator.close(members=aggregator.complete | {"a": "00" * 32})
    with pytest.raises(ProtocolError, match="somebody submitted in this site's name"):
        World(aggregator).run(_flows.fetch(session, ROUND))


def test_fetch_works_although_the_stored_manifest_is_damaged(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    (session.spool.entry(ROUND).path / "manifest.json").write_bytes(b"rot")
    assert World(aggregator).run(_flows.fetch(session, ROUND)).n_sites == 3


def test_fetch_of_another_federation(tmp_path, aggregator):
    with pytest.raises(InputError, match="expected a round of federation test"):
        World(aggregator).run(_flows.fetch(session_for(tmp_path, PLAN), RoundId("other", 1, 1)))


@pytest.mark.parametrize(
    ("last", "reason"), [(None, Reason.SUM_NOT_READY), ("", Reason.BAD_ANSWER), ("../../etc.1.1", Reason.BAD_ANSWER)]
)
def test_fetch_of_the_latest_when_there_is_none(tmp_path, aggregator, last, reason):
    aggregator.current = dataclasses.replace(aggregator.current, last_published=last)
    with pytest.raises(ProtocolError) as caught:
        World(aggregator).run(_flows.fetch_latest(session_for(tmp_path, PLAN)))
    assert caught.value.reason == reason


def test_fetch_of_the_latest(tmp_path, aggregator):
    aggregator.close()
    aggregator.current = dataclasses.replace(aggregator.current, last_published=str(ROUND))
    mean = World(aggregator).run(_flows.fetch_latest(session_for(tmp_path, PLAN)))
    assert_mean_of(mean, PLAN, [update_of(1), update_of(2)])


SHAPES = st.sampled_from(["submissions", "complete", "record", "sum"])


@settings(max_examples=40)
@given(where=SHAPES, status=st.integers(200, 599), body=st.binary(max_size=80), flip=st.integers(0, 10**6))
def test_whatever_the_aggregator_answers_it_is_the_mean_or_an_error(tmp_path_factory, where, status, body, flip):
    """Bytes of any kind in any answer: the exact mean, or a HeAggError; never anything else, never another mean."""
    aggregator = FakeAggregator(PLAN)
    aggregator.others_submit()

    def meddle(request: Request, sent: bytes):
        if where in request.path.split("?")[0].split("/"):
            honest = aggregator(request, sent)
            if flip % 2 and honest.body:
                at = flip % len(honest.body)
                changed = honest.body[:at] + bytes([honest.body[at] ^ (1 + flip % 255)]) + honest.body[at + 1 :]
                return Response(honest.status, honest.headers, changed)
            return Response(status, {}, body)
        return None

    session = dataclasses.replace(session_for(tmp_path_factory.mktemp("s"), PLAN, patience_s=5.0), result_s=100.0)
    try:
        mean = World(aggregator, meddle).run(_flows.aggregate(session, OPEN, update_of()))
    except HeAggError:
        return
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])
