"""Clocks that charge every moment of a thread to one activity, and the names that they are put around."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading

import pytest

from benchmarks.accounting import activities
from benchmarks.accounting.clocks import CLOCKS, Clocks, timed


@pytest.mark.parametrize("kind", activities.ACTIVITIES)
def test_every_name_is_one(kind):
    assert activities.missing(kind) == []


def test_a_moment_is_charged_once():
    """What is left is charged to what was entered before it, and all activities add up to the thread's time."""
    clocks, totals = Clocks(), []

    def work():
        clocks.enter("outer")
        clocks.enter("inner")
        sum(range(10**6))
        clocks.leave()
        clocks.leave()
        clocks.enter("outer")
        clocks.leave()
        mine = clocks._mine()
        totals.append((mine.at, dict(mine.seconds), dict(mine.calls), mine.stack))

    thread = threading.Thread(target=work, name="AnyIO worker thread")
    thread.start()
    thread.join()
    at, seconds, calls, stack = totals[0]
    assert sum(seconds.values()) == pytest.approx(at)
    assert calls == {"outer": 2, "inner": 1}
    assert stack == ["threads of requests"]
    assert seconds["inner"] > 0


def calls_of(activity):
    return CLOCKS.totals()["calls"].get(activity, 0)


def test_a_generator_is_the_same_with_a_clock():
    seen = []

    def numbers(n):
        try:
            for i in range(n):
                seen.append((yield i))
        except KeyError:
            yield "caught"
        finally:
            seen.append("closed")
        return "end"

    clocked = timed("generator", numbers)
    assert list(clocked(3)) == [0, 1, 2]
    assert seen == [None, None, None, "closed"]
    begun = clocked(3)
    assert next(begun) == 0
    assert begun.send("sent") == 1
    assert begun.throw(KeyError()) == "caught"
    begun.close()
    assert seen[-2:] == ["sent", "closed"]
    assert calls_of("generator") == 7  # four steps to its end, and three


def test_a_coroutine_is_charged_its_own_steps_only():
    depth = []

    async def waits():
        depth.append(len(CLOCKS._mine().stack))
        await asyncio.sleep(0)
        depth.append(len(CLOCKS._mine().stack))
        return "done"

    async def both():
        asyncio.get_running_loop().call_soon(lambda: depth.append(-len(CLOCKS._mine().stack)))
        return await timed("coroutine", waits)()

    assert asyncio.run(both()) == "done"
    assert depth == [2, -1, 2]
    assert calls_of("coroutine") == 2


def test_a_context_is_charged_at_its_ends_only():
    @contextlib.contextmanager
    def opened():
        yield len(CLOCKS._mine().stack)

    with timed("context", opened)() as within:
        assert within == len(CLOCKS._mine().stack) + 1
    with pytest.raises(KeyError), timed("context", opened)():
        raise KeyError
    assert calls_of("context") == 4


def test_methods_of_classes_stay_what_they_are():
    class Thing:
        @classmethod
        def make(cls):
            return cls

        def one(self):
            return self

    for name in ("make", "one"):
        setattr(Thing, name, timed("method", vars(Thing)[name]))
    assert Thing.make() is Thing
    thing = Thing()
    assert thing.one() is thing


@pytest.mark.slow
def test_whole_rounds_are_accounted(tmp_path):
    out = tmp_path / "accounting.json"
    words = ["--values", "1000", "--sites", "2", "--rounds", "1", "--only", "http", "--out", str(out)]
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.accounting", *words], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    report = json.loads(out.read_text())
    assert [row["role"] for row in report["rows"]] == ["aggregator", "site"]
    for row in report["rows"]:
        assert 0.9 < row["accounted"] < 1.1
        assert {"SHA-256", "signatures", "documents", "files"} <= row["seconds"].keys()
    assert told.stdout == out.with_suffix(".md").read_text()
