"""Connections to an aggregator: directly or through a proxy, with TLS or without, used again while they last."""

from __future__ import annotations

import base64
import contextlib
import ssl
import threading
import time
from collections.abc import Iterator

from client_sdk._net.budget import BadAnswerError, Budget, ClosedError, ProxyError
from client_sdk._net.http import Exchange
from client_sdk._net.lines import Line, TcpLine, TlsLine
from client_sdk._net.proxies import Proxy
from client_sdk._net.server import Server

__all__ = ["Connections", "Hold"]

_KEEP_S = 5.0


class Hold:
    """Lets another thread break off what is under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: Line | None = None
        self._broken = False

    def take(self, line: Line) -> None:
        """Hold the line that will carry the request.

        Raises:
            ClosedError: it was broken off before.
        """
        with self._lock:
            if self._broken:
                line.close()
                raise ClosedError("broken off")
            self._line = line

    def close(self) -> None:
        """Close the line that is held."""
        with self._lock:
            if self._line is not None:
                self._line.close()
                self._line = None

    def release(self) -> None:
        """Let go of the line, which is whole."""
        with self._lock:
            self._line = None

    def break_off(self) -> bool:
        """End the line. Any thread may.

        Returns:
            Whether there is one; if not, nothing was done for the request and nothing will be.
        """
        with self._lock:
            self._broken = True
            if self._line is not None:
                self._line.shut()
            return self._line is not None


class Connections:
    """Opens connections, and keeps those that may be used again. Any thread may.

    Args:
        context: what is trusted, and shown, where the aggregator's url says https.
    """

    def __init__(self, server: Server, context: ssl.SSLContext | None, proxy: Proxy | None) -> None:
        self._server, self._context, self._proxy = server, context, proxy
        self._idle: list[tuple[Line, float]] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def exchange(self, budget: Budget, hold: Hold) -> Iterator[Exchange]:
        """Lend a connection for one request; it is closed if it cannot carry another one afterwards."""
        line = self._kept(budget)
        try:
            if line is None:
                line = self._opened(budget, hold)
            else:
                hold.take(line)
            exchange = Exchange(line)
            yield exchange
        except BaseException:
            hold.close()
            raise
        if exchange.leaves_line:
            hold.release()
            with self._lock:
                self._idle.append((line, time.monotonic()))
        else:
            hold.close()

    def close(self) -> None:
        """Close those that nobody uses."""
        with self._lock:
            for line, _ in self._idle:
                line.close()
            self._idle.clear()

    def _kept(self, budget: Budget) -> Line | None:
        """Return a connection from before, if there is one that is still good."""
        with self._lock:
            while self._idle:
                line, since = self._idle.pop()
                if time.monotonic() - since < _KEEP_S and line.is_quiet:
                    line.budget = budget
                    return line
                line.close()
        return None

    def _opened(self, budget: Budget, hold: Hold) -> Line:
        server, proxy = self._server, self._proxy
        line: Line = TcpLine(*((server.host, server.port) if proxy is None else (proxy.host, proxy.port)), budget)
        hold.take(line)
        if proxy is not None:
            if proxy.is_tls:
                line = TlsLine(line, ssl.create_default_context(), proxy.host)
            _tunnel(line, f"{server.bracketed}:{server.port}", proxy)
        return line if self._context is None else TlsLine(line, self._context, server.host)


def _tunnel(line: Line, to: str, proxy: Proxy) -> None:
    exchange = Exchange(line)
    headers = {"Host": to, "Accept": "*/*"}
    if proxy.login is not None:
        login = base64.b64encode(":".join(proxy.login).encode()).decode("ascii")
        headers["Proxy-Authorization"] = f"Basic {login}"
    exchange.ask("CONNECT", to, headers)
    status = exchange.head().status
    if not 200 <= status < 300:
        raise ProxyError(status)
    if exchange.has_rest:
        raise BadAnswerError("expected nothing from the proxy after its answer, got bytes")
    line.budget.heads = True
