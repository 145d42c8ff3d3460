"""Further listeners beside the one for sites: the operators' page, and metrics. They live as long as the server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from he_agg.errors import ConfigError, Reason
from service.aggregator import Aggregator
from service.audit_events.event import make_event, user_of_this_process
from service.monitor.monitoring import Watching
from service.serve.connections import Config
from service.settings import Settings

if TYPE_CHECKING:
    from service.monitor.dashboard.oidc import Provider

__all__ = ["Listeners", "bind", "url_of"]


class _Side(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The main server has them, and tells this one.
        yield


class Listeners:
    """Bound when it is made, so that an address that is taken is an error before anything is opened.

    The operators' page shows what is in the store, so one process has it, the first. Metrics are those of a process:
    each has a port of its own, one after another.

    Args:
        processes: how many there are.

    Raises:
        ConfigError: an address cannot be used.
    """

    def __init__(self, settings: Settings, processes: int = 1) -> None:
        self._settings = settings
        self._operator: socket.socket | None = None
        self._metrics: list[socket.socket] = []
        self._servers: list[_Side] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._provider = _provider(settings)
        if settings.operator_port is not None:
            self._operator = bind(settings.operator_host, settings.operator_port, "--operator-port")
            address = self._operator.getsockname()[0]
            if not ipaddress.ip_address(address).is_loopback and settings.operator_url is None:
                self.close()
                raise ConfigError(
                    Reason.BAD_CONFIG,
                    f"refusing to serve the operators' page by plain HTTP on {address}",
                    "leave it on loopback and come by `ssh -L 8471:127.0.0.1:8471 aggregator.example`; or put a proxy "
                    "that does TLS in front, and say --operator-url https://...",
                )
        if settings.metrics_port is not None:
            try:
                for number in range(processes):
                    port = settings.metrics_port + number if settings.metrics_port else 0
                    self._metrics.append(bind(settings.metrics_host, port, "--metrics-port"))
            except ConfigError:
                self.close()
                raise

    def start(self, aggregator: Aggregator, watching: Watching, number: int = 0) -> list[str]:
        """Begin to serve what belongs to one of the processes. Call it on the running event loop.

        Returns:
            What is to be read on stdout.
        """
        from service.monitor.dashboard.app import make_metrics_app, make_operator_app, open_entrance
        from service.monitor.dashboard.entrance import LinkEntrance
        from service.operator import operations

        lines = []
        if self._operator is not None and number == 0:
            entrance = open_entrance(self._settings, watching, self._provider)
            actions = {"pause": operations.pause, "resume": operations.resume, "skip": operations.skip}
            self._serve(make_operator_app(self._settings, aggregator, watching, entrance, actions), self._operator)
            url = (self._settings.operator_url or url_of(self._operator)).rstrip("/")
            if isinstance(entrance, LinkEntrance):
                watching.tell(make_event("operator.link-made", by=user_of_this_process(), via="command"))
                lines.append(f"operators' page, this link is good once: {url}/#{entrance.new_link()}")
            else:
                lines.append(f"operators' page, people sign in by {self._settings.oidc_issuer}: {url}/")
        if self._metrics:
            self._serve(make_metrics_app(self._settings, watching), self._metrics[number])
            lines.append(f"metrics on {url_of(self._metrics[number])}/metrics")
        return lines

    async def stop(self) -> None:
        """End. Streams have been told to."""
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Give the addresses back."""
        for listener in (self._operator, *self._metrics):
            if listener is not None:
                listener.close()

    def _serve(self, app: ASGIApp, listener: socket.socket) -> None:
        listener.listen()  # who reads the address on stdout waits for an answer instead of being refused
        config = Config(app, self._settings, lifespan="off", timeout_graceful_shutdown=2)
        server = _Side(config)
        self._servers.append(server)
        self._tasks.append(asyncio.create_task(server.serve(sockets=[listener]), name="listener"))


def _provider(settings: Settings) -> Provider | None:
    if settings.oidc_issuer is None:
        if (
            settings.oidc_client_id is not None
            or settings.oidc_operators is not None
            or settings.oidc_viewers is not None
        ):
            raise ConfigError(
                Reason.BAD_CONFIG, "oidc: expected an issuer beside the other settings", "--oidc-issuer https://..."
            )
        return None
    if settings.operator_port is None:
        raise ConfigError(
            Reason.BAD_CONFIG, "an identity provider is for the operators' page, and there is none", "--operator-port"
        )
    from service.monitor.dashboard.oidc import Provider

    return Provider(settings)


def bind(host: str, port: int, option: str) -> socket.socket:
    """Take an address.

    Args:
        host: name or address.
        port: 0 takes a free one.
        option: which one of `serve` says so.

    Raises:
        ConfigError: it is taken, or none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        mine = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        where = f"name an address of this machine with {option.replace('port', 'host')}"
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"cannot listen on {host} port {port}: {error.strerror}",
            where if mine else f"choose another {option}",
        ) from error
    return listener


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Return how to reach a listener."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
