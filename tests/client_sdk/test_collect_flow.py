"""Waiting for a record, checking it, fetching and opening the sum: without a network, against every kind of lie."""

from __future__ import annotations

import dataclasses
import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_sdk._disk import sum_parts as _sum_parts
from client_sdk._disk.sum_parts import SumParts
from client_sdk._effects import Request, Response
from client_sdk._protocol import collect as _collect
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.state import POLL_S
from client_sdk.progress import PhaseFinished, PhaseProgress
from he_agg.documents.manifest import Manifest
from he_agg.documents.signed import Signed
from he_agg.documents.verdict import Verdict
from he_agg.errors import HeAggError, InputError, ProtocolError, Reason, TransportError
from he_agg.ids import RoundId
from he_agg.signing import SigningKey
from tests.support.flows import (
    OPEN,
    ROUND,
    FakeAggregator,
    World,
    answer_of,
    assert_mean_of,
    problem,
    security_log,
    session_for,
    small_plan,
    spooled,
    unreachable,
    update_of,
)
from tests.support.trust import AGGREGATOR, identity_of

PLAN = small_plan()
PARTS = len(PLAN.public.places)
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
    assert received == PLAN.public.wire_bytes + len(aggregator.ended().body)
    assert spooled(tmp_path) == []
    assert security_log(session) == []


def test_a_round_is_two_questions_once_its_submission_is_in(tmp_path, aggregator):
    """Record and manifests in one answer, then the sum."""
    world = World(aggregator)
    world.run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert world.paths("GET") == [f"/v1/rounds/{ROUND}/record?wait={POLL_S}", f"/v1/rounds/{ROUND}/sum?from=0"]


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
            aggregator.stage = "paused" if world.time < 2 * day else "running"
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
    whole, again, verdict = world.paths("PUT")
    assert again == f"{whole}?from=1"
    assert verdict == f"/v1/rounds/{ROUND}/verdicts/a"


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
    aggregator.attempt = None
    world = World(aggregator, lambda request, body: Response(204) if "/record" in request.path else None)
    with pytest.raises(ProtocolError, match="expected a result by now") as caught:
        world.run(_flows.aggregate(session, OPEN, update_of()))
    assert caught.value.reason == Reason.SUM_NOT_READY
    assert OPEN.closes_at + 100 < world.time < OPEN.closes_at + 200
    assert session.is_stored(ROUND)


def excluding(aggregator, reason="bad-digest"):
    """Publish without this site."""

    def meddle(request: Request, body: bytes):
        if "/record" in request.path and aggregator.record is None:
            del aggregator.complete["a"]
            aggregator.close(excluded={"a": reason})

    return meddle


def late(aggregator, reason="incomplete"):
    """Publish without this site, which has no receipt: its last part came too late."""
    excluded = excluding(aggregator, reason)

    def meddle(request: Request, body: bytes):
        if request.method == "PUT":
            aggregator(request, body)
            return problem(409, "round-closed")
        return excluded(request, body)

    return meddle


def test_own_exclusion_is_told_with_its_reason(tmp_path, aggregator):
    session, world = session_for(tmp_path, PLAN), World(aggregator, late(aggregator, "bad-digest"))
    with pytest.raises(ProtocolError) as caught:
        world.run(_flows.aggregate(session, OPEN, update_of()))
    assert security_log(session) == []
    assert caught.value.reason == Reason.ROUND_CLOSED
    assert "published without this site's submission" in caught.value.message
    assert "bad-digest" in caught.value.message
    assert "round.fetch()" in caught.value.hint
    assert not any("/sum?" in path for path in world.paths("GET"))
    assert not session.is_stored(ROUND)  # it can never be counted
    assert_mean_of(World(aggregator).run(_flows.fetch(session, ROUND)), PLAN, [update_of(1), update_of(2)])


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("too-few-sites", "at least 2 are needed; of this site it says: too-few-sites"),
        ("epoch-changed", "round test.1.1 was given up: epoch-changed"),
        ("roster-changed", "round test.1.1 was given up: roster-changed"),
    ],
)
def test_failed_round(tmp_path, aggregator, why, text):
    excluded = {"a": why, "b": "absent", "c": "absent"}
    session, world = session_for(tmp_path, PLAN), World(aggregator, failing(aggregator, excluded=excluded))
    with pytest.raises(ProtocolError) as caught:
        world.run(_flows.aggregate(session, OPEN, update_of()))
    assert caught.value.reason == Reason.ROUND_FAILED
    assert text in caught.value.message
    assert "next attempt" in caught.value.hint
    assert session.pending() == []
    assert session.chain.head(1) == aggregator.record.digest  # it is part of the history
    assert security_log(session) == []


def failing(aggregator, **changed):
    def meddle(request: Request, body: bytes):
        if "/record" in request.path and aggregator.record is None:
            aggregator.fail(**changed)

    return meddle


@pytest.mark.parametrize(
    ("changed", "reason", "what"),
    [
        ({"round_id": RoundId("test", 1, 2)}, Reason.BAD_ANSWER, "record, round"),
        ({"signer": ("b", identity_of("b").signing_key)}, Reason.BAD_SIGNATURE, "record, signature"),
        ({"signer": (AGGREGATOR, SigningKey.generate())}, Reason.BAD_SIGNATURE, "record, signature"),
    ],
)
def test_failed_round_is_believed_of_the_aggregator_only(tmp_path, aggregator, changed, reason, what):
    session, world = session_for(tmp_path, PLAN), World(aggregator, failing(aggregator, **changed))
    with pytest.raises(ProtocolError, match=what) as caught:
        world.run(_flows.aggregate(session, OPEN, update_of()))
    assert caught.value.reason == reason
    assert session.is_stored(ROUND)  # nobody may make a site throw its submission away
    assert len(session.chain) == 0
    (line,) = security_log(session)
    assert (line["event"], line["what"]) == ("record-rejected", what)


@pytest.mark.parametrize("lie", ["manifests", "both"])
def test_manifests_behind_a_record_without_a_sum(tmp_path, aggregator, lie):
    """The record is honest and is remembered, and the answer is refused all the same; the record's own faults first."""
    signer = {"signer": (AGGREGATOR, SigningKey.generate())} if lie == "both" else {}
    fail = failing(aggregator, **signer)

    def meddle(request: Request, body: bytes):
        fail(request, body)
        if "/record?" not in request.path:
            return None
        return answer_of(aggregator.record.encode(), [aggregator.manifests[site].encode() for site in "abc"])

    session, world = session_for(tmp_path, PLAN), World(aggregator, meddle)
    what = "record, signature" if lie == "both" else "manifests, sites"
    with pytest.raises(ProtocolError, match=what):
        world.run(_flows.aggregate(session, OPEN, update_of()))
    assert session.is_stored(ROUND)
    assert len(session.chain) == (lie == "manifests")
    (line,) = security_log(session)
    assert (line["event"], line["what"]) == ("record-rejected", what)
    # Told honestly, it is a round that failed.
    if lie == "manifests":
        with pytest.raises(ProtocolError, match="too few sites submitted"):
            World(aggregator).run(_flows.fetch(session, ROUND))


NO_RECORDS = {
    "nothing": lambda honest: b"",
    "an object": lambda honest: b"{}",
    "an array": lambda honest: b"[]",
    "zeros": lambda honest: b"\x00" * 9,
    "a page": lambda honest: b"<html>",
    "a version": lambda honest: b'{"v":1}',
    "too deep": lambda honest: b"[" * 99_999,
    "the record alone": lambda honest: honest[honest.index(b'"record":') + 9 : -7],
    "another version": lambda honest: honest[:-2] + b"2}",
    "no version": lambda honest: honest[:-7] + b"}",
    "the record first": lambda honest: b'{"record":{},"manifests":[],"v":1}',
    "no record": lambda honest: honest[: honest.index(b'"record":')] + b'"record":{},"v":1}',
    "null": lambda honest: honest[: honest.index(b'"record":')] + b'"record":null,"v":1}',
    "a second record": lambda honest: honest[:-7] + b',"record":{},"v":1}',
    "something behind it": lambda honest: honest[:-7] + b',"x":1,"v":1}',
    "a space": lambda honest: honest.replace(b'"record":', b'"record": '),
    "a space at the end": lambda honest: honest + b" ",
    "another order": lambda honest: honest.replace(b'"outcome":"published"', b'"outcome" :"published"'),
    "cut": lambda honest: honest[:-1],
    "a manifest in its place": lambda honest: honest[: honest.index(b'"record":')] + b'"record":' + honest[15:900],
}


@pytest.mark.parametrize("spoilt", NO_RECORDS)
def test_record_that_is_none(tmp_path, aggregator, spoilt):
    """The manifests are honest, where there are any: the record is not."""

    def meddle(request: Request, body: bytes):
        if "/record" not in request.path:
            return None
        return Response(200, {}, NO_RECORDS[spoilt](aggregator(request, body).body))

    world = World(aggregator, meddle)
    with pytest.raises(ProtocolError, match=r"record of round test\.1\.1") as caught:
        world.run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert caught.value.reason == Reason.BAD_ANSWER


def asked(world: World) -> list[int]:
    """From which part on the sum was asked for, each time."""
    return [int(path.partition("?from=")[2]) for path in world.paths("GET") if "/sum?" in path]


def test_part_that_the_network_changed_is_fetched_again(tmp_path, aggregator):
    changed = []

    def meddle(request: Request, body: bytes):
        if "/sum?" in request.path and len(changed) < 2:
            changed.append(request.path)
            answer = aggregator(request, body).body
            return Response(200, {}, answer[:-1] + bytes([answer[-1] ^ 1]))
        return None

    world = World(aggregator, meddle)
    mean = world.run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])
    assert asked(world) == [0, PARTS - 1, PARTS - 1]  # what came before it is kept


@pytest.mark.parametrize("cut", ["nothing", "within a part", "a part", "longer"])
def test_answer_of_another_length(tmp_path, aggregator, cut):
    """An answer that ends too early is asked for again, but not for ever; one that does not end is refused."""
    lengths = {"nothing": 0, "within a part": 1000, "a part": PLAN.public.places[0].wire_bytes, "longer": -1}

    def meddle(request: Request, body: bytes):
        if "/sum?" not in request.path:
            return None
        answer = aggregator(request, body).body
        return Response(200, {}, answer + b"!" if cut == "longer" else answer[: lengths[cut]])

    session, world = session_for(tmp_path, PLAN), World(aggregator, meddle)
    if cut == "a part":  # each answer has one more
        mean = world.run(_flows.aggregate(session, OPEN, update_of()))
        assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])
        assert asked(world) == list(range(PARTS))
        return
    with pytest.raises(HeAggError) as caught:
        world.run(_flows.aggregate(session, OPEN, update_of()))
    assert caught.value.reason == (Reason.TOO_LARGE if cut == "longer" else Reason.SUM_REJECTED)
    assert asked(world) == [0] if cut == "longer" else [0, 0, 0]


@pytest.mark.parametrize("held", [True, False])
def test_interrupted_download_goes_on_with_the_missing_parts(tmp_path, aggregator, monkeypatch, held):
    """Whether it was in memory, or too long for that."""
    interrupted = []
    if not held:
        monkeypatch.setattr(_collect, "HELD_BYTES", PLAN.public.wire_bytes - 1)

    def meddle(request: Request, body: bytes):
        if "/sum?" not in request.path:
            return None
        interrupted.append(request.path)
        if len(interrupted) > 1:
            return unreachable()
        return Response(200, {}, aggregator(request, body).body[: -PLAN.public.places[-1].wire_bytes])

    session = session_for(tmp_path, PLAN, patience_s=1.0)
    with pytest.raises(TransportError):
        World(aggregator, meddle).run(_flows.aggregate(session, OPEN, update_of()))
    again = World(aggregator)
    mean = again.run(_flows.resume(session, OPEN))
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])
    assert asked(again) == [PARTS - 1]
    manifest, verdict = [body for line, body in again.sent if line.startswith("PUT")]
    assert Signed.parse(Manifest, manifest.rstrip(b" ")).body.site == "a"  # alone, for the receipt once more
    assert Signed.parse(Verdict, verdict).body.verdict == "opened"


@pytest.mark.parametrize(("held", "written"), [(True, 0), (False, PARTS)])
def test_sum_is_written_only_if_it_is_long(tmp_path, aggregator, monkeypatch, held, written):
    count, write = [], SumParts._write
    monkeypatch.setattr(SumParts, "_write", lambda self, *part: count.append(part) or write(self, *part))
    if not held:
        monkeypatch.setattr(_collect, "HELD_BYTES", PLAN.public.wire_bytes - 1)
    mean = World(aggregator).run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])
    assert len(count) == written


@pytest.mark.parametrize("full", [True, False])
def test_download_that_a_person_ends_goes_on_as_well(tmp_path, aggregator, monkeypatch, full):
    """A full disk costs what was in memory, and hides nothing."""

    class EndedError(BaseException):
        """Ctrl-C."""

    def meddle(request: Request, body: bytes):
        if "/sum?" in request.path:
            return Response(200, {}, aggregator(request, body).body[: PLAN.public.places[0].wire_bytes + 10])
        return None

    session, world = session_for(tmp_path, PLAN), World(aggregator, meddle)

    def end(number: int) -> None:
        if any(isinstance(e, PhaseProgress) and e.phase == "download" for e in world.events):
            raise EndedError

    world.before = end
    with monkeypatch.context() as patch:
        if full:
            no_room = OSError(errno.ENOSPC, "No space left on device")
            patch.setattr(_sum_parts, "create", lambda *_, **__: (_ for _ in ()).throw(no_room))
        with pytest.raises(EndedError):
            world.run(_flows.aggregate(session, OPEN, update_of()))
    again = World(aggregator)
    assert_mean_of(again.run(_flows.resume(session, OPEN)), PLAN, [update_of(0), update_of(1), update_of(2)])
    assert asked(again) == [0 if full else 1]


def test_what_the_disk_spoiled_is_fetched_again(tmp_path, aggregator):
    """What lies after it is here, and looked at once."""
    session = session_for(tmp_path, PLAN, patience_s=1.0)
    whole = World(aggregator)
    whole.run(_flows.submit(session, OPEN, update_of()))
    aggregator.close()
    sums = session.spool.entry(ROUND).sum_parts()
    for number, data in enumerate(aggregator.sum):
        sums.keep(number, memoryview(b"rot" if number == 0 else data))
    again = World(aggregator)
    mean = again.run(_flows.resume(session, OPEN))
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])
    assert asked(again) == [0]
    done = [e.done_bytes for e in again.events if isinstance(e, PhaseProgress) and e.phase == "download"]
    assert len(done) == PARTS
    assert done == sorted(done)
    assert done[-1] == PLAN.public.wire_bytes


def test_resume_finishes_after_the_round_has_closed(tmp_path, aggregator):
    """Complete before the crash, closed after it: the aggregator takes nothing more, and the record has the site."""
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    world = World(
        aggregator,
        lambda r, b: problem(409, "round-closed") if "/submissions/" in r.path else None,
    )
    mean = world.run(_flows.resume(session, OPEN))
    assert mean.n_sites == 3
    assert session.pending() == []


def test_resume_of_a_round_that_closed_too_early(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN, patience_s=1.0)
    offline = World(aggregator, lambda request, body: unreachable() if request.method == "PUT" else None)
    with pytest.raises(TransportError):
        offline.run(_flows.aggregate(session, OPEN, update_of()))
    aggregator.close()
    world = World(
        aggregator,
        lambda r, b: problem(409, "round-closed") if "/submissions/" in r.path else None,
    )
    with pytest.raises(ProtocolError, match="published without this site's submission"):
        world.run(_flows.resume(session, OPEN))
    # The mean of the others can be had all the same.
    mean = World(aggregator).run(_flows.fetch(session, ROUND))
    assert_mean_of(mean, PLAN, [update_of(1), update_of(2)])


def test_resume_without_anything_stored(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    with pytest.raises(InputError, match="expected a stored submission"):
        World(aggregator).run(_flows.resume(session, OPEN))


def test_fetch_works_although_the_stored_manifest_is_damaged(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    (session.spool.entry(ROUND).path / "submission.json").write_bytes(b"rot")
    assert World(aggregator).run(_flows.fetch(session, ROUND)).n_sites == 3


def test_fetch_of_another_federation(tmp_path, aggregator):
    with pytest.raises(InputError, match="expected a round of federation test"):
        World(aggregator).run(_flows.fetch(session_for(tmp_path, PLAN), RoundId("other", 1, 1)))


@pytest.mark.parametrize("failed", [0, 1, 2])
def test_fetch_of_the_latest_when_there_is_none(tmp_path, aggregator, failed):
    for attempt in range(1, failed + 1):
        aggregator.open(RoundId("test", 1, attempt))
        aggregator.fail()
    with pytest.raises(ProtocolError, match="there is none yet") as caught:
        World(aggregator).run(_flows.fetch_latest(session_for(tmp_path, PLAN)))
    assert caught.value.reason == Reason.SUM_NOT_READY


@pytest.mark.parametrize("failed", [0, 1, 3])
def test_fetch_of_the_latest(tmp_path, aggregator, failed):
    """By the records, whatever failed since."""
    aggregator.close()
    for attempt in range(1, failed + 1):
        aggregator.open(RoundId("test", 2, attempt))
        aggregator.fail()
    world = World(aggregator)
    mean = world.run(_flows.fetch_latest(session_for(tmp_path, PLAN)))
    assert_mean_of(mean, PLAN, [update_of(1), update_of(2)])
    assert sum("/records/" in path for path in world.paths("GET")) == 1 + failed + 1


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
