"""Reach an object store: where it is, how long it is waited for, and what its failures are called."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import S3Store

from he_agg.errors import ConfigError, Reason
from service.settings import Settings
from service.store.failures import StoreBusyError, StoreError, StoreFullError

__all__ = ["has_answered", "open_client", "said", "status_of", "translated"]

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_ALLOW_HTTP = "AWS_ALLOW_HTTP"

_CONNECT_TIMEOUT = timedelta(seconds=5)

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")

_NO_ROOM = 507
_NO_ROOM_CODES = ("QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage")
_NO_BUCKET = "NoSuchBucket"


def open_client(settings: Settings, timeout_s: float) -> S3Store:
    """Make the client for the bucket and prefix that the settings name. Nothing is sent yet.

    Args:
        timeout_s: how long one act may take. Units: seconds.

    Raises:
        ConfigError: plain HTTP to another machine.
    """
    bucket, _, prefix = (settings.parts or "").removeprefix("s3://").partition("/")
    # One request may take half of it. If it fails before, others follow, and none begins in the second half.
    half = timedelta(seconds=timeout_s / 2)
    return S3Store(
        bucket,
        prefix=prefix or None,
        config={"checksum_algorithm": "SHA256", "conditional_put": "etag"},
        client_options={"allow_http": _allows_http(), "timeout": half, "connect_timeout": min(half, _CONNECT_TIMEOUT)},
        retry_config={"retry_timeout": half},
    )


def _allows_http() -> bool:
    endpoint = next((os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)), "")
    url = urlsplit(endpoint)
    if url.scheme != "http":
        return False
    if _is_loopback(url.hostname or "") or os.environ.get(_ALLOW_HTTP, "").lower() in ("1", "true"):
        return True
    raise ConfigError(
        Reason.BAD_CONFIG,
        f"the object store at {url.hostname}: expected https, got http to another machine",
        f"give an https address in AWS_ENDPOINT_URL; or set {_ALLOW_HTTP}=true where the network is your own",
    )


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise what an object store says as a store does, but for `FileNotFoundError`: an object that is not there."""
    try:
        yield
    except FileNotFoundError as error:
        if _NO_BUCKET in str(error):
            raise _failure(error) from error
        raise
    except BaseError as error:
        raise _failure(error) from error


def has_answered(error: BaseError) -> bool:
    """Tell whether the store has answered at all, with an error of its own."""
    return status_of(error) >= 500


def status_of(error: BaseException | None) -> int:
    """Return the status that the store has answered with; 0 if there was no answer."""
    return _answer(error)[0]


def said(error: Exception) -> str:
    """Say in one line, for the operator, what a store has answered, or why there was no answer."""
    cause = error.__cause__ or error
    status, code = _answer(cause)
    return f"it answered {status} {code}".rstrip() if status else str(cause).partition("\n")[0][:300]


def _failure(error: Exception) -> StoreError:
    status, code = _answer(error)
    if status == _NO_ROOM or code in _NO_ROOM_CODES:
        return StoreFullError()
    if status:
        return StoreBusyError(f"the object store answered {status} {code}".rstrip())
    slow = "kind: Timeout" in str(error)
    return StoreBusyError("the object store did not answer in time" if slow else "the object store cannot be reached")


def _answer(error: BaseException | None) -> tuple[int, str]:
    """Find the status and the code of an answer: the client has them in its text only. 0 if there was none."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    return int(status.group(1)) if status else 0, code.group(1) if code else ""
