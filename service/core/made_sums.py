"""Parts of sums that this process has made, for as long as sites fetch them: from the memory that they were made in.

Every site of a round asks for its whole sum as soon as it is there, and hardly anybody later. So the store writes it,
and reads it for those who come later, who ask another process, or for whom there was no room here.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from he_agg.ids import RoundId
from service.store.parts.base import PartKey

__all__ = ["MadeSums"]

_ASKED_FOR_S = 60.0
"""So long a part stays. Units: seconds."""


class _Made(NamedTuple):
    data: memoryview
    at: float


class MadeSums:
    """The parts in this process's memory. Every method may be called from any thread.

    Args:
        most_bytes: how much memory the parts may take together; 0 keeps none. Units: bytes.
    """

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._room = most_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._made: dict[PartKey, _Made] = {}
        self._freed: deque[int] = deque()  # filled whenever memory comes back, even in the middle of a method

    def keep(self, key: PartKey, data: memoryview) -> bool:
        """Keep a part, if there is room. It has been made of its round's closed set, so it is the only one.

        Its room is taken until nobody reads it any more, however slowly they do.

        Args:
            data: of an array.

        Returns:
            Whether it is kept.
        """
        with self._lock:
            # A federation has one round at a time: of the one before, whoever wanted it has it.
            for old in [old for old in self._made if _is_older(old.round_id, key.round_id)]:
                del self._made[old]
            self._made.pop(key, None)
            while self._freed:
                self._room += self._freed.popleft()
            if len(data) > self._room:
                return False
            self._room -= len(data)
            weakref.finalize(data.obj, self._freed.append, len(data)).atexit = False
            self._made[key] = _Made(data, self._clock())
            return True

    def forget_old(self) -> None:
        """Give back the memory of parts that hardly anybody asks for any more."""
        with self._lock:
            for key in [key for key, made in self._made.items() if self._is_old(made)]:
                del self._made[key]

    def find(self, key: PartKey) -> memoryview | None:
        """Return a part that is kept."""
        with self._lock:
            made = self._made.get(key)
            return None if made is None or self._is_old(made) else made.data

    def _is_old(self, made: _Made) -> bool:
        return made.at < self._clock() - _ASKED_FOR_S


def _is_older(one: RoundId, other: RoundId) -> bool:
    return one.federation == other.federation and (one.number, one.attempt) < (other.number, other.attempt)
