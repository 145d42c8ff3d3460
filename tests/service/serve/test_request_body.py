"""Requests whose bodies go past the parser: however a connection cuts them, each is read as it was sent, and no other.

The server is uvicorn with the connections that ship; only the application is the test's own. It reads a body in pieces
of its own choice, says what was in it, and may answer before it has read all of it.
"""

import asyncio
import contextlib
import hashlib
import queue
import select
import socket
import ssl
import threading
import time

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request

from service.http.bodies import BodyReader
from service.refusal import RefusedError
from service.serve.connections import Config
from service.settings import Settings
from tests.support.certificates import Authority

with contextlib.suppress(ImportError):  # it is for Linux and macOS
    import uvloop

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": lambda: uvloop.new_event_loop()}
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
LONG = 700_000
"""Longer than what one look at a socket brings."""


class App:
    """Reads `?pieces=1,2,3&within=S&rest=S` and answers with the SHA-256 of the pieces; `?none` reads nothing."""

    def __init__(self):
        self.gone = queue.Queue()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            told = "none" if "none" in request.query_params else await self._read(request)
        except ClientDisconnect:
            self.gone.put(request.url.path)
            return
        except RefusedError as error:
            told = error.reason.value
        body = told.encode().ljust(64)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"64")]})
        await send({"type": "http.response.body", "body": body})

    async def _read(self, request):
        lengths = [int(length) for length in request.query_params["pieces"].split(",")]
        within, reader = float(request.query_params.get("within", "60")), BodyReader(request)
        digest = hashlib.sha256()
        for n, length in enumerate(lengths):
            await asyncio.sleep(float(request.query_params.get("rest", "0")) * (n > 0))
            for piece in await reader.read([length // 2, length - length // 2], within, last=n == len(lengths) - 1):
                digest.update(piece)
        return digest.hexdigest()


class Server:
    """One on a loop of its own, in a thread."""

    def __init__(self, loop, issued):
        self.app, self.issued = App(), issued
        context = None
        if issued is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(issued.cert, issued.key)
        self._server = uvicorn.Server(Config(self.app, Settings(), context, lifespan="off"))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._loop = loop()
        serve = self._server.serve(sockets=[self._listener])
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(serve,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join()
        self._loop.close()
        self._listener.close()

    def connect(self, authority):
        line = socket.create_connection(self._listener.getsockname(), timeout=30)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.issued is not None:
            context = ssl.create_default_context(cafile=str(authority.ca_file))
            line = context.wrap_socket(line, server_hostname="127.0.0.1")
        return line


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module", params=["plain", "tls"])
def issued(authority, request):
    return authority.issue("server", "127.0.0.1") if request.param == "tls" else None


@pytest.fixture(scope="module", params=LOOPS)
def server(issued, request):
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    with Server(LOOPS[request.param], issued) as running:
        yield running


def request_of(query, body=b"", *, length=None, headers=""):
    length = len(body) if length is None else length
    return f"PUT /x?{query} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n".encode() + body


def answers(line, count):
    """What so many requests were told, in order."""
    received = b""
    while received.count(b"\r\n\r\n") < count or len(received.rpartition(b"\r\n\r\n")[2]) < 64:
        data = line.recv(2**16)
        assert data, f"the connection ended after {received[-300:]!r}"
        received = (received + data).replace(GO_ON, b"")
    return [piece[:64].strip().decode() for piece in received.split(b"\r\n\r\n")[1:]]


def cut(rng, total, most):
    """Lengths that make up a total; none of them 0."""
    ends = sorted({int(end) for end in rng.integers(1, max(2, total), size=int(rng.integers(0, most)))} | {total})
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False) if end > begin]


def test_requests_one_behind_another_however_they_are_cut(server, authority, rng):
    """Bodies of all lengths, read in pieces or not at all, sent ahead and cut anywhere."""
    for _ in range(6):
        data, expected = [], []
        for _ in range(int(rng.integers(2, 7))):
            body = rng.bytes(int(rng.choice([1, 2, 40, 5000, 66_000, 300_000, LONG])))
            if rng.random() < 0.2:
                data.append(request_of("none", body))
                expected.append("none")
            else:
                pieces = ",".join(map(str, cut(rng, len(body), 5)))
                data.append(request_of(f"pieces={pieces}", body))
                expected.append(hashlib.sha256(body).hexdigest())
        stream, sent = b"".join(data), 0
        with server.connect(authority) as line:
            for length in cut(rng, len(stream), 40):
                line.sendall(stream[sent : sent + length])
                sent += length
            assert answers(line, len(expected)) == expected


def test_byte_by_byte(server, authority, rng):
    body = rng.bytes(50)
    with server.connect(authority) as line:
        for byte in request_of("pieces=20,30", body) + request_of("pieces=1", b"x"):
            line.sendall(bytes([byte]))
        assert answers(line, 2) == [hashlib.sha256(body).hexdigest(), hashlib.sha256(b"x").hexdigest()]


def test_whoever_goes_away_is_missed(server, authority):
    """By the reader, at once, wherever in the body it was, and however it goes."""
    for sent in (0, 10, 70_000, LONG - 1):
        for leave in (socket.socket.close, half_close, say_goodbye):
            with server.connect(authority) as line:
                line.sendall(request_of(f"pieces={LONG}", bytes(sent), length=LONG))
                time.sleep(0.05)  # it waits for more
                leave(line)
                assert server.app.gone.get(timeout=10) == "/x"


def half_close(line):
    line.shutdown(socket.SHUT_WR)


def say_goodbye(line):
    if isinstance(line, ssl.SSLSocket):
        with contextlib.suppress(OSError):
            line.unwrap()
    else:
        line.close()


def test_a_body_that_takes_too_long_is_given_up_and_the_next_request_answered(server, authority, rng):
    """The memory it was read into is nobody's then: what comes late goes nowhere, and is no request."""
    body = rng.bytes(LONG)
    with server.connect(authority) as line:
        line.sendall(request_of(f"pieces={LONG}&within=0.3", body[:100_000], length=LONG))
        assert answers(line, 1) == ["too-slow"]
        line.sendall(body[100_000:] + request_of("pieces=1", b"x"))
        assert answers(line, 1) == [hashlib.sha256(b"x").hexdigest()]


@pytest.mark.parametrize("length", [10, 1000, 60_000, LONG])
@pytest.mark.parametrize("waits", [True, False])
def test_who_asks_first_is_told_to_go_on(server, authority, rng, length, waits):
    """Some wait for that, and some do not."""
    body, ask = rng.bytes(length), "Expect: 100-continue\r\n"
    with server.connect(authority) as line:
        line.sendall(request_of(f"pieces={length}&within=5", length=length, headers=ask))
        if waits:
            assert line.recv(100) == GO_ON
        line.sendall(body)
        assert answers(line, 1) == [hashlib.sha256(body).hexdigest()]


@pytest.mark.parametrize("method", ["PUT", "CONNECT"])
def test_a_body_never_becomes_a_request(server, authority, method):
    """Not even of a request for another protocol, whose parser looks for no body."""
    head = f"{method} /x?none HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n".encode()
    inner = request_of("none")
    for cut_here in (True, False):
        with server.connect(authority) as line:
            received, first = b"", head + f"Content-Length: {len(inner)}\r\n\r\n".encode()
            with contextlib.suppress(ConnectionError):
                if cut_here:
                    line.sendall(first)
                    time.sleep(0.05)
                    line.sendall(inner)
                else:
                    line.sendall(first + inner)
                while data := line.recv(2**16):
                    received += data
            assert received.startswith(b"HTTP/1.1 400")
            assert b" 200 " not in received


def test_a_body_in_chunks_is_still_the_parsers(server, authority):
    """Its length is not in its head."""
    head = b"PUT /x?none HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with server.connect(authority) as line:
        line.sendall(head + b"5\r\nhello\r\n0\r\n\r\n" + request_of("pieces=1", b"x"))
        assert answers(line, 2) == ["none", hashlib.sha256(b"x").hexdigest()]


@pytest.mark.parametrize("length", ["+5", "5,5", "0x5", " ", "-1"])
def test_a_length_that_is_none_is_refused(server, authority, length):
    with server.connect(authority) as line:
        line.sendall(request_of("none", b"hello", length=length) + request_of("none"))
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := line.recv(2**16):
                received += data
        assert received.startswith(b"HTTP/1.1 400")
        assert received.count(b"content-length") == 1


def test_nobody_reads_ahead(server, authority):
    """What nobody takes stays with its sender: memory does not grow by what is sent."""
    most = 2**28
    with server.connect(authority) as line:
        line.sendall(request_of(f"pieces=1,{most - 1}&rest=4", length=most))
        line.setblocking(False)
        sent, block = 0, bytes(2**18)
        while sent < most and select.select([], [line], [], 1.0)[1]:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
                sent += line.send(block)
        assert sent < most / 2
