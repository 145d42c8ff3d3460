"""Parts as objects of an S3-compatible store: one conditional PUT a part, with a SHA-256 that the store verifies.

::

    <prefix>/rounds/<round id>/submissions/<submission id>/<number>.part
    <prefix>/rounds/<round id>/sum/<number>.part
    <prefix>/parts.id                   joins this store to the database whose rows speak of its parts
    <prefix>/probes/<random>            only while the store is being tried

An object is there whole or not at all, and durable once its PUT was answered; there is nothing half-written. Only who
finds no object writes one (`If-None-Match: *`), and only who has seen one replaces it (`If-Match`): so a request that
was held up somewhere and arrives late changes nothing.
"""

# ruff: noqa: D102 - base.py says it

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import obstore
from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError
from obstore.store import S3Store
from starlette.concurrency import iterate_in_threadpool

from he_agg.errors import WireError
from he_agg.ids import RoundId
from service.failpoints import failpoint
from service.settings import Settings
from service.store.failures import StoreBusyError
from service.store.parts import probe
from service.store.parts.base import SUM, PartKey, PartLostError, PartStore, Space
from service.store.parts.s3_client import has_answered, open_client, status_of, translated

__all__ = ["S3Parts"]

_RANGE_BYTES = 4 * 2**20
"""Asked for at a time: a request costs money and a round trip, and whoever reads slowly must not hold one open."""

_PIECE_BYTES = 2**20

_QUICK = 12
"""What is asked within a transaction may take this much less time: everybody else waits for it."""

_NO_SUCH_RANGE = 416

_ROUNDS = "rounds"
_NUMBER = "parts.id"


class S3Parts(PartStore):
    """Objects below one prefix of a bucket, which several servers may share."""

    def __init__(self, settings: Settings) -> None:
        self._client = open_client(settings, settings.parts_timeout_s)
        self._quick = open_client(settings, settings.parts_timeout_s / _QUICK)
        self._name = str(settings.parts)
        self._timeout_s = settings.parts_timeout_s

    def __str__(self) -> str:
        return self._name

    def put_all(self, parts: Sequence[tuple[PartKey, bytes | memoryview]], *, to_be_read: bool = False) -> None:  # noqa: ARG002
        for key, data in parts:
            failpoint("object.before_put")
            self._put(_path(key), data)
            failpoint("object.put")

    def read(self, key: PartKey) -> memoryview:
        # A copy into fresh memory would cost more than all the rest: 1.4 s of the processor for each GB.
        with self._reading(key):
            return memoryview(obstore.get(self._client, _path(key)).bytes())

    def stream(self, key: PartKey, size: int) -> AsyncIterator[memoryview]:
        return iterate_in_threadpool(self._pieces(key, size))

    def size(self, key: PartKey) -> int | None:
        # One HEAD: a round trip while the database waits. It says what the store knows of the part, and reads nothing.
        try:
            with translated():
                return obstore.head(self._quick, _path(key))["size"]
        except FileNotFoundError:
            return None

    def delete(self, key: PartKey) -> None:
        with translated():
            _remove(self._client, [_path(key)])

    def purge_submission(self, round_id: RoundId, submission_id: str) -> None:
        self._purge(_directory(round_id, submission_id))

    def purge_submissions(self, round_id: RoundId) -> None:
        self._purge(f"{_ROUNDS}/{round_id}/submissions")

    def purge_sum(self, round_id: RoundId) -> None:
        self._purge(_directory(round_id, SUM))

    def purge_round(self, round_id: RoundId) -> None:
        self._purge(f"{_ROUNDS}/{round_id}")

    def purge_leftovers(self, older_than_s: float = 0.0) -> int:
        return self._purge(probe.FOLDER, older_than_s)

    def rounds(self) -> Iterator[RoundId]:
        with translated():
            listed = obstore.list_with_delimiter(self._client, _ROUNDS)["common_prefixes"]
        for path in listed:
            with contextlib.suppress(WireError):
                yield RoundId.parse(path.rpartition("/")[2])

    def space(self) -> Space | None:
        return None

    def check(self) -> None:
        path = f"{probe.FOLDER}/{secrets.token_hex(8)}"
        with translated():
            obstore.put(self._client, path, b"\0", mode="create")
            _remove(self._client, [path])

    def prove(self) -> None:
        probe.prove(self._client, self._name)

    def number(self) -> int | None:
        try:
            with translated():
                text = obstore.get(self._client, _NUMBER).bytes().to_bytes()
        except FileNotFoundError:
            return None
        return int(text) if text.strip().isdigit() else -1

    def take_number(self, number: int) -> None:
        self._put(_NUMBER, f"{number}\n".encode())

    def _pieces(self, key: PartKey, size: int) -> Iterator[memoryview]:
        if not size:
            if self.size(key) != 0:
                raise PartLostError(key)
            return
        options: obstore.GetOptions = {}
        for begin in range(0, size, _RANGE_BYTES):
            options["range"] = (begin, min(begin + _RANGE_BYTES, size))
            with self._reading(key):
                found = obstore.get(self._client, _path(key), options=options)
                data = memoryview(found.bytes())
            if found.meta["size"] != size:
                raise PartLostError(key)
            options["if_match"] = found.meta["e_tag"]
            for piece in range(0, len(data), _PIECE_BYTES):
                yield data[piece : piece + _PIECE_BYTES]

    def _put(self, path: str, data: bytes | memoryview) -> None:
        if not self._write(path, data, "create"):
            self._replace(path, data)

    def _write(self, path: str, data: bytes | memoryview, mode: obstore.PutMode) -> bool:
        """Put an object under a condition. Returns whether it was met."""
        try:
            with translated(), contextlib.suppress(AlreadyExistsError, PreconditionError):
                obstore.put(self._client, path, data, mode=mode)
                return True
        except FileNotFoundError as error:
            raise StoreBusyError("the object store answered 404 to a PUT") from error
        return False

    def _replace(self, path: str, data: bytes | memoryview) -> None:
        """Put what may be there: it may be the same, another, one that cannot be read, or gone again."""
        digest, end = hashlib.sha256(data).digest(), time.monotonic() + self._timeout_s
        while time.monotonic() < end:
            mode: obstore.PutMode = "create"
            with translated(), contextlib.suppress(FileNotFoundError):
                found, e_tag = self._look(path)
                if found == digest:
                    return
                mode = {"e_tag": e_tag}
            if self._write(path, data, mode):
                return
        raise StoreBusyError("others write the same object all the time")

    def _look(self, path: str) -> tuple[bytes | None, str | None]:
        """Return the SHA-256 of what is there, None if it cannot be read, and its ETag."""
        try:
            found = obstore.get(self._client, path)
            return hashlib.sha256(found.bytes()).digest(), found.meta["e_tag"]
        except GenericError as error:
            if not has_answered(error):
                raise
            return None, obstore.head(self._client, path)["e_tag"]

    @contextlib.contextmanager
    def _reading(self, key: PartKey) -> Iterator[None]:
        """Raise what it means for a part that it could not be read."""
        try:
            with translated():
                yield
        except FileNotFoundError as error:
            raise PartLostError(key) from error
        except StoreBusyError as error:
            cause = error.__cause__
            # Another object came into its place, or one that is shorter: not what was asked for, then.
            if isinstance(cause, PreconditionError) or status_of(cause) == _NO_SUCH_RANGE:
                raise PartLostError(key) from error
            # It answers, knows the object and cannot read it: as lost as a bad block of a disk. Silence is no answer.
            if isinstance(cause, GenericError) and has_answered(cause) and self.size(key) is not None:
                raise PartLostError(key) from error
            raise

    def _purge(self, folder: str, older_than_s: float = 0.0) -> int:
        removed = 0
        with translated():
            for page in obstore.list(self._client, folder):
                latest = time.time() - older_than_s
                paths = [found["path"] for found in page if found["last_modified"].timestamp() <= latest]
                failpoint("objects.listed")
                _remove(self._client, paths)
                failpoint("objects.removed")
                removed += len(paths)
        return removed


def _remove(client: S3Store, paths: Sequence[str]) -> None:
    with contextlib.suppress(FileNotFoundError):
        obstore.delete(client, paths)


def _path(key: PartKey) -> str:
    return f"{_directory(key.round_id, key.owner)}/{key.number}.part"


def _directory(round_id: RoundId, owner: str) -> str:
    whose = owner if owner == SUM else f"submissions/{owner}"
    return f"{_ROUNDS}/{round_id}/{whose}"
