"""Receivers of audit events: of syslog by datagrams and streams, and an OpenTelemetry collector."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.ports import free_ports

__all__ = ["Collector", "Syslog", "parsed"]


def parsed(message: bytes):
    """What another author's parser reads in a message; what stands behind a backslash it leaves to its callers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its parser generator imports what Python 3.11 calls old
        from syslog_rfc5424_parser import SyslogMessage
    read = SyslogMessage.parse(message.decode())
    read.sd = {
        name: {key: re.sub(r'\\(["\\\]])', r"\1", value) for key, value in parameters.items()}
        for name, parameters in read.sd.items()
    }
    return read


class Syslog:
    """Takes messages until it is closed.

    Args:
        kind: "udp", "tcp", "tls" or "unix".
        address: a port that was used before, or a path for "unix".
        tls: context of the server.
    """

    def __init__(self, kind: str, address: int | Path = 0, tls: ssl.SSLContext | None = None) -> None:
        self.kind, self._tls = kind, tls
        self.messages: list[bytes] = []
        self._stopped = threading.Event()
        self._connections: list[socket.socket] = []
        if kind == "unix":
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.bind(str(address))
        else:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.port = address if isinstance(address, int) and address else free_ports(1)[0]
            self._socket.bind(("127.0.0.1", self.port))
        self._socket.settimeout(0.05)
        if kind in ("tcp", "tls"):
            self._socket.listen()
        self._threads = [threading.Thread(target=self._run)]
        self._threads[0].start()

    def __enter__(self) -> Syslog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                if self.kind in ("udp", "unix"):
                    self.messages.append(self._socket.recv(65536))
                    continue
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            self._threads.append(threading.Thread(target=self._read, args=(connection,)))
            self._threads[-1].start()

    def _read(self, connection: socket.socket) -> None:
        """Read frames: a length, a space, and so many bytes."""
        with connection as plain:
            plain.settimeout(5)
            try:
                stream = plain if self._tls is None else self._tls.wrap_socket(plain, server_side=True)
            except OSError:
                return
            stream.settimeout(0.05)
            held = b""
            while not self._stopped.is_set():
                try:
                    data = stream.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    break
                held += data
                while b" " in held:
                    length, _, rest = held.partition(b" ")
                    if len(rest) < int(length):
                        break
                    self.messages.append(rest[: int(length)])
                    held = rest[int(length) :]
            stream.close()


class Collector:
    """Takes in what an OpenTelemetry exporter sends. `status` is what it answers."""

    def __init__(self) -> None:
        collector = self
        self.bodies: list[bytes] = []
        self.status = 200

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if collector.status == 200:
                    collector.bodies.append(body)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
