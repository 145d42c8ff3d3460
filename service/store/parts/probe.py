"""Try an object store at the start, and refuse one that does not keep what the parts rely on.

A store that ignores a condition, or takes what does not fit its checksum, answers as if all were well: so it is asked
for what it has to refuse. docs/object-store.md says which stores are known to pass.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from he_agg.errors import ConfigError, Reason
from service.store.failures import StoreError, StoreFullError
from service.store.parts.s3_client import said, translated
from service.store.parts.signed_put import status_of_put

__all__ = ["FOLDER", "prove"]

FOLDER = "probes"
"""Where it writes, below the prefix of the parts."""

_WRITERS = 8
_SIZE = 100_000
_OK, _REFUSED, _FORBIDDEN = 200, 400, 403
_CONDITION_FAILED = (AlreadyExistsError, PreconditionError)


def prove(client: S3Store, name: str) -> None:
    """See that a store can be used, and keeps conditions, checksums, ranges and removals.

    Args:
        name: what the store is called in messages.

    Raises:
        ConfigError: it cannot be used, or does not keep one of them; says which.
        StoreFullError: there is no room for trying.
    """
    folder = f"{FOLDER}/{secrets.token_hex(8)}"
    try:
        with translated():
            broken = next(
                (what for what, keeps in _TESTS.items() if not keeps(client, f"{folder}/{keeps.__name__}")), None
            )
    except StoreFullError:
        raise
    except (StoreError, OSError) as error:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"the object store {name} cannot be used: {said(error)}",
            "see that it runs, that the bucket exists, and that AWS_ENDPOINT_URL, AWS_REGION and the credentials are "
            "right; they need to get, put, list and delete",
        ) from error
    finally:
        with contextlib.suppress(BaseError, FileNotFoundError):
            for page in obstore.list(client, folder):
                obstore.delete(client, [found["path"] for found in page])
    if broken is not None:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"the object store {name} {broken}",
            "parts would be lost or mixed up there; docs/object-store.md lists stores that can be used",
        )


def _keeps_what_is_put(client: S3Store, path: str) -> bool:
    data = os.urandom(_SIZE)
    obstore.put(client, path, data, mode="create")
    begin, end = _SIZE // 3, _SIZE // 2
    part = obstore.get(client, path, options={"range": (begin, end)})
    is_range = part.bytes().to_bytes() == data[begin:end] and part.meta["size"] == _SIZE
    return is_range and obstore.get(client, path).bytes().to_bytes() == data


def _keeps_the_first(client: S3Store, path: str) -> bool:
    obstore.put(client, path, b"first", mode="create")
    with contextlib.suppress(*_CONDITION_FAILED):
        obstore.put(client, path, b"second", mode="create")
        return False
    return obstore.get(client, path).bytes().to_bytes() == b"first"


def _replaces_only_what_was_seen(client: S3Store, path: str) -> bool:
    first = obstore.put(client, path, b"first", mode="create")["e_tag"]
    obstore.put(client, path, b"second", mode={"e_tag": first})
    with contextlib.suppress(*_CONDITION_FAILED):
        obstore.put(client, path, b"third", mode={"e_tag": first})
        return False
    return obstore.get(client, path).bytes().to_bytes() == b"second"


def _lets_one_writer_win(client: S3Store, path: str) -> bool:
    def write(number: int) -> int | None:
        with contextlib.suppress(*_CONDITION_FAILED):
            obstore.put(client, path, bytes([number]), mode="create")
            return number
        return None

    with ThreadPoolExecutor(_WRITERS) as pool:
        winners = [number for number in pool.map(write, range(_WRITERS)) if number is not None]
    return winners == list(obstore.get(client, path).bytes().to_bytes())


def _verifies_checksums(client: S3Store, path: str) -> bool:
    data = os.urandom(64)
    right, wrong = (base64.b64encode(hashlib.sha256(said).digest()).decode() for said in (data, data + b"x"))
    if status_of_put(client, path, data, wrong) < _REFUSED:
        return False
    return status_of_put(client, path, data, right) in (_OK, _FORBIDDEN)


def _removes(client: S3Store, path: str) -> bool:
    paths = [f"{path}/1", f"{path}/2"]
    for one in paths:
        obstore.put(client, one, b"x", mode="create")
    obstore.delete(client, paths)
    listed = [found["path"] for page in obstore.list(client, path) for found in page]
    with contextlib.suppress(FileNotFoundError):
        obstore.head(client, paths[0])
        return False
    return not listed


_TESTS: dict[str, Callable[[S3Store, str], bool]] = {
    "ignores `If-None-Match: *`: a second PUT replaced the first": _keeps_the_first,
    "ignores `If-Match`: a PUT replaced an object that it had not seen": _replaces_only_what_was_seen,
    f"lets two of {_WRITERS} writers win that create the same object at once": _lets_one_writer_win,
    "takes a body that does not fit its `x-amz-checksum-sha256`": _verifies_checksums,
    "does not give back what was put, or not a range of it": _keeps_what_is_put,
    "keeps objects that were deleted": _removes,
}
