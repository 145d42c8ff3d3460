"""Ports that stay free while the server that has them in its configuration is away."""

from __future__ import annotations

import contextlib
import random
import socket

__all__ = ["free_ports"]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports that nobody listens on now, below those that systems give to whoever asks for any.

    Of these another test's server or connection would take one sooner or later, before its own is there or again. And
    above those that browsers refuse, of which 10080 is the last.
    """
    free: list[int] = []
    for port in random.SystemRandom().sample(range(11_000, 32_000), 1000):
        with contextlib.suppress(OSError), socket.create_server((host, port)):
            free.append(port)
        if len(free) == count:
            return free
    raise AssertionError(f"expected {count} free ports of {host}, found {len(free)}")
