"""uvicorn, run from here: the address is bound and announced, polls are released on SIGTERM, and its own log is off."""

from __future__ import annotations

import gc
import signal
import socket
import ssl
import sys
from contextlib import closing

import uvicorn

from service.aggregator import Aggregator
from service.http.app import create_app
from service.logs import configure
from service.monitor.audit_log.wiring import note_target
from service.monitor.monitoring import Watching
from service.serve.connections import Config
from service.serve.listeners import Listeners, bind, url_of
from service.serve.memory import keep_memory
from service.serve.processes import Supervisor, Tell, process_count
from service.serve.telling import told_to_coordinators
from service.serve.tls import check_address, tls_context
from service.settings import Settings
from service.work.folding import warm_up
from service.work.roles import check_role

__all__ = ["run"]


class _Server(uvicorn.Server):
    """Serves in one process.

    Args:
        number: which one of the processes it is, from 0.
        tell: called once it serves, with what else is to be read on stdout.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        aggregator: Aggregator,
        watching: Watching,
        listeners: Listeners,
        number: int,
        tell: Tell,
    ) -> None:
        super().__init__(config)
        self._aggregator = aggregator
        self._watching = watching
        self._listeners = listeners
        self._number = number
        self._tell = tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            lines = []
            if self._number == 0:
                note_target(self._aggregator.settings)
                lines += told_to_coordinators(self._aggregator.settings, self._aggregator.key)
            self._tell(lines + self._listeners.start(self._aggregator, self._watching, self._number))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A long poll would hold the process for a minute.
        self._aggregator.worker.release_waiters()
        await self._listeners.stop()
        await super().shutdown(sockets)


def run(settings: Settings) -> int:
    """Serve until a signal says otherwise.

    Returns:
        The exit code.

    Raises:
        ConfigError: the data directory or the address cannot be used, or the settings do not go together.
    """
    keep_memory()
    configure(settings.log_level)
    count = process_count(settings)
    check_role(settings)
    context = tls_context(settings)
    with bind(settings.host, settings.port, "--port") as listener, closing(Listeners(settings, count)) as listeners:
        check_address(listener.getsockname()[0], settings)
        address = url_of(listener, "http" if context is None else "https")

        def serve(number: int, tell: Tell) -> None:
            _serve(settings, context, listener, listeners, number, tell)

        if count > 1:
            warm_up()  # once for all of them
            return Supervisor(count, address).run(serve)
        serve(0, lambda lines: print("\n".join([f"listening on {address}", *lines]), flush=True))
    return 0


def _serve(
    settings: Settings,
    context: ssl.SSLContext | None,
    listener: socket.socket,
    listeners: Listeners,
    number: int,
    tell: Tell,
) -> None:
    watching = Watching(settings)
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
    # uvicorn ends gracefully and then raises the signal again; having been asked to stop is no failure.
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: sys.exit(0))
    _Server(config, aggregator, watching, listeners, number, tell).run(sockets=[listener])
