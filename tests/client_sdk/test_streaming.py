"""Parts leave while others are encrypted; who is killed in between goes on with the very same bytes."""

from __future__ import annotations

import dataclasses
import shutil
import threading

import numpy as np
import pytest

from client_sdk._disk.files import read_file
from client_sdk._disk.spool import SpoolEntry
from client_sdk._effects import Request
from client_sdk._protocol import encrypt as _encrypt
from client_sdk._protocol import outgoing as _outgoing
from client_sdk._protocol import submit as _submit
from client_sdk._protocol import verbs as _flows
from client_sdk.federated import Update
from client_sdk.progress import PhaseFinished
from he_agg import Layout, Plan, TensorSpec
from he_agg.codecs.hybrid import HybridCodec
from he_agg.errors import InputError, Reason, TransportError, WireError
from tests.support.flows import (
    OPEN,
    ROUND,
    FakeAggregator,
    KilledError,
    World,
    session_for,
    unreachable,
)

VALUES = 200_000
PLAN = Plan.create(
    "test",
    Layout((TensorSpec("w", (VALUES,), "float32", 1.0),), 10),
    max_sites=5,
    min_sites=3,
    codec="hybrid",
    part_bytes=2**16,
)
PARTS = len(PLAN.public.places)
UPDATE = Update({"w": np.linspace(-1, 1, VALUES, dtype=np.float32)}, 3)
OTHER = Update({"w": np.linspace(-1, 0.5, VALUES, dtype=np.float32)}, 3)


@pytest.fixture
def aggregator():
    return FakeAggregator(PLAN)


@pytest.fixture(autouse=True)
def _part_by_part(monkeypatch):
    monkeypatch.setattr(_submit, "_RUN_BYTES", 1)
    monkeypatch.setattr(_encrypt, "_SHORT_BYTES", 0)


class Gate:
    """Lets the codec make the first parts, so many of them, and then has it wait."""

    def __init__(self, monkeypatch, made: int) -> None:
        self._made, self.open = made, threading.Event()
        encrypt = HybridCodec.encrypt

        def gated(codec, *arguments, **options):
            made = set()  # parts of one place in all sections come together
            for part in encrypt(codec, *arguments, **options):
                if made >= set(range(self._made)):
                    assert self.open.wait(30)
                made.add(part.number)
                yield part

        monkeypatch.setattr(HybridCodec, "encrypt", gated)


def dead(step: int, root, at: Gate | None = None):
    """A process that is killed when it sends its request number `step`; its spool as the kill leaves it."""
    sent: list[str] = []

    def meddle(request: Request, body: bytes):
        if request.method == "PUT":
            sent.append(request.path)
            if len(sent) == step:
                half_written = shutil.ignore_patterns(".*")
                shutil.copytree(root / "before", root / "after", ignore=half_written)
                if at is not None:
                    at.open.set()
                raise KilledError
        return

    return meddle


def test_parts_leave_before_all_are_made(tmp_path, aggregator, monkeypatch):
    """The codec is held back until the first part has arrived."""
    gate = Gate(monkeypatch, 2)

    def meddle(request: Request, body: bytes):
        if request.method == "PUT":
            gate.open.set()

    world = World(aggregator, meddle)
    receipt = world.run(_flows.submit(session_for(tmp_path, PLAN), OPEN, UPDATE))
    assert aggregator.complete == {"a": receipt.id}
    assert len(world.paths("PUT")) == PARTS >= 6
    assert [e.phase for e in world.events if isinstance(e, PhaseFinished)] == ["encrypt", "upload"]
    assert not (tmp_path / "spool" / "a" / str(ROUND) / "begun").exists()


def test_a_call_that_is_given_up_leaves_nothing_running(tmp_path, aggregator, monkeypatch):
    """An asynchronous one is, when its task is cancelled: the step ends, and what it returns is nobody's."""
    gate, stream = Gate(monkeypatch, 2), _encrypt._stream

    def given_up(*arguments):
        stream(*arguments)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(_encrypt, "_stream", given_up)
        with pytest.raises(KilledError):
            World(aggregator).run(_flows.submit(session_for(tmp_path, PLAN), OPEN, UPDATE))
    assert "he-agg-encrypt" not in {thread.name for thread in threading.enumerate()}
    gate.open.set()
    receipt = World(aggregator).run(_flows.submit(session_for(tmp_path, PLAN), OPEN, UPDATE))
    assert aggregator.complete == {"a": receipt.id}


@pytest.mark.parametrize("parts", [0, 2, PARTS])
def test_a_slow_link_leaves_no_more_in_memory_than_is_said(tmp_path, aggregator, monkeypatch, parts):
    """All is encrypted before anything leaves; what does not fit into memory leaves from the disk."""
    most = sum(place.wire_bytes for place in sorted(PLAN.public.places, key=lambda p: -p.wire_bytes)[:parts])
    monkeypatch.setattr(_outgoing, "HELD_BYTES", most)
    read, held = [], []
    monkeypatch.setattr(_submit, "read_file", lambda path, length: read.append(path) or read_file(path, length))
    session, start = session_for(tmp_path, PLAN), _outgoing.Encrypting.start

    def all_of_it(outgoing):
        start(outgoing)
        outgoing.stored()
        held.append(sum(map(len, outgoing._held.values())))

    monkeypatch.setattr(_outgoing.Encrypting, "start", all_of_it)
    World(aggregator).run(_flows.submit(session, OPEN, UPDATE))
    (sent,) = aggregator.uploads.values()
    entry = session.spool.entry(ROUND)
    assert sent == {number: entry.part_path(number).read_bytes() for number in range(PARTS)}
    assert held[0] <= most
    assert PARTS - len(read) >= parts
    assert bool(read) == (parts < PARTS)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("step", range(1, PARTS))
def test_killed_at_every_part_it_goes_on_with_the_same_bytes(tmp_path, aggregator, monkeypatch, step, rounding):
    """What has left is never made another time: what the second process sends fits what the aggregator has."""
    update = dataclasses.replace(UPDATE, rounding=rounding)
    gate = Gate(monkeypatch, step)
    world = World(aggregator, dead(step, tmp_path, gate))
    with pytest.raises(KilledError):
        world.run(_flows.submit(session_for(tmp_path / "before", PLAN), OPEN, update))
    (upload,) = aggregator.uploads or {world.paths("PUT")[0].rpartition("/")[2]: {}}
    there = dict(aggregator.uploads.get(upload, {}))
    assert len(there) == step - 1
    entry = tmp_path / "after" / "spool" / "a" / str(ROUND)
    assert (entry / "begun").exists()
    assert not (entry / "submission.json").exists()
    again = World(aggregator)
    receipt = again.run(_flows.submit(session_for(tmp_path / "after", PLAN), OPEN, update))
    assert (list(aggregator.uploads), aggregator.complete) == ([upload], {"a": receipt.id})
    assert {n: aggregator.uploads[upload][n] for n in there} == there
    assert len(again.paths("PUT")) == PARTS - (step - 1)
    # And the first process, had it lived, had made the very same.
    first = {int(path.name[-5:]): path.read_bytes() for path in (tmp_path / "before").rglob("part-*")}
    assert len(first) >= step
    assert first == {number: aggregator.uploads[upload][number] for number in first}


@pytest.mark.parametrize("change", ["update", "weight", "rounding"])
def test_what_was_begun_is_not_gone_on_with_as_something_else(tmp_path, aggregator, monkeypatch, change):
    gate = Gate(monkeypatch, 3)
    with pytest.raises(KilledError):
        World(aggregator, dead(3, tmp_path, gate)).run(
            _flows.submit(session_for(tmp_path / "before", PLAN), OPEN, UPDATE)
        )
    other = {
        "update": OTHER,
        "weight": dataclasses.replace(UPDATE, weight=4),
        "rounding": dataclasses.replace(UPDATE, rounding="stochastic"),
    }[change]
    session, world = session_for(tmp_path / "after", PLAN), World(aggregator)
    with pytest.raises(InputError, match="expected the update that was begun") as caught:
        world.run(_flows.submit(session, OPEN, other))
    assert (caught.value.reason, world.paths("PUT")) == (Reason.SECOND_SUBMISSION, [])
    assert World(aggregator).run(_flows.submit(session, OPEN, UPDATE)).site == "a"


def test_what_was_begun_and_never_left_makes_room_for_another_update(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)

    def kill(number: int) -> None:
        if (session.spool.entry(ROUND).path / "begun").exists():
            raise KilledError

    world = World(aggregator)
    world.before = kill
    with pytest.raises(KilledError):
        world.run(_flows.submit(session, OPEN, UPDATE))
    assert session.ledger.sent(ROUND) is None
    receipt = World(aggregator).run(_flows.submit(session, OPEN, OTHER))
    assert aggregator.complete == {"a": receipt.id}


def test_unreachable_aggregator_and_all_of_it_is_in_the_spool(tmp_path, aggregator):
    """So that it can be finished without the update."""
    session = session_for(tmp_path, PLAN, patience_s=1.0)
    with pytest.raises(TransportError):
        World(aggregator, lambda request, body: unreachable()).run(_flows.submit(session, OPEN, UPDATE))
    assert session.is_stored(ROUND)
    assert session.pending() == [ROUND]


def test_damaged_key_part_is_not_made_again(tmp_path, aggregator, monkeypatch):
    """It may have left, and another one would be a second encryption of the same key."""
    gate = Gate(monkeypatch, 3)
    with pytest.raises(KilledError):
        World(aggregator, dead(3, tmp_path, gate)).run(
            _flows.submit(session_for(tmp_path / "before", PLAN), OPEN, UPDATE)
        )
    session = session_for(tmp_path / "after", PLAN)
    path = session.spool.entry(ROUND).part_path(0)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(WireError, match="part-00000 is damaged"):
        World(aggregator).run(_flows.submit(session, OPEN, UPDATE))


def test_two_encryptions_have_nothing_in_common(tmp_path):
    """Two machines, or two attempts, of one update: each draws its salt."""
    parts = []
    for place in ("one", "two"):
        session = session_for(tmp_path / place, PLAN)
        World(FakeAggregator(PLAN)).run(_flows.submit(session, OPEN, UPDATE))
        entry: SpoolEntry = session.spool.entry(ROUND)
        parts.append([entry.part_path(n).read_bytes()[64:] for n in range(PARTS)])
    same = [np.mean(np.frombuffer(a, np.uint8) == np.frombuffer(b, np.uint8)) for a, b in zip(*parts, strict=True)]
    assert max(same) < 0.05
