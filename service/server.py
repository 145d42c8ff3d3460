"""uvicorn, run from here: the address is bound and announced, polls are released on SIGTERM, and its own log is off."""

from __future__ import annotations

import signal
import socket
import sys

import uvicorn

from he_agg.errors import ConfigError, Reason
from service.aggregator import Aggregator
from service.app import create_app
from service.logs import configure
from service.settings import Settings
from service.tls import check_address, tls_context

__all__ = ["run"]


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, aggregator: Aggregator, address: str) -> None:
        super().__init__(config)
        self._aggregator = aggregator
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"listening on {self._address}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A long poll would hold the process for a minute.
        self._aggregator.worker.release_waiters()
        await super().shutdown(sockets)


def run(settings: Settings) -> None:
    """Serve until a signal says otherwise.

    Raises:
        ConfigError: the data directory or the address cannot be used.
    """
    configure(settings.log_level)
    context = tls_context(settings)
    listener = _bind(settings.host, settings.port)
    with listener:
        host, port = listener.getsockname()[:2]
        check_address(host, settings)
        aggregator = Aggregator.open(settings)
        config = uvicorn.Config(
            create_app(settings, aggregator),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=settings.graceful_s,
        )
        config.load()
        config.ssl = context  # one of our own: uvicorn's options would choose its ciphers
        scheme = "http" if context is None else "https"
        address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        # uvicorn ends gracefully and then raises the signal again; having been asked to stop is no failure.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        _Server(config, aggregator, address).run(sockets=[listener])


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            Reason.BAD_CONFIG, f"cannot listen on {host} port {port}: {error.strerror}", "choose another --port"
        ) from error
    return listener
