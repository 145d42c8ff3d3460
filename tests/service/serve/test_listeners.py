"""Addresses are announced when they take connections, not earlier."""

import asyncio
import re
import socket
from contextlib import closing

from service.aggregator import Aggregator
from service.monitor.monitoring import Watching
from service.serve.listeners import Listeners
from service.settings import Settings


def test_what_is_announced_takes_connections_at_once(tmp_path):
    """The event loop does not run between the announcement and the connection."""

    async def announced_and_taken():
        lines = listeners.start(aggregator, watching)
        ports = [int(port) for line in lines for port in re.findall(r"127\.0\.0\.1:([0-9]+)", line)]
        for port in ports:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        await listeners.stop()
        return len(ports)

    settings = Settings(data_dir=tmp_path, metrics_port=0, operator_port=0)
    watching = Watching(settings)
    with closing(Listeners(settings)) as listeners, closing(Aggregator.open(settings)) as aggregator:
        assert asyncio.run(announced_and_taken()) == 2
        watching.close()
