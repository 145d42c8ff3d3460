"""Where `he-agg watch` gets snapshots: the store, or the operators' listener of a server somewhere else."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from he_agg.errors import ConfigError, ProtocolError, Reason, TransportError
from service.monitor.view import take_snapshot
from service.settings import load_settings
from service.store.sql import open_store

__all__ = ["from_store", "from_url"]

_TOKEN = re.compile(r"[0-9]{10,}\.[0-9a-f]{16}\.[0-9a-f]{64}\Z")
_TIMEOUT_S = 30.0
_UNAUTHORIZED, _NO_CONTENT, _OK = 401, 204, 200


def from_store(data_dir: Path, database_url: str | None, every_s: float) -> Iterator[dict[str, Any]]:
    """Snapshots of the store, again and again. What only the server knows is not in them.

    Args:
        data_dir: where the aggregator keeps everything.
        database_url: SQLAlchemy URL, if it is another than the file there.
        every_s: Units: seconds.

    Raises:
        ConfigError: there is no store.
    """
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    store = open_store(settings, create=False)
    try:
        while True:
            yield take_snapshot(store, settings, time.time())
            time.sleep(every_s)
    finally:
        store.close()


def from_url(link: str) -> Iterator[dict[str, Any]]:
    """Snapshots as the operators' listener sends them. The link is used up by this.

    Args:
        link: of `he-agg operator link`.

    Raises:
        ConfigError: not such a link.
        ProtocolError: it is too old, or was used.
        TransportError: the listener does not answer, or has gone away.
    """
    address = urlsplit(link)
    if address.scheme not in ("http", "https") or not address.hostname or not _TOKEN.match(address.fragment):
        raise ConfigError(Reason.BAD_CONFIG, "expected a link with a token, got none", "he-agg operator link makes one")
    base = address.path.rstrip("/")
    body = json.dumps({"token": address.fragment})
    with _request(address, "POST", f"{base}/login", body, {"Content-Type": "application/json"}) as answer:
        if answer.status != _NO_CONTENT:
            raise ProtocolError(
                Reason.UNAUTHENTICATED, "the link is too old, or was used before", "he-agg operator link makes another"
            )
        cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
    with _request(address, "GET", f"{base}/events", None, {"Cookie": cookie}) as answer:
        if answer.status != _OK:
            raise ProtocolError(Reason.BAD_ANSWER, f"the operators' listener answered {answer.status}")
        while line := answer.readline():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
    raise TransportError(Reason.UNREACHABLE, "the aggregator has ended the stream", "see whether it runs")


@contextmanager
def _request(
    address: Any, method: str, path: str, body: str | None, headers: dict[str, str]
) -> Iterator[http.client.HTTPResponse]:
    # Directly, whatever HTTP_PROXY says: this is an address of the operator's own.
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname, address.port, timeout=_TIMEOUT_S)
    try:
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(
                Reason.UNREACHABLE, f"no answer at {address.hostname} port {address.port}", "is --operator-port given?"
            ) from error
        try:
            yield answer
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(Reason.UNREACHABLE, "the connection to the aggregator is lost") from error
        finally:
            answer.close()
    finally:
        connection.close()
