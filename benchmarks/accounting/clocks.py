"""Clocks that every thread of a process has for itself, and which charge each moment to exactly one activity.

A thread is always in one activity: at first in that of its kind (the event loop, a pool), then in whatever it has
entered last and not left. So the activities of a thread add up to its processor time, and those of all threads to that
of the process, but for threads that Python did not start.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import resource
import threading
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["CLOCKS", "Clocks", "timed"]

_KINDS = {
    "MainThread": "main thread",
    "AnyIO worker thread": "threads of requests",
    "asyncio": "threads of requests",
    "accounting": "this accounting",
}
"""What a thread is in when it has entered nothing, by the beginning of its name; others by their own name."""


class _Thread:
    """One thread's clock."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.stack = [kind]
        self.seconds: dict[str, float] = defaultdict(float)
        self.faults: dict[str, float] = defaultdict(float)
        self.calls: dict[str, float] = defaultdict(float)
        self.at = self.faults_at = 0.0

    def take(self, other: _Thread) -> None:
        """Add what another one has."""
        for mine, its in ((self.seconds, other.seconds), (self.faults, other.faults), (self.calls, other.calls)):
            for name, value in list(its.items()):
                mine[name] += value

    def turn(self) -> None:
        """Charge what has passed to the activity that the thread is in."""
        used = resource.getrusage(resource.RUSAGE_THREAD)
        at, faults = used.ru_utime + used.ru_stime, used.ru_minflt
        now = self.stack[-1]
        self.seconds[now] += at - self.at
        self.faults[now] += faults - self.faults_at
        self.at, self.faults_at = at, faults


class Clocks:
    """The clocks of all threads."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self._running: dict[int, _Thread] = {}
        self._ended = _Thread("")
        self.bytes: dict[str, int] = defaultdict(int)

    def enter(self, activity: str) -> None:
        """Begin an activity in this thread."""
        mine = self._mine()
        mine.turn()
        mine.calls[activity] += 1
        mine.stack.append(activity)

    def leave(self) -> None:
        """End the activity that this thread entered last."""
        mine = self._mine()
        mine.turn()
        mine.stack.pop()

    def install(self) -> None:
        """Watch threads from now on, and the garbage collector."""
        self._mine()
        begin = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

        def watched(thread: threading.Thread) -> None:
            try:
                begin(thread)
            finally:
                self._end()

        threading.Thread._bootstrap_inner = watched  # type: ignore[attr-defined]
        gc.callbacks.append(lambda phase, _: self.enter("garbage collection") if phase == "start" else self.leave())

    def totals(self) -> dict[str, Any]:
        """Return what was spent so far, by activity, and what the kernel says of the whole process."""
        total = _Thread("")
        with self._lock:
            total.take(self._ended)
            for ident, one in self._running.items():
                total.take(one)
                with contextlib.suppress(OSError):  # what it has not charged yet belongs to what it is in
                    at = time.clock_gettime(time.pthread_getcpuclockid(ident))
                    total.seconds[one.stack[-1]] += at - one.at
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "seconds": dict(total.seconds),
            "faults": dict(total.faults),
            "calls": dict(total.calls),
            "bytes": dict(self.bytes),
            "process": {
                "seconds": used.ru_utime + used.ru_stime,
                "system_seconds": used.ru_stime,
                "page_faults": used.ru_minflt,
                "waits": used.ru_nvcsw,
                "preemptions": used.ru_nivcsw,
            },
        }

    def _mine(self) -> _Thread:
        mine: _Thread | None = getattr(self._local, "clock", None)
        if mine is None:
            name = threading.current_thread().name
            kind = next((kind for begin, kind in _KINDS.items() if name.startswith(begin)), name.rstrip("0123456789_-"))
            mine = self._local.clock = _Thread(kind)
            with self._lock:
                self._running[threading.get_ident()] = mine
        return mine

    def _end(self) -> None:
        mine = self._mine()
        mine.turn()
        with self._lock:
            self._running.pop(threading.get_ident(), None)
            self._ended.take(mine)


CLOCKS = Clocks()


def timed(activity: str, function: Any) -> Any:
    """Return a function that charges its time to an activity, step by step if it has steps."""
    enter, leave = CLOCKS.enter, CLOCKS.leave
    if isinstance(function, classmethod):
        return classmethod(timed(activity, function.__func__))
    if inspect.isgeneratorfunction(inspect.unwrap(function)) and hasattr(function, "__wrapped__"):
        return _timed_context(activity, function)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **named: Any) -> Any:
            return await _steps(activity, function(*args, **named))

        return coroutine
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **named: Any) -> Any:
            return (yield from _generator(activity, function(*args, **named)))

        return generator

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        enter(activity)
        try:
            return function(*args, **named)
        finally:
            leave()

    return call


def _generator(activity: str, inner: Any) -> Iterator[Any]:
    """Drive a generator, or what a coroutine awaits; only its own steps are charged."""
    step: Callable[[], Any] = functools.partial(inner.send, None)
    try:
        while True:
            CLOCKS.enter(activity)
            try:
                asked = step()
            except StopIteration as end:
                return end.value
            finally:
                CLOCKS.leave()
            try:
                step = functools.partial(inner.send, (yield asked))
            except GeneratorExit:
                raise
            except BaseException as error:
                step = functools.partial(inner.throw, error)
    finally:
        inner.close()


_steps: Any = types.coroutine(_generator)


def _timed_context(activity: str, function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        return _Context(activity, function(*args, **named))

    return call


class _Context:
    """A context manager of which entering and leaving are charged, and not what happens within."""

    def __init__(self, activity: str, inner: Any) -> None:
        self._activity, self._inner = activity, inner

    def __enter__(self) -> Any:
        CLOCKS.enter(self._activity)
        try:
            return self._inner.__enter__()
        finally:
            CLOCKS.leave()

    def __exit__(self, *error: Any) -> Any:
        CLOCKS.enter(self._activity)
        try:
            return self._inner.__exit__(*error)
        finally:
            CLOCKS.leave()
