"""Parts in memory, for tests and simulations: as durable as the object."""

# ruff: noqa: D102 - base.py says it

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from he_agg.ids import RoundId
from service.store.failures import StoreFullError
from service.store.parts.base import SUM, PartKey, PartLostError, PartStore, Space

__all__ = ["MemoryParts"]

_PIECE_BYTES = 2**20


class MemoryParts(PartStore):
    """A dictionary."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.parts: dict[PartKey, bytes] = {}
        self.limit_bytes = limit_bytes
        self._number: int | None = None
        self._lock = threading.Lock()

    def put_all(self, parts: Sequence[tuple[PartKey, bytes | memoryview]], *, to_be_read: bool = False) -> None:  # noqa: ARG002
        for key, data in parts:
            with self._lock:
                growth = len(data) - len(self.parts.get(key, b""))
                if self.limit_bytes is not None and self._held() + growth > self.limit_bytes:
                    raise StoreFullError
                self.parts[key] = bytes(data)

    def read(self, key: PartKey) -> bytes:
        try:
            return self.parts[key]
        except KeyError:
            raise PartLostError(key) from None

    async def stream(self, key: PartKey, size: int) -> AsyncIterator[memoryview]:
        data = memoryview(self.read(key))
        for begin in range(0, len(data), _PIECE_BYTES):
            yield data[begin : begin + _PIECE_BYTES]
        if len(data) != size:
            raise PartLostError(key)

    def size(self, key: PartKey) -> int | None:
        data = self.parts.get(key)
        return None if data is None else len(data)

    def delete(self, key: PartKey) -> None:
        with self._lock:
            self.parts.pop(key, None)

    def purge_submission(self, round_id: RoundId, submission_id: str) -> None:
        self._purge(lambda key: (key.round_id, key.owner) == (round_id, submission_id))

    def purge_submissions(self, round_id: RoundId) -> None:
        self._purge(lambda key: key.round_id == round_id and key.owner != SUM)

    def purge_sum(self, round_id: RoundId) -> None:
        self._purge(lambda key: key.round_id == round_id and key.owner == SUM)

    def purge_round(self, round_id: RoundId) -> None:
        self._purge(lambda key: key.round_id == round_id)

    def purge_leftovers(self, older_than_s: float = 0.0) -> int:  # noqa: ARG002
        return 0  # a part is put whole

    def rounds(self) -> Iterator[RoundId]:
        yield from {key.round_id for key in list(self.parts)}

    def space(self) -> Space | None:
        with self._lock:
            return None if self.limit_bytes is None else Space(self.limit_bytes - self._held(), self.limit_bytes)

    def check(self) -> None:
        if self.limit_bytes is not None and self._held() >= self.limit_bytes:
            raise StoreFullError

    def number(self) -> int | None:
        return self._number

    def take_number(self, number: int) -> None:
        self._number = number

    def _purge(self, is_meant: Callable[[PartKey], bool]) -> None:
        with self._lock:
            for key in [key for key in self.parts if is_meant(key)]:
                del self.parts[key]

    def _held(self) -> int:
        return sum(map(len, self.parts.values()))
