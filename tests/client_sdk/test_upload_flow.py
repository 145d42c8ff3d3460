"""What is missing goes in as few requests as may be, and what goes wrong then, without a network."""

from __future__ import annotations

import hashlib
import re

import pytest

from client_sdk._effects import Request
from client_sdk._protocol import submit as _submit
from client_sdk._protocol import verbs as _flows
from client_sdk.progress import PhaseFinished, PhaseProgress
from he_agg.errors import ProtocolError, Reason, TransportError
from he_agg.protocol.messages import Receipt
from tests.support.flows import (
    OPEN,
    ROUND,
    FakeAggregator,
    World,
    problem,
    receipt_of,
    session_for,
    small_plan,
    unreachable,
    update_of,
)

PLAN = small_plan()
PARTS = len(PLAN.public.places)


@pytest.fixture
def aggregator():
    return FakeAggregator(PLAN)


def requests(world: World) -> list[str]:
    return [re.sub(r"/v1/rounds/[^/]+/submissions/[^/?]+", "", line) for line, _ in world.sent]


def test_one_request_and_every_byte_counted(tmp_path, aggregator):
    session, world = session_for(tmp_path, PLAN), World(aggregator)
    receipt = world.run(_flows.submit(session, OPEN, update_of()))
    assert aggregator.complete == {"a": receipt.id}
    entry, body = session.spool.entry(ROUND), world.sent[0][1]
    nonce = session.stored(entry).manifest.nonce
    assert [line for line, _ in world.sent] == [f"PUT /v1/rounds/{ROUND}/submissions/{nonce}"]
    parts = b"".join(entry.part_path(number).read_bytes() for number in range(PARTS))
    assert body.startswith(parts)
    assert hashlib.sha256(body.removeprefix(parts).rstrip(b" ")).hexdigest() == receipt.id
    total = PLAN.public.wire_bytes
    done = [e.done_bytes for e in world.events if isinstance(e, PhaseProgress) and e.phase == "upload"]
    assert done == [total]
    finished = [e for e in world.events if isinstance(e, PhaseFinished) and e.phase == "upload"]
    assert [e.sent_bytes for e in finished] == [len(body)]


def test_long_submissions_go_in_several_requests(tmp_path, aggregator, monkeypatch):
    """As many parts as fit, but at least one; what breaks off within one of them goes on from there."""
    one, two, three = (place.wire_bytes for place in PLAN.public.places)
    for most, sent in ((one + two, ["PUT ", "PUT ?from=2"]), (1, ["PUT ", "PUT ?from=1", "PUT ?from=2"])):
        monkeypatch.setattr(_submit, "_RUN_BYTES", most)
        fresh = FakeAggregator(PLAN)
        world = World(fresh)
        receipt = world.run(_flows.submit(session_for(tmp_path / str(most), PLAN), OPEN, update_of()))
        assert requests(world) == sent
        assert fresh.complete == {"a": receipt.id}
        done = [e.done_bytes for e in world.events if isinstance(e, PhaseProgress) and e.phase == "upload"]
        assert done[-1] == one + two + three
        assert done == sorted(done)


def part(tmp_path, number: int) -> bytes:
    return (tmp_path / "spool" / "a" / str(ROUND) / f"part-{number:05d}").read_bytes()


@pytest.mark.parametrize(
    ("there", "sent"),
    [
        ([0], ["PUT ?from=1"]),
        ([0, 1], ["PUT ?from=2"]),
        ([1], ["PUT ", "PUT ?from=2"]),
        ([2], ["PUT ", "PUT ?from=3"]),
        ([0, 2], ["PUT ?from=1", "PUT ?from=3"]),
        ([0, 1, 2], ["PUT ?from=3"]),
    ],
)
def test_what_is_there_already_is_not_sent_again(tmp_path, aggregator, there, sent):
    """Consecutive parts go in one request. The manifest comes alone if the last part is there."""
    session = session_for(tmp_path, PLAN, patience_s=1.0)
    with pytest.raises(TransportError):
        World(aggregator, lambda request, body: unreachable()).run(_flows.submit(session, OPEN, update_of()))
    stored = session.stored(session.spool.entry(ROUND))
    aggregator.uploads[stored.manifest.nonce] = {number: part(tmp_path, number) for number in there}
    world = World(aggregator)
    world.run(_flows.submit(session, OPEN, update_of()))
    assert requests(world) == ["GET ", *sent]
    missing = b"".join(part(tmp_path, number) for number in range(PARTS) if number not in there)
    assert b"".join(body for line, body in world.sent if line.startswith("PUT")) == missing + stored.encoded
    done = [e.done_bytes for e in world.events if isinstance(e, PhaseProgress) and e.phase == "upload"]
    assert (done, done[-1]) == (sorted(done), PLAN.public.wire_bytes)


@pytest.mark.parametrize("arrived", range(PARTS + 1))
def test_what_was_interrupted_goes_on_where_the_aggregator_says(tmp_path, aggregator, arrived):
    """The connection breaks after so many parts. What is there is not sent again."""
    broken = []

    def meddle(request: Request, body: bytes):
        if request.method == "PUT" and not broken:
            own = request.path.rpartition("/")[2]
            aggregator.uploads[own] = {number: part(tmp_path, number) for number in range(arrived)}
            broken.append(own)
            return unreachable()
        return None

    world = World(aggregator, meddle)
    session = session_for(tmp_path, PLAN)
    receipt = world.run(_flows.submit(session, OPEN, update_of()))
    last = "PUT " + (f"?from={arrived}" if arrived else "")
    assert requests(world) == ["PUT ", "GET ", last]
    rest = b"".join(part(tmp_path, number) for number in range(arrived, PARTS))
    assert hashlib.sha256(world.sent[2][1].removeprefix(rest).rstrip(b" ")).hexdigest() == receipt.id
    assert aggregator.complete == {"a": receipt.id}
    finished = [e for e in world.events if isinstance(e, PhaseFinished) and e.phase == "upload"]
    assert [e.sent_bytes for e in finished] == [len(world.sent[0][1] + world.sent[2][1])]


def test_answer_that_is_lost_is_asked_for_again(tmp_path, aggregator):
    lost = []

    def meddle(request: Request, body: bytes):
        if request.method == "PUT" and not lost:
            lost.append(aggregator(request, body))
            return unreachable()
        return None

    world = World(aggregator, meddle)
    receipt = world.run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert requests(world) == ["PUT ", "GET ", "PUT ?from=3"]
    assert aggregator.complete == {"a": receipt.id}


def test_part_that_was_lost_before_the_others_comes_again(tmp_path, aggregator):
    """The aggregator's disk lost the first part, and the connection broke after the second one."""
    broken = []

    def meddle(request: Request, body: bytes):
        if request.method == "PUT" and not broken:
            own = request.path.rpartition("/")[2]
            aggregator.uploads[own] = {1: part(tmp_path, 1)}
            broken.append(own)
            return unreachable()
        return None

    world = World(aggregator, meddle)
    world.run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert requests(world) == ["PUT ", "GET ", "PUT ", "PUT ?from=2"]


def test_changed_on_the_way_it_is_sent_again(tmp_path, aggregator):
    changed = []

    def meddle(request: Request, body: bytes):
        if request.method == "PUT" and len(changed) < 2:
            changed.append(request.path)
            at = PLAN.public.wire_bytes - 1 if len(changed) == 1 else PLAN.public.places[2].wire_bytes - 1
            return aggregator(request, body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
        return None

    world = World(aggregator, meddle)
    world.run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert requests(world) == ["PUT ", "GET ", "PUT ?from=2", "GET ", "PUT ?from=2"]


def test_always_changed_on_the_way_is_an_error(tmp_path, aggregator):
    def meddle(request: Request, body: bytes):
        return problem(400, "bad-digest", "part 2: another digest") if request.method == "PUT" else None

    world = World(aggregator, meddle)
    with pytest.raises(ProtocolError, match="part 2: another digest"):
        world.run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert len(world.paths("PUT")) == 3


def test_always_changed_in_another_request_than_the_manifests_is_an_error(tmp_path, aggregator):
    """Parts are taken, for their digests come at the end; there it shows, and is not tried for ever."""

    def meddle(request: Request, body: bytes):
        if request.method != "PUT" or body.startswith(b"{"):
            return None
        at = PLAN.public.places[0].wire_bytes - 1
        return aggregator(request, body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])

    world = World(aggregator, meddle)
    with pytest.raises(ProtocolError) as caught:
        world.run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert caught.value.reason == Reason.BAD_DIGEST
    assert len(world.paths("PUT")) <= 6


def test_receipt_of_another_submission_is_refused(tmp_path, aggregator):
    def lie(request: Request, body: bytes):
        if request.method == "PUT":
            answer = aggregator(request, body)
            return type(answer)(200, {}, receipt_of(Receipt("00" * 32, str(ROUND), "a", 1)))
        return None

    session = session_for(tmp_path, PLAN)
    with pytest.raises(ProtocolError, match="receipt, submission"):
        World(aggregator, lie).run(_flows.submit(session, OPEN, update_of()))


def test_round_that_closed_in_the_meantime(tmp_path, aggregator):
    def meddle(request: Request, body: bytes):
        return problem(409, "round-closed", "too late") if request.method == "PUT" else None

    with pytest.raises(ProtocolError, match="closed before this site's submission was complete"):
        World(aggregator, meddle).run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
