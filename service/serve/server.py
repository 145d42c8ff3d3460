"""uvicorn, run from here: the address is bound and announced, polls are released on SIGTERM, and its own log is off."""

from __future__ import annotations

import gc
import signal
import socket
import sys
from contextlib import closing

import uvicorn

from service.aggregator import Aggregator
from service.http.app import create_app
from service.logs import configure
from service.monitor.monitoring import Watching
from service.serve.connections import Config
from service.serve.listeners import Listeners, bind, url_of
from service.serve.memory import keep_memory
from service.serve.telling import told_to_coordinators
from service.serve.tls import check_address, tls_context
from service.settings import Settings

__all__ = ["run"]


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, aggregator: Aggregator, watching: Watching, listeners: Listeners, address: str
    ) -> None:
        super().__init__(config)
        self._aggregator = aggregator
        self._watching = watching
        self._listeners = listeners
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"listening on {self._address}", flush=True)
            for line in told_to_coordinators(self._aggregator.settings, self._aggregator.key):
                print(line, flush=True)
            for line in self._listeners.start(self._aggregator, self._watching):
                print(line, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A long poll would hold the process for a minute.
        self._aggregator.worker.release_waiters()
        await self._listeners.stop()
        await super().shutdown(sockets)


def run(settings: Settings) -> None:
    """Serve until a signal says otherwise.

    Raises:
        ConfigError: the data directory or the address cannot be used.
    """
    keep_memory()
    configure(settings.log_level)
    context = tls_context(settings)
    watching = Watching(settings)
    with bind(settings.host, settings.port, "--port") as listener, closing(Listeners(settings)) as listeners:
        check_address(listener.getsockname()[0], settings)
        aggregator = Aggregator.open(settings)
        config = Config(
            create_app(settings, aggregator, watching),
            settings,
            context,
            lifespan="on",
            timeout_graceful_shutdown=settings.graceful_s,
        )
        config.load()
        # What is loaded by now stays: collecting garbage does not go through it again and again.
        gc.collect()
        gc.freeze()
        address = url_of(listener, "http" if context is None else "https")
        # uvicorn ends gracefully and then raises the signal again; having been asked to stop is no failure.
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda *_: sys.exit(0))
        _Server(config, aggregator, watching, listeners, address).run(sockets=[listener])
