"""A proxy in front of a real HTTP server, through which a test lets requests pass, fail, wait or lose their answers."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

__all__ = ["LOSE_ANSWER", "FaultyProxy", "Verdict"]

LOSE_ANSWER = 0
"""The request arrives and is done, and whoever asked sees the connection end."""

Verdict = int | None
"""A status to answer with instead of asking, or `LOSE_ANSWER`; None lets a request pass."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of whoever did not wait for an answer."""


class FaultyProxy:
    """Listens on a free port of loopback, as a context manager.

    Attributes:
        rule: decides on each request by its method, path and length; it may sleep.
        passed: method and path of each request that arrived.
    """

    def __init__(self, target: str) -> None:
        self.rule: Callable[[str, str, int], Verdict] = lambda *_: None
        self.passed: list[tuple[str, str]] = []
        self._server = _Server(("127.0.0.1", 0), self._handler(urlsplit(target).netloc))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self, target: str) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def parse_request(self) -> bool:
                # Whatever the method is called, it is handled in one place.
                parsed = super().parse_request()
                setattr(self, f"do_{self.command}", self._handle)
                return parsed

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.passed.append((self.command, self.path))
                verdict = proxy.rule(self.command, self.path, len(body))
                if verdict:
                    self._answer(verdict, {}, b"<Error><Code>Injected</Code></Error>")
                    return
                connection = http.client.HTTPConnection(target)
                try:
                    # The name that was asked for is signed, so it stays.
                    connection.request(self.command, self.path, body, dict(self.headers.items()))
                    answer = connection.getresponse()
                    content = answer.read()
                finally:
                    connection.close()
                if verdict == LOSE_ANSWER:
                    self.close_connection = True
                    return
                self._answer(answer.status, dict(answer.getheaders()), content)

            def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", str(len(content)))  # of what a HEAD does not send
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler
