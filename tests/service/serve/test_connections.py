"""What anybody can do who reaches the port, without a key: hold connections. Each step has its time."""

import contextlib
import json
import socket
import ssl
import threading
import time

import httpx
import pytest

from tests.service.serve.tls_clients import ask, client_context, settings
from tests.support.certificates import Authority
from tests.support.peers import make_plan
from tests.support.real import RealFederation
from tests.support.server import QUICK, start_server

HEAD_S = 1.0
LONG_S = 20.0
"""A connection that is there after it has no end of its own."""
SHORT = QUICK | {"HE_AGG_HEAD_S": str(HEAD_S), "HE_AGG_MAX_STRANGERS": "8"}
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with start_server(tmp_path_factory.mktemp("connections") / "data", environment=SHORT) as process:
        yield process


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def mutual(authority, tmp_path_factory):
    issued = authority.issue("mutual", "127.0.0.1")
    environment = SHORT | settings(issued, HE_AGG_TLS_CLIENT_CA=str(authority.ca_file))
    with start_server(tmp_path_factory.mktemp("mutual") / "data", environment=environment) as process:
        yield process


def connect(server):
    host, _, port = server.url.partition("://")[2].partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def seconds_until_closed(connection, drip=b""):
    """How long it lives, at least, when one byte is sent every tenth of a second."""
    began = time.monotonic()
    connection.settimeout(0.1)
    sent = iter(drip)
    while time.monotonic() - began < LONG_S:
        with contextlib.suppress(OSError):
            byte = next(sent, None)
            if byte is not None:
                connection.send(bytes([byte]))
        try:
            if not connection.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


@pytest.mark.parametrize("drip", [b"", b"GET /healthz HTTP/1.1\r\nHost: " + b"x" * 1000], ids=["silence", "drip"])
def test_a_head_has_its_time(server, drip):
    with connect(server) as connection:
        assert HEAD_S - 0.2 < seconds_until_closed(connection, drip) < LONG_S


def test_so_has_the_next_one(server):
    """Single bytes do not keep a connection that has been answered once."""
    with connect(server) as connection:
        connection.sendall(GET)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert seconds_until_closed(connection, b"GET /healthz HTTP/1.1\r\nHost: " + b"x" * 1000) < LONG_S


def test_an_answer_is_not_cut_short(server):
    """The time is for heads: a poll waits as long as it says, on a connection that is used again."""
    world = RealFederation(server, make_plan("polls"), ["a", "b"])
    for _ in range(2):
        began = time.monotonic()
        assert world.peer().current(wait=2 * HEAD_S, after=world.round_id)["round_id"] == world.round_id
        assert time.monotonic() - began > 2 * HEAD_S - 0.5
    world.close()


def test_many_strangers_keep_nobody_out(server):
    with contextlib.ExitStack() as held:
        strangers = [held.enter_context(connect(server)) for _ in range(300)]
        for _ in range(3):
            assert httpx.get(server.url + "/healthz").status_code == 200
        alive = 0
        for each in strangers:
            each.setblocking(False)
            try:
                alive += each.recv(1) != b""
            except BlockingIOError:
                alive += 1
            except OSError:
                pass
        assert alive <= 8


def test_a_member_is_no_stranger(server):
    """A connection that a member's request came by stays, whoever else comes from its address."""
    world = RealFederation(server, make_plan("known"), ["a", "b"])
    answers = []
    first = world.round_id
    polling = threading.Thread(target=lambda: answers.append(world.peer().current(wait=4, after=first)["round_id"]))
    polling.start()
    time.sleep(1.5)  # by then it has said who it is
    with contextlib.ExitStack() as held:
        for _ in range(50):
            held.enter_context(connect(server))
        polling.join()
    assert answers == [first]
    world.close()


def test_handshakes_that_hang_leave_tls_alive(mutual, authority):
    """300 that never begin one and 8 that begin one and stop; before, a minute long nobody got in."""
    ours = authority.issue("hospital-a")
    with contextlib.ExitStack() as held:
        strangers = [held.enter_context(connect(mutual)) for _ in range(300)]
        for each in strangers[-8:]:
            each.sendall(b"\x16\x03\x01\x02\x00")
        for _ in range(3):
            assert ask(mutual.url, authority.ca_file, ours) == 200
    with connect(mutual) as connection:
        assert seconds_until_closed(connection) < LONG_S
    with connect(mutual) as connection:
        # A handshake that is done, and then silence.
        context = client_context(authority.ca_file)
        context.load_cert_chain(ours.cert, ours.key)
        with context.wrap_socket(connection, server_hostname="127.0.0.1") as secured:
            assert seconds_until_closed(secured) < LONG_S
    assert ask(mutual.url, authority.ca_file, ours) == 200


def test_a_request_right_behind_the_handshake(mutual, authority):
    """The bytes come together with the handshake's last ones."""
    ours = authority.issue("hospital-b")
    context = client_context(authority.ca_file)
    context.load_cert_chain(ours.cert, ours.key)
    for _ in range(20):
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(there, back, server_hostname="127.0.0.1")
        with connect(mutual) as connection:
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    connection.sendall(back.read())
                    there.write(connection.recv(65536))
            client.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            connection.sendall(back.read())
            while True:
                try:
                    assert client.read(12) == b"HTTP/1.1 200"
                    break
                except ssl.SSLWantReadError:
                    there.write(connection.recv(65536))


def test_what_is_not_http_gets_a_problem_document(server):
    for rubbish in (
        b"\r\n\r\nnonsense\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 80000,
        b"GET /" + b"x" * 80000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        with connect(server) as connection:
            connection.sendall(rubbish)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400"), rubbish
        assert b"application/problem+json" in head
        assert json.loads(body)["reason"] == "bad-request"


def test_what_comes_between_chunks_has_its_end(server):
    """Trailers are headers of no request, and nobody sends more than a few of them."""
    with connect(server) as connection:
        connection.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 2**24:
                sent += connection.send(b"x-" + b"y" * 2**16)
        assert sent < 2**24
