"""Each way in which nobody answers has a sentence of its own, blocking and on asyncio, through a proxy and without."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from he_agg.errors import Reason, TransportError
from tests.client_sdk.driving import GET, asking, run_async, run_sync
from tests.support.certificates import Authority
from tests.support.ports import free_ports

both = pytest.mark.parametrize("run", [run_sync, run_async])


def said(run, url: str, **options) -> tuple[str, str]:
    with pytest.raises(TransportError) as caught:
        run(url, asking(GET), **options)
    assert caught.value.reason == Reason.UNREACHABLE
    assert caught.value.message.startswith(f"{url}: ")
    assert "what was encrypted stays in the spool" in caught.value.hint
    return caught.value.message, caught.value.hint


@contextlib.contextmanager
def answering(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A port at which somebody says the same to everybody, over TLS perhaps, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with contextlib.suppress(OSError), peer:
                    wrapped = peer if context is None else context.wrap_socket(peer, server_side=True)
                    wrapped.recv(65536)
                    wrapped.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.fixture(scope="module")
def tls(tmp_path_factory) -> tuple[ssl.SSLContext, Path]:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    issued = authority.issue("server", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    return context, authority.ca_file


@both
def test_an_unknown_host(run):
    message, hint = said(run, "https://no-such-host.invalid")
    assert "no address is known of no-such-host.invalid" in message
    assert "DNS" in hint


@both
def test_a_wrong_port(run):
    (port,) = free_ports(1)
    message, hint = said(run, f"http://127.0.0.1:{port}")
    assert "nobody listens at that port" in message
    assert "check the port" in hint


@both
def test_plain_http_to_the_tls_port(run, tls):
    with answering(b"", tls[0]) as port:
        message, hint = said(run, f"http://127.0.0.1:{port}")
    assert "closed before all of an answer was there" in message
    assert "write https:// in the url" in hint


@both
def test_tls_to_a_plain_port(run, tls):
    with answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port:
        message, hint = said(run, f"https://127.0.0.1:{port}", ca_file=tls[1])
    assert "speaks no TLS" in message
    assert "check the port" in hint


@both
def test_a_proxy_that_is_not_there(run, monkeypatch):
    (port,) = free_ports(1)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    message, hint = said(run, "https://aggregator.example")
    assert "nobody listens at the port of the proxy 127.0.0.1" in message
    assert "HTTPS_PROXY" in hint
