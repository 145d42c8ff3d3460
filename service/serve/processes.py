"""Several serving processes behind one address: a parent that serves nothing starts them, and starts again who died.

The parent binds the address and forks before anything else is opened, so that the processes share nothing but sockets;
what they have to agree on is in PostgreSQL. It alone writes to stdout. If the parent is killed, its processes end at
once, as if they had been killed with it: the address is free for the next.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from service.logs import log
from service.settings import Settings
from service.store.sql import is_shared
from service.work.roles import need_shared

__all__ = ["Supervisor", "Tell", "process_count"]

Tell = Callable[[list[str]], None]
"""Says, once a process serves, what is to be read on stdout besides the address."""

_MOST_BY_DEFAULT = 4
_KILLED = 128 + signal.SIGKILL
_YOUNG_S = 1.0
"""Who dies younger than this is not started again before that age."""


def process_count(settings: Settings) -> int:
    """Return how many processes serve: one over SQLite; over PostgreSQL one for each core, but at most four.

    Raises:
        ConfigError: several, over a database that one process has for itself.
    """
    if settings.processes is not None and settings.processes > 1:
        need_shared(settings, f"{settings.processes} serving processes need")
    if settings.processes is not None:
        return settings.processes
    return min(_MOST_BY_DEFAULT, _cores()) if is_shared(settings) else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Life:
    """One life of a process."""

    number: int
    pid: int
    news: int
    began: float
    heard: bytes = field(default=b"")
    ready: bool = False


class Supervisor:
    """The parent.

    Args:
        count: how many processes there are.
        address: what the first line on stdout names once all of them serve.
    """

    def __init__(self, count: int, address: str) -> None:
        self._count = count
        self._first_lines = [f"listening on {address}"]
        self._lives: dict[int, _Life] = {}
        self._due: dict[int, float] = {}
        self._told: set[str] = set()
        self._asked_to_stop = self._passed_on = 0
        self._code = 0
        self._selector = selectors.DefaultSelector()
        # Whoever holds the other end of the first sees when the parent is gone, however that came about.
        self._alive = os.pipe()
        self._woken, self._wake = socket.socketpair()

    def run(self, serve: Callable[[int, Tell], None]) -> int:
        """Keep the processes running until SIGTERM or Ctrl-C, or until the first one cannot start.

        Args:
            serve: what each of them does, with its number from 0; called in the process that it is for, and this method
                returns there when it is done.

        Returns:
            The exit code.
        """
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake.fileno())
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes
        self._due[0] = 0.0
        while self._lives or not self._asked_to_stop:
            for number in [n for n, at in self._due.items() if at <= time.monotonic() and not self._asked_to_stop]:
                del self._due[number]
                tell = self._fork(number)
                if tell is not None:
                    serve(number, tell)
                    return 0
            self._pass_on()
            self._wait()
            self._bury()
        return self._code

    def _fork(self, number: int) -> Tell | None:
        """Start a process. Returns what to tell the parent by, in the new process only."""
        news, far = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of a linear algebra library: they do nothing
            pid = os.fork()
        if pid:
            os.close(far)
            self._lives[number] = _Life(number, pid, news, time.monotonic())
            self._selector.register(news, selectors.EVENT_READ, self._lives[number])
            return None
        signal.set_wakeup_fd(-1)
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(one, signal.SIG_DFL)
        self._selector.close()
        for descriptor in (news, self._alive[1], *(life.news for life in self._lives.values())):
            os.close(descriptor)
        self._woken.close()
        self._wake.close()
        threading.Thread(target=self._outlive_nobody, name="parent", daemon=True).start()

        def tell(lines: list[str]) -> None:
            os.write(far, json.dumps(lines).encode() + b"\n")
            os.close(far)

        return tell

    def _outlive_nobody(self) -> None:
        os.read(self._alive[0], 1)
        os._exit(_KILLED)

    def _stop(self, *_: object) -> None:
        self._asked_to_stop += 1

    def _pass_on(self) -> None:
        while self._passed_on < self._asked_to_stop:
            self._passed_on += 1
            for life in self._lives.values():
                os.kill(life.pid, signal.SIGTERM)  # not waited for yet, so the number is nobody else's

    def _wait(self) -> None:
        left = max(0.0, min(self._due.values()) - time.monotonic()) if self._due and not self._asked_to_stop else None
        for key, _ in self._selector.select(left):
            if key.data is None:
                self._woken.recv(4096)
            elif not (data := os.read(key.fd, 2**16)):
                self._selector.unregister(key.fd)
            else:
                self._hear(key.data, data)

    def _hear(self, life: _Life, data: bytes) -> None:
        life.heard += data
        if not life.heard.endswith(b"\n"):
            return
        life.ready = True
        lines: list[str] = json.loads(life.heard)
        if not self._first_lines:
            self._say(lines)
            return
        self._first_lines += lines
        if life.number == 0:  # it has made what the others find: now they may come, all at once
            self._due = dict.fromkeys(set(range(1, self._count)) - self._lives.keys(), 0.0) | self._due
        if len(self._lives) == self._count and all(each.ready for each in self._lives.values()):
            self._say(self._first_lines)
            self._first_lines = []

    def _say(self, lines: list[str]) -> None:
        for line in lines:
            if line not in self._told:  # who comes again repeats what has not changed
                self._told.add(line)
                print(line, flush=True)

    def _bury(self) -> None:
        for life in list(self._lives.values()):
            pid, status = os.waitpid(life.pid, os.WNOHANG)
            if not pid:
                continue
            del self._lives[life.number]
            if life.news in self._selector.get_map():
                self._selector.unregister(life.news)
            os.close(life.news)
            code = os.waitstatus_to_exitcode(status)
            if self._asked_to_stop and code == -signal.SIGTERM:
                code = 0  # it had not begun
            code = 128 - code if code < 0 else code
            if self._asked_to_stop or (self._first_lines and not life.ready):
                self._code = self._code or code
                if not self._asked_to_stop:  # it has said why it cannot start, and so would the others
                    self._stop()
                continue
            log(logging.ERROR, "a serving process has ended; another one is started", process=life.number, code=code)
            self._due[life.number] = life.began + _YOUNG_S
