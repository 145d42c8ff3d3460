"""`flower-supernode`, with a list of the requests it makes to the SuperLink. Runs in Flower's Python.

    python supernode.py REQUESTS WAIT ...      as `flower-supernode ...`

One line for each request: when it began and ended, on the clock that all processes share, its path, and the bytes of
the bodies either way. WAIT is how long it may wait at most before it looks again, in seconds; Flower waits three
seconds between looks for messages and half a second for the app's reply. 0 leaves that as it is.
"""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path
from typing import Any

from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode


def _watched(client: Any, requests: Any) -> None:
    send = client._client.send

    def sending(request: Any, **options: Any) -> Any:
        begin = time.monotonic()
        response = send(request, **options)
        down = len(response.read())
        line = f"{begin} {time.monotonic()} {request.url.path} {len(request.content)} {down}\n"
        requests.write(line.encode())
        return response

    client._client.send = sending


def main() -> None:
    """Run until killed."""
    requests, wait = Path(sys.argv[1]).open("ab", buffering=0), float(sys.argv[2])  # noqa: SIM115 - as long as it runs
    del sys.argv[1:3]

    connection: Any = fleet_http_connection

    class Watched(connection.FleetHttpClient):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            _watched(self, requests)

    connection.FleetHttpClient = Watched
    if wait:
        clock = types.SimpleNamespace(**vars(time))
        clock.sleep = lambda seconds: time.sleep(min(seconds, wait))
        start: Any = start_client_internal
        start.time = clock
    flower_supernode()


if __name__ == "__main__":
    main()
