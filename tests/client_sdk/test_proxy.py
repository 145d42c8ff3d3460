"""A proxy on a site's way out: a real CONNECT proxy, what it refuses, and settings that name none."""

import socket
import socketserver
import ssl
import threading
from typing import Any

import pytest

from client_sdk._net.transport import Transport
from he_agg.errors import ConfigError, Reason, TransportError
from tests.client_sdk.driving import GET, SIGNER, asking, run_async, run_sync
from tests.support.certificates import Authority

SECRET = "hunter"


@pytest.fixture(params=[run_sync, run_async], ids=["sync", "async"])
def run(request):
    return request.param


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No proxy but the one that a test sets."""
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    return monkeypatch


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.heads: list[str] = []
        self.status = 200
        self.to: Any = None


class _Connect(socketserver.StreamRequestHandler):
    """Answers CONNECT with the server's status, and if that is 200 passes bytes both ways."""

    server: _Server

    def handle(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.rfile.readline()
        self.server.heads.append(head.decode())
        status = self.server.status
        self.wfile.write(f"HTTP/1.1 {status} as it is\r\nContent-Length: 0\r\n\r\n".encode())
        if status != 200:
            return
        with socket.create_connection(self.server.to) as onward:
            back = threading.Thread(target=_pump, args=(onward, self.request))
            back.start()
            _pump(self.request, onward)
            back.join()


def _pump(source, to):
    try:
        while data := source.recv(65536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def proxy():
    server = _Server(("127.0.0.1", 0), _Connect)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def speak_tls(server, directory, name):
    """Let a server speak TLS; return whom to trust."""
    authority = Authority(directory)
    issued = authority.issue("server", name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return authority.ca_file


class _Hello(socketserver.StreamRequestHandler):
    def handle(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")


@pytest.fixture
def aggregator(tmp_path):
    """A TLS server of the name aggregator.example, which no resolver knows."""
    server = _Server(("127.0.0.1", 0), _Hello)
    ca_file = speak_tls(server, tmp_path / "ca", "aggregator.example")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address, ca_file
    server.shutdown()
    thread.join()
    server.server_close()


def at(proxy, login=""):
    return f"http://{login}127.0.0.1:{proxy.server_address[1]}"


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_tls_goes_through_it(run, proxy, aggregator, environment, name):
    proxy.to, ca_file = aggregator
    environment.setenv(name, at(proxy, "user:p%23%40%2F@"))
    assert run("https://aggregator.example", asking(GET), ca_file=ca_file).body == b"hello"
    assert proxy.heads[0].startswith("CONNECT aggregator.example:443 HTTP/1.1\r\n")
    assert "\r\nProxy-Authorization: Basic dXNlcjpwI0Av\r\n" in proxy.heads[0]
    assert "Signature" not in proxy.heads[0]


def test_tls_goes_through_a_proxy_that_speaks_tls_itself(run, proxy, aggregator, environment, tmp_path):
    """TLS within TLS. The proxy's certificate is the system's to trust, whatever `ca_file` says of the aggregator."""
    proxy.to, ca_file = aggregator
    environment.setenv("SSL_CERT_FILE", str(speak_tls(proxy, tmp_path / "proxy", "127.0.0.1")))
    environment.setenv("HTTPS_PROXY", at(proxy, "user:word@").replace("http:", "https:"))
    assert run("https://aggregator.example", asking(GET), ca_file=ca_file).body == b"hello"
    assert "\r\nProxy-Authorization: Basic dXNlcjp3b3Jk\r\n" in proxy.heads[0]
    environment.delenv("SSL_CERT_FILE")
    proxy.handle_error = lambda *_: None  # the handshake that the site breaks off
    with pytest.raises(ConfigError, match="certificate is not trusted"):
        run("https://aggregator.example", asking(GET), ca_file=ca_file)


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (407, ConfigError, "asks for a user and a password"),
        (403, ConfigError, "does not let this site connect to https://aggregator.example"),
        (451, ConfigError, "does not let this site connect"),
        (502, TransportError, "cannot reach https://aggregator.example"),
        (503, TransportError, "cannot reach"),
    ],
)
def test_what_it_refuses_is_not_the_aggregators_word(run, proxy, environment, status, kind, says):
    """What waiting cannot mend is no fault of the line: it is not tried again until patience ends."""
    proxy.status = status
    environment.setenv("HTTPS_PROXY", at(proxy, f"user:{SECRET}@"))
    with pytest.raises(kind, match=says) as caught:
        run("https://aggregator.example", asking(GET))
    assert f"127.0.0.1:{proxy.server_address[1]}" in caught.value.message
    assert SECRET not in f"{caught.value.message}{caught.value.hint}"
    assert len(proxy.heads) == 1


@pytest.mark.parametrize(
    "url",
    [
        "socks5://127.0.0.1:1080",
        "socks4://127.0.0.1:1080",
        f"http://user:{SECRET}#2@proxy:3128",
        f"http://user:12#{SECRET}@proxy:3128",
        f"http://user:{SECRET}/2@proxy:3128",
        f"http://user:{SECRET}?2@proxy:3128",
        f"http://user:{SECRET}[@proxy:3128",
        f"http://proxy:{SECRET}",
        "http://proxy:99999",
        "http://:3128",
        "http://",
        "//",
        "http://" + "x" * 64 + ":1",
    ],
)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY"])
def test_settings_that_name_no_http_proxy(environment, name, url):
    environment.setenv(name, url)
    with pytest.raises(ConfigError, match=f"^{name}: expected http://host:port") as caught:
        Transport("https://aggregator.example", SIGNER)
    assert caught.value.reason == Reason.BAD_CONFIG
    assert SECRET not in f"{caught.value.message}{caught.value.hint}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "entries", "passes_by"),
    [
        ("https://localhost", "localhost,10.0.0.0/8,fe80::/10", True),
        ("https://10.3.4.5", "localhost, 10.0.0.0/8 ,fe80::/10", True),
        ("https://11.3.4.5", "localhost,10.0.0.0/8,fe80::/10", False),
        ("https://[::1]", "[::1]", True),
        ("https://[::1]:8470", "::1", True),
        ("https://[fe80::7]", "fe80::/10", True),
        ("https://[2001:db8::1]", "fe80::/10,[::1]", False),
        ("https://127.0.0.1:8470", "127.0.0.1", True),
        ("https://a.example.org", ".example.org", True),
        ("https://a.example.org", "example.org", True),
        ("https://a.example.org", "*", True),
        ("https://a.example.org", "b.example.org,,/,10.0.0.0/99", False),
        ("https://a.example.org", "", False),
    ],
)
def test_no_proxy(environment, url, entries, passes_by):
    """Seen by a setting that cannot be used: it matters only to those who would use it."""
    environment.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    environment.setenv("NO_PROXY", entries)
    if passes_by:
        Transport(url, SIGNER).close()
    else:
        with pytest.raises(ConfigError, match="HTTPS_PROXY"):
            Transport(url, SIGNER)
