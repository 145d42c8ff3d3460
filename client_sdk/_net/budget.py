"""Hold a request to what it may take, and tell lines that are slow from those that break.

HTTP libraries bound the silence between two bytes, so that a byte now and then holds them for ever: in the head of an
answer, in interim answers (1xx) without end, in a body, in the fields after its last chunk. Here every step on the
socket gets what is left of the request's whole time, which grows only with the bytes that get through.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["BadAnswerError", "Budget", "ClosedError", "LineError", "NoConnectionError", "ProxyError", "TooSlowError"]

_MAX_HEAD_BYTES = 2**16


class LineError(Exception):
    """A request got no answer. Never leaves this room: `faults.py` says it in words."""


class NoConnectionError(LineError):
    """No connection came about."""


class ClosedError(LineError):
    """The other side closed the connection before all of an answer was there, or reset it."""


class BadAnswerError(LineError):
    """What came is no HTTP."""


class TooSlowError(LineError):
    """The time is over."""


class ProxyError(LineError):
    """A proxy lets no connection through."""

    def __init__(self, status: int) -> None:
        super().__init__(f"it answers {status}")
        self.status = status


@dataclass
class Budget:
    """What one request may take.

    Attributes:
        step_s: how long the other side may do nothing, and how long the whole may take beside its bytes.
        bytes_per_s: the least rate: so much longer it may take for each byte.
        until: when it ends, on the monotonic clock.
        heads: whether the head of the answer is still to come.
    """

    step_s: float
    bytes_per_s: float
    until: float = field(init=False)
    heads: bool = True
    _head_bytes: int = 0

    def __post_init__(self) -> None:
        self.until = time.monotonic() + self.step_s

    def left(self) -> float:
        """Return how long the next step may take."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise self.over()
        return min(left, self.step_s)

    def over(self) -> TooSlowError:
        """Return the error for a step that took longer."""
        return TooSlowError(
            f"timed out: expected an answer within {self.step_s:.0f} s "
            f"and at {self.bytes_per_s:.0f} bytes a second or more"
        )

    def sent(self, n_bytes: int) -> None:
        """Count what went out."""
        self.until += n_bytes / self.bytes_per_s

    def received(self, n_bytes: int) -> None:
        """Count what came in."""
        if not self.heads:
            self.until += n_bytes / self.bytes_per_s
            return
        if self._head_bytes > _MAX_HEAD_BYTES:
            raise BadAnswerError(f"expected at most {_MAX_HEAD_BYTES} bytes before the answer")
        self._head_bytes += n_bytes
