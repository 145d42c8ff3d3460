"""Flows side by side: in both drivers the same results, the same first error, and never two calls of a listener."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from client_sdk._net.signing import Signer
from client_sdk._net.transport import AsyncTransport, Transport
from client_sdk._protocol.effects import Compute, Report, compute, together
from client_sdk.progress import PhaseProgress
from he_agg.signing import SigningKey

SIGNER = Signer("a", SigningKey.generate(), "test")
URL = "http://127.0.0.1:9"


def blocking(flow, listener=lambda event: None):
    transport = Transport(URL, SIGNER)
    try:
        return transport.run(flow, listener)
    finally:
        transport.close()


def on_asyncio(flow, listener=lambda event: None):
    async def run():
        transport = AsyncTransport(URL, SIGNER)
        try:
            return await transport.run(flow, listener)
        finally:
            await transport.close()

    return asyncio.run(run())


both = pytest.mark.parametrize("run", [blocking, on_asyncio])


def said(number):
    return PhaseProgress("r", "upload", number, 10)


def after(seconds, number, began=None):
    def flow():
        if began is not None:
            began.append(number)
        yield Compute(lambda: time.sleep(seconds))
        return number

    return flow


def broken(seconds, text):
    def flow():
        yield Compute(lambda: time.sleep(seconds))
        raise ValueError(text)

    return flow


@both
def test_results_are_in_order_whoever_ends_first(run):
    events = []
    flow = together([after(0.3, 1), after(0.0, 2), after(0.1, 3)], 3, said)
    assert run(flow, events.append) == [1, 2, 3]
    assert [event.done_bytes for event in events] == [2, 3, 1]


@both
def test_they_do_run_side_by_side_and_never_more_than_the_width(run):
    meeting, running, most = threading.Barrier(2, timeout=10), [], []

    def meet(number):
        def work():
            running.append(number)
            most.append(len(running))
            meeting.wait()  # nobody gets on alone
            running.remove(number)

        return lambda: compute(work)

    run(together([meet(n) for n in range(6)], 2, lambda _: said(0)))
    assert max(most) == 2


@both
def test_the_first_error_in_order_ends_it_and_no_other_begins(run):
    began = []
    flows = [broken(0.3, "first"), broken(0.2, "second"), *(after(0, n, began) for n in range(5))]
    with pytest.raises(ValueError, match="first"):
        run(together(flows, 2, said))
    assert began == []


@both
def test_the_error_is_the_flows_to_handle(run):
    def flow():
        try:
            yield from together([broken(0, "no")], 2, said)
        except ValueError as error:
            return f"handled {error}"

    assert run(flow()) == "handled no"


@both
def test_reports_come_to_the_thread_that_drives(run):
    threads, inside = set(), []

    def listener(event):
        inside.append(event)
        assert len(inside) == 1
        time.sleep(0.01)
        threads.add(threading.get_ident())
        inside.pop()

    def talk():
        for number in range(5):
            yield Report(said(number))
        return 0

    run(together([talk] * 4, 4, said), listener)
    assert threads == {threading.get_ident()}


@both
def test_a_listener_that_fails_ends_it(run):
    began = []

    def listener(event):
        raise KeyError(event.done_bytes)

    with pytest.raises(KeyError):
        run(together([after(0, 7, began), *(after(0.1, n, began) for n in range(8))], 1, said), listener)
    assert len(began) <= 2


def test_a_cancelled_task_waits_for_what_is_under_way():
    ended = []

    def slow():
        yield Compute(lambda: (time.sleep(0.3), ended.append(1)))

    async def main():
        transport = AsyncTransport(URL, SIGNER)
        task = asyncio.ensure_future(transport.run(together([slow] * 3, 2, said), lambda event: None))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await transport.close()

    asyncio.run(main())
    assert len(ended) == 2


@both
def test_nothing_to_do_is_done(run):
    """A submission of which everything has arrived already."""
    assert run(together([], 2, said)) == []
