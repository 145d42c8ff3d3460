"""Tell what has become of a round: its record, and the manifests behind it, in the bytes that were signed.

All sites of a round ask at the moment that it ends, for the manifests of all: read for each of them, that would be as
many rows as there are pairs of sites. What is kept is kept under the digest of the record, which names the manifests by
theirs: so it can be no other answer than the one in the database, and there is nothing to renew.
"""

from __future__ import annotations

import threading

from service.core.event_loop import leave_event_loop
from service.domain.events import Phase
from service.store.rows import RoundRow
from service.store.transaction import Transaction

__all__ = ["RoundAnswers"]

_AT_ONCE_DIGESTS = 256
"""Manifests with no more digests of parts in all are read where a row is."""

_MOST_BYTES = 2**26
"""How much memory is used for what was told last. Units: bytes."""


class RoundAnswers:
    """The last answers, as many as there is room for. Its methods may be called from any thread.

    Args:
        most_bytes: how much memory they may take together. Units: bytes.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._told: dict[str, bytes] = {}  # by the record's digest; the one that was asked for last comes last

    def of(self, tx: Transaction, row: RoundRow, record: bytes, digest: str) -> bytes:
        """Return the answer about a round that has ended: canonical JSON, always the same.

        Args:
            record: the round's.
            digest: that of the record.

        Raises:
            OffLoopError: too much has to be read for the event loop.
        """
        if row.phase not in (Phase.PUBLISHED, Phase.REJECTED):
            return _joined([], record)  # there may be submissions, but they are in no sum
        told = self._kept(digest)
        if told is None:
            signed = row.signed
            if signed is None or len(signed.body.members) * len(signed.body.sum_digests) > _AT_ONCE_DIGESTS:
                leave_event_loop()
            told = _joined(tx.manifests(row.id), record)
            self._keep(digest, told)
        return told

    def _kept(self, digest: str) -> bytes | None:
        with self._lock:
            told = self._told.pop(digest, None)
            if told is not None:
                self._told[digest] = told
            return told

    def _keep(self, digest: str, told: bytes) -> None:
        with self._lock:
            self._told[digest] = told
            while sum(map(len, self._told.values())) > self._most:
                del self._told[next(iter(self._told))]


def _joined(manifests: list[bytes], record: bytes) -> bytes:
    # Each is canonical JSON as it came, and so is this: nothing is read to be written again.
    return b'{"manifests":[' + b",".join(manifests) + b'],"record":' + record + b',"v":1}'
