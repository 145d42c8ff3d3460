"""A server that drips, floods or breaks off: a site ends in the time of its own settings, and keeps to bounds.

The servers are sockets that say what a script says, byte by byte; where a round is needed, the liar in front of a
real aggregator.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
import time
import zipfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest

from client_sdk import Site
from client_sdk._effects import Request
from client_sdk._net.signing import Signer
from client_sdk._net.transport import AsyncTransport, Transport
from client_sdk._protocol.exchange import Retries, exchange
from client_sdk._protocol.retry import RetryPolicy
from client_sdk.training.checkpoint import Checkpoint
from he_agg import ConfigError, ProtocolError, TransportError
from he_agg.documents.state import FederationState
from keys import GroupKey
from keys.files import read_npz
from tests.attacks.malicious import Exchange, Lies
from tests.client_sdk.driving import Pieces
from tests.support.flows import CONSORTIUM, small_plan
from tests.support.real import SITES
from tests.support.trust import identity_of

A, B, C = SITES
SIGNER = Signer("a", identity_of("a").signing_key, "test")
GET = Request("GET", "/v1/thing", frozenset({200}))
OK = b"HTTP/1.1 200 OK\r\n"
LIES_S = 30.0
"""How long a liar goes on: a site that it can hold for longer than this has no time of its own."""
SOON_S = LIES_S / 2
"""Far beyond what a site may take, and before the liar ends."""


@contextmanager
def lying(script, listens=True):
    """A server that answers each request by `script(say, connection)`; yields its url and the heads that it got.

    None of its threads outlives it: two that went on reading what a test had sent took a core from all later tests.
    """
    heads: list[bytes] = []
    threads: list[threading.Thread] = []
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        until = time.monotonic() + LIES_S

        def say(*pieces: bytes, every_s: float = 0.0) -> None:
            for piece in pieces:
                connection.sendall(piece)
                if ended.wait(every_s) or time.monotonic() > until:
                    raise OSError("done")

        with connection:
            try:
                while True:
                    head = b""
                    while listens and not head.endswith(b"\r\n\r\n"):
                        head += connection.recv(1) or say(b"", every_s=LIES_S) or b""
                    heads.append(head)
                    script(say, connection)
            except OSError:
                return

    def start(target, *arguments) -> None:
        threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        threads[-1].start()

    def accept() -> None:
        while True:
            try:
                start(serve, server.accept()[0])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        start(accept)
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", heads
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)
            for thread in threads:  # that which accepts is the first
                thread.join(LIES_S)
            assert not [thread for thread in threads if thread.is_alive()], "a liar goes on when its test has ended"


def run_sync(url, flow):
    transport = Transport(url, SIGNER)
    try:
        return transport.run(flow, lambda event: None)
    finally:
        transport.close()


def run_async(url, flow):
    async def main():
        transport = AsyncTransport(url, SIGNER)
        try:
            return await transport.run(flow, lambda event: None)
        finally:
            await transport.close()

    return asyncio.run(main())


@pytest.fixture(params=[run_sync, run_async], ids=["sync", "async"])
def run(request):
    return request.param


def patiently(request, patience_s=1.0, **policy):
    return exchange(Retries(RetryPolicy(patience_s=patience_s, **policy), lambda: 0.5), request)


def drip(say, data):
    """One byte of it after the other, without end."""
    say(*(data[i : i + 1] for i in itertools.islice(itertools.cycle(range(len(data))), 10**6)), every_s=0.05)


def silence(say, _):
    say(b"", every_s=LIES_S)


def head(say, _):
    say(OK + b"X-Long: ")
    drip(say, b"a")


def interim(say, _):
    while True:
        say(b"HTTP/1.1 103 Early Hints\r\n\r\n", every_s=0.05)


def body(say, _):
    say(OK + b"Content-Length: 1000000\r\n\r\n")
    drip(say, b"[")


def chunks(say, _):
    say(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        say(b"1\r\n[\r\n", every_s=0.05)


def trailers(say, _):
    say(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n0\r\nX-Long: ")
    drip(say, b"a")


DRIPS = [silence, head, interim, body, chunks, trailers]


@contextmanager
def at_most(seconds):
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@pytest.mark.parametrize("script", DRIPS, ids=lambda script: script.__name__)
def test_whatever_drips_a_request_ends(run, script):
    with lying(script) as (url, _), at_most(SOON_S), pytest.raises(TransportError, match="gave up after"):
        run(url, patiently(GET))


@pytest.mark.parametrize("script", [body, chunks], ids=lambda script: script.__name__)
def test_whatever_drips_a_sum_ends(run, script):
    request = replace(GET, into=Pieces())
    with lying(script) as (url, _), at_most(SOON_S), pytest.raises(TransportError, match="gave up after"):
        run(url, patiently(request))


def test_a_handshake_that_drips_ends(run):
    def hello(say, _):
        say(b"\x16\x03\x03\x40\x00")
        drip(say, b"\x02")

    with lying(hello, listens=False) as (url, _), at_most(SOON_S), pytest.raises(TransportError, match="gave up after"):
        run(url.replace("http:", "https:"), patiently(GET))


def test_an_upload_that_nobody_takes_ends(run):
    def sip(say, connection):
        while True:
            connection.recv(1)
            say(b"", every_s=0.05)

    request = Request("PUT", "/v1/thing", frozenset({200}), body=bytes(2**25))
    with lying(sip) as (url, _), at_most(SOON_S), pytest.raises(TransportError, match="gave up after"):
        run(url, patiently(request, least_bytes_per_s=2.0**23))


def test_a_slow_transfer_may_take_its_time(run):
    """An answer goes on as long as its bytes keep the least rate, beyond the time of a request."""

    def steady(say, _):
        say(OK + b"Content-Length: 30000\r\n\r\n", *([bytes(1000)] * 30), every_s=0.11)

    with lying(steady) as (url, _):  # a silence of three seconds ends it, so a busy machine must not make one
        answer = run(url, patiently(GET, patience_s=5.0, request_s=3.0, least_bytes_per_s=2_000.0))
    assert len(answer.body) == 30_000


def test_a_request_may_take_the_wait_that_it_asks_for(run):
    def late(say, _):
        say(b"", every_s=1.5)
        say(OK + b"Content-Length: 2\r\n\r\n{}")

    with lying(late) as (url, _):
        assert run(url, patiently(replace(GET, wait_s=2.0))).body == b"{}"


@pytest.mark.parametrize("piece", [b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50, b"X-Fill: " + b"a" * 1000 + b"\r\n"])
def test_heads_have_an_end(run, piece):
    said = Counter()

    def flood(say, _):
        if piece.startswith(b"X"):
            say(OK)
        while True:
            say(piece)
            said["bytes"] += len(piece)

    patience = Retries(RetryPolicy(patience_s=0.0), lambda: 0.5)
    with lying(flood) as (url, _), pytest.raises(TransportError):
        run(url, exchange(patience, GET))
    assert said["bytes"] < 2**24  # what the buffers of the system hold, not what a second carries


def test_cookies_are_neither_kept_nor_sent(run):
    def bake(say, _):
        cookies = b"".join(b"Set-Cookie: c%d=%s; Path=/\r\n" % (i, b"x" * 500) for i in range(50))
        say(OK + cookies + b"Content-Length: 2\r\n\r\n{}")

    def twice():
        yield GET
        return (yield GET)

    with lying(bake) as (url, heads):
        run(url, twice())
    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()
    assert len(heads[1]) < 2000


def test_retry_after_is_bounded_by_the_sites_own_patience(run):
    def later(say, _):
        say(b"HTTP/1.1 503 Later\r\nRetry-After: 999999999\r\nContent-Length: 0\r\n\r\n")

    with lying(later) as (url, _), at_most(SOON_S), pytest.raises(TransportError, match="gave up after 1 try"):
        run(url, patiently(GET))


# -- a site of its own, against answers that are too much ---------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    """Opens a site for a url."""
    identity_of("a").save(tmp_path / "a.identity")
    GroupKey.create(small_plan()).save(tmp_path / "group.keystore")
    (tmp_path / "roster.json").write_bytes(CONSORTIUM.roster.encode())
    files = {
        "identity": tmp_path / "a.identity",
        "keystore": tmp_path / "group.keystore",
        "roster": tmp_path / "roster.json",
        "spool": tmp_path / "spool",
    }
    return lambda url, **settings: Site.open(url=url, **(files | settings))


def answering(status, kind, content):
    def script(say, _):
        head = b"HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (status, kind, len(content))
        say(head + content)

    return script


STATE = {
    "federation": "test",
    "stage": "running",
    "epoch": 1,
    "key_id": "0" * 64,
    "plan_id": "0" * 64,
    "round_id": "test.1.1",
    "number": 1,
    "attempt": 1,
    "remaining_s": 1234,
    "invited": True,
}
HUGE = json.dumps(STATE).replace("1234", "1" + "0" * 400).encode()
BOMBS = {
    "huge": HUGE,
    "longest": HUGE.replace(b"0" * 400, b"0" * 100_000),
    "nested": json.dumps(STATE).replace("1234", "[" * 20_000 + "]" * 20_000).encode(),
    "open": b"[" * 20_000,
    "twice": json.dumps(STATE).replace("{", '{"stage": "ended", ').encode(),
    "infinite": json.dumps(STATE).replace("1234", "1e999").encode(),
    "quotes": b'"' + b'\\"' * 100_000,
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize(("status", "kind"), [(200, b"application/json"), (401, b"application/problem+json")])
def test_json_that_is_too_much_is_refused_not_a_traceback(site, name, status, kind):
    with lying(answering(status, kind, BOMBS[name])) as (url, _), site(url, patience_s=1) as opened, at_most(SOON_S):
        for ask in (opened.status, opened.current, opened.fetch):
            with pytest.raises(ProtocolError) as caught:
                ask()
            assert len(caught.value.message) < 1000


def test_a_clock_that_is_said_to_be_far_off(site):
    problem = b'{"reason": "clock-skew", "server_time": 1%s}' % (b"0" * 400)
    with (
        lying(answering(401, b"application/problem+json", problem)) as (url, _),
        site(url) as opened,
        pytest.raises(ProtocolError, match="without a problem document"),
    ):
        opened.status()


@pytest.mark.parametrize("script", DRIPS, ids=lambda script: script.__name__)
def test_a_site_asks_for_no_longer_than_its_patience(site, script):
    with lying(script) as (url, _), site(url, patience_s=1) as opened, at_most(SOON_S), pytest.raises(TransportError):
        opened.status()


def npz(path, head: bytes) -> None:
    """A file whose one array has this head, and a byte of data."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a0", "meta", "w"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + b"x")


@pytest.mark.parametrize(
    "head",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,)}",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (1" + b"0" * 400 + b",)}",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': " + b"(" * 5000 + b")" * 5000 + b"}",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    ],
    ids=["petabytes", "huge", "nested", "pickle"],
)
def test_arrays_that_are_too_much_are_refused_not_a_traceback(tmp_path, head):
    npz(tmp_path / "file.npz", head)
    with pytest.raises(ConfigError, match="expected an NPZ file of plain arrays"):
        read_npz(tmp_path / "file.npz")
    with pytest.raises(ConfigError, match="expected a training checkpoint"):
        Checkpoint(tmp_path / "file.npz", {}).load()


# -- within a round ------------------------------------------------------------------------------------------------


def test_a_sum_that_breaks_off_after_its_last_part(world):
    """All parts came, only the end of the answer did not: that is a sum, not a `RuntimeError`."""
    round_id = world.submit(*SITES)
    world.liar.lies = Lies(unsent=10)
    with at_most(LIES_S):
        assert world.fetch(A, round_id).n_sites == 3
    world.assert_honest(B, round_id)


def at_once(exchange: Exchange) -> None:
    """Ask the real aggregator what it refuses without waiting: its answer does not matter."""
    if exchange.path.endswith("/record"):
        exchange.query = ""


def no_record(exchange: Exchange, status: int, answer: bytes) -> tuple[int, bytes]:
    if exchange.path.endswith("/record"):
        return 204, b""
    return status, answer


def without_time(state: FederationState) -> FederationState:
    return replace(state, open=None if state.open is None else replace(state.open, deadline_at=0))


def impatient(world, name: str, **limits: float) -> None:
    site = world.open_sites[name]
    site._session = replace(site._session, **limits)


def test_parts_that_are_lost_again_and_again_are_sent_three_times(world):
    """`complete` with all parts missing made a site send everything anew each second."""
    round_id = world.submit(A)
    sent: Counter[str] = Counter()

    def lose(exchange: Exchange, status: int, answer: bytes) -> tuple[int, bytes]:
        if exchange.method == "PUT":
            sent[f"{exchange.path}?{exchange.query}"] += 1
            return 200, b"{}"
        if exchange.method == "GET" and "/submissions/" in exchange.path:
            document = json.loads(answer)
            missing = list(range(document["parts"]))
            return 200, json.dumps(document | {"state": "complete", "missing": missing}).encode()
        return no_record(exchange, status, answer)

    world.liar.lies = Lies(request=at_once, answer=lose, state=without_time)
    impatient(world, A, result_s=10.0)  # it takes about three seconds on a machine that does nothing else
    with pytest.raises(ProtocolError, match="expected a result by now"):
        world.fetch(A, round_id)
    assert set(sent.values()) == {3}


def test_a_pause_without_end_lengthens_a_wait_by_the_sites_own_setting(world):
    round_id = world.submit(A)

    def paused(state: FederationState) -> FederationState:
        return replace(state, stage="paused", open=None)

    world.liar.lies = Lies(request=at_once, answer=no_record, state=paused)
    impatient(world, A, result_s=1.0, pause_s=2.0)
    with at_most(LIES_S), pytest.raises(ProtocolError, match="expected a result by now"):
        world.fetch(A, round_id)
