"""A call that is given up, and impatiently: nothing of it goes on beside the next one, and that one can go on."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from client_sdk._disk.spool import SpoolEntry
from client_sdk._disk.sum_parts import SumParts
from client_sdk._protocol import encrypt as _encrypt
from client_sdk._protocol import submit as _submit
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.outgoing import Encrypting
from client_sdk.progress import PhaseStarted
from he_agg.errors import ConfigError, Reason, TransportError
from tests.client_sdk.driving import CANCELS, InMemory, turns
from tests.support.flows import (
    OPEN,
    FakeAggregator,
    World,
    assert_mean_of,
    session_for,
    small_plan,
    spooled,
    unreachable,
    update_of,
)

PLAN = small_plan(codec="hybrid")  # which can begin to send while it encrypts


@pytest.fixture
def aggregator() -> FakeAggregator:
    return FakeAggregator(PLAN)


class Held:
    """Holds a method up, the first time or whenever it is called with one number."""

    def __init__(self, monkeypatch, kind: type, name: str, number: int | None = None) -> None:
        self.begun, self.over, self.threads = threading.Event(), threading.Event(), []
        self.under_way = 0
        real = getattr(kind, name)

        def method(*arguments, **options):
            self.threads.append(threading.current_thread())
            self.under_way += 1
            try:
                if len(self.threads) == 1 if number is None else number in arguments:
                    self.begun.set()
                    assert self.over.wait(20.0)
                return real(*arguments, **options)
            finally:
                self.under_way -= 1

        monkeypatch.setattr(kind, name, method)


def part_by_part(monkeypatch) -> None:
    monkeypatch.setattr(_encrypt, "_SHORT_BYTES", 0)
    monkeypatch.setattr(_submit, "_RUN_BYTES", 1)


def give_up(world: World, flow, held: Held, cancel, times: int, at: threading.Event | None = None) -> None:
    """Cancel a call in a step, so many times; it ends with the step, and not before."""
    begun = at or held.begun

    async def main():
        transport = InMemory(world)
        task = asyncio.create_task(transport.run(flow, lambda event: None))
        assert await asyncio.to_thread(begun.wait, 20.0)
        try:
            for _ in range(times):
                cancel(task)
                await turns()
                assert not task.done(), "it has gone on beside its own step"
        finally:
            held.over.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert held.under_way == 0
        assert "he-agg-encrypt" not in {thread.name for thread in threading.enumerate()}
        await transport.close()

    asyncio.run(main())


@pytest.mark.parametrize("cancel", CANCELS)
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("step", ["begin", "write_part", "seal", "remove"])
def test_nothing_writes_where_a_cancelled_call_has_cleaned_up(
    tmp_path, aggregator, monkeypatch, step, streamed, times, cancel
):
    session = session_for(tmp_path, PLAN)
    with monkeypatch.context() as patch:
        if streamed:
            part_by_part(patch)
        held = Held(patch, SpoolEntry, step)
        give_up(World(aggregator), _flows.submit(session, OPEN, update_of()), held, cancel, times)
    if not streamed:
        assert spooled(tmp_path) == []
    receipt = World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    assert aggregator.complete == {"a": receipt.id}
    assert len(aggregator.uploads) == 1


@pytest.mark.parametrize("cancel", CANCELS)
def test_what_was_begun_goes_on_after_a_call_that_was_given_up(tmp_path, aggregator, monkeypatch, cancel):
    """A part is on its way, another one is still written."""
    session = session_for(tmp_path, PLAN)
    with monkeypatch.context() as patch:
        part_by_part(patch)
        held, left = Held(patch, SpoolEntry, "write_part", number=1), threading.Event()
        world = World(lambda request, body: (aggregator(request, body), left.set())[0])
        give_up(world, _flows.submit(session, OPEN, update_of()), held, cancel, 2, left)
    assert list(aggregator.uploads) == [session.ledger.sent(OPEN.id).upload]
    receipt = World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    assert aggregator.complete == {"a": receipt.id}
    assert len(aggregator.uploads) == 1


def test_impatient_person_waits_for_the_part_that_is_being_written(tmp_path, aggregator, monkeypatch):
    """Ctrl-C, and again while the call ends."""
    session, log = session_for(tmp_path, PLAN), []
    begun, again, given_up = threading.Event(), threading.Event(), threading.Event()
    write = SpoolEntry.write_part

    def held(entry, number, data):
        begun.set()
        assert again.wait(20.0)
        given_up.wait(0.2)  # which it must not be
        written = write(entry, number, data)
        log.append("written")
        return written

    class Ending(threading.Event):
        """The end of an encryption, which somebody interrupts who waits for it."""

        def wait(self, timeout=None):
            if not again.is_set():
                again.set()
                signal.raise_signal(signal.SIGINT)
            return super().wait(timeout)

    def interrupt(number: int) -> None:
        if encrypting and begun.wait(20.0):
            raise KeyboardInterrupt

    def start(one: Encrypting) -> None:
        one._ended = Ending()
        encrypting.append(one)
        begin(one)

    encrypting: list[Encrypting] = []
    begin = Encrypting.start
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            part_by_part(patch)
            patch.setattr(SpoolEntry, "write_part", held)
            patch.setattr(Encrypting, "start", start)
            world = World(aggregator)
            world.before = interrupt
            with pytest.raises(KeyboardInterrupt):
                world.run(_flows.submit(session, OPEN, update_of()))
            log.append("given up")
            given_up.set()
    finally:
        signal.signal(signal.SIGINT, before)
    assert again.is_set()
    assert set(log[:-1]) == {"written"}
    assert log[-1] == "given up"
    receipt = World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    assert aggregator.complete == {"a": receipt.id}


def broken_download(aggregator: FakeAggregator, then) -> World:
    """All parts of the sum but the last arrive."""

    def meddle(request, body):
        if "/sum?" not in request.path:
            return None
        if "from=0" not in request.path:
            return then()
        whole = aggregator(request, body)
        return type(whole)(200, {}, whole.body[: -PLAN.public.places[-1].wire_bytes])

    return World(aggregator, meddle)


@pytest.mark.parametrize("how", ["error", "cancelled"])
def test_sum_that_did_not_come_whole_is_written_beside_the_event_loop(tmp_path, aggregator, monkeypatch, how):
    session, stuck, over = session_for(tmp_path, PLAN, patience_s=0.01), threading.Event(), threading.Event()
    aggregator.others_submit()

    def wait():
        stuck.set()
        over.wait(0.2)
        return unreachable()

    async def main():
        transport = InMemory(broken_download(aggregator, wait))
        task = asyncio.create_task(transport.run(_flows.aggregate(session, OPEN, update_of()), lambda event: None))
        if how == "cancelled":
            await asyncio.to_thread(stuck.wait, 20.0)
            task.cancel()
            over.set()
        with pytest.raises(asyncio.CancelledError if how == "cancelled" else TransportError):
            await task
        await transport.close()

    with monkeypatch.context() as patch:
        writes = Held(patch, SumParts, "store")
        writes.over.set()
        asyncio.run(main())
    assert len(writes.threads) == 1
    assert threading.current_thread() not in writes.threads
    again = World(aggregator)
    mean = again.run(_flows.resume(session, OPEN))
    assert_mean_of(mean, PLAN, [update_of(i) for i in range(3)])
    (asked,) = [path for path in again.paths("GET") if "/sum?" in path]
    assert asked.endswith(f"from={len(PLAN.public.places) - 1}")


def test_what_a_full_disk_ended_is_cleaned_up_beside_the_event_loop(tmp_path, aggregator, monkeypatch):
    session = session_for(tmp_path, PLAN)
    no_room = ConfigError(Reason.STORAGE_FULL, "no room")

    async def main():
        transport = InMemory(World(aggregator))
        with pytest.raises(ConfigError):
            await transport.run(_flows.submit(session, OPEN, update_of()), lambda event: None)
        await transport.close()

    with monkeypatch.context() as patch:
        removals = Held(patch, SpoolEntry, "remove")
        removals.over.set()
        patch.setattr(SpoolEntry, "seal", lambda *_: (_ for _ in ()).throw(no_room))
        asyncio.run(main())
    assert len(removals.threads) == 2  # before it began, and afterwards
    assert threading.current_thread() not in removals.threads
    assert spooled(tmp_path) == []


def test_what_a_listener_ended_is_waited_for_beside_the_event_loop(tmp_path, aggregator, monkeypatch):
    session = session_for(tmp_path, PLAN)

    def listener(event):
        if isinstance(event, PhaseStarted) and event.phase == "upload":
            raise LookupError

    async def main():
        transport = InMemory(World(aggregator))
        with pytest.raises(LookupError):
            await transport.run(_flows.submit(session, OPEN, update_of()), listener)
        assert "he-agg-encrypt" not in {thread.name for thread in threading.enumerate()}
        await transport.close()

    with monkeypatch.context() as patch:
        part_by_part(patch)
        ends = Held(patch, Encrypting, "close")
        ends.over.set()
        asyncio.run(main())
    assert len(ends.threads) == 1
    assert threading.current_thread() not in ends.threads
    receipt = World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    assert aggregator.complete == {"a": receipt.id}
