"""The drivers on real sockets: what goes out, what is refused, and what is never sent."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from client_sdk._disk.files import read_file
from client_sdk._effects import Compute, Now, Report, Request, Sleep, StreamBody, compute
from client_sdk._net.server import TlsFiles
from client_sdk._net.transport import AsyncTransport, Transport
from client_sdk.progress import PhaseProgress, Retrying
from he_agg.errors import ConfigError, ProtocolError, Reason, TransportError, WireError
from he_agg.protocol.http_signatures import EMPTY_DIGEST, RequestHead, digest_field, parse_claim, verify_request
from tests.client_sdk.driving import CANCELS, GET, SIGNER, Pieces, asking, run_async, run_sync, turns


class Server(ThreadingHTTPServer):
    """Remembers every request and answers with its `script`."""

    script: Callable

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.seen: list[tuple] = []


class Handler(BaseHTTPRequestHandler):
    """One connection to a `Server`."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        self.server.script(self)

    do_POST = do_PUT = do_GET  # noqa: N815 - the names that http.server looks for

    def log_message(self, *args):
        pass

    def reply(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in [("Content-Length", str(len(body))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(script):
    server = Server(("127.0.0.1", 0), Handler)
    server.script = script
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(params=[run_sync, run_async], ids=["sync", "async"])
def run(request):
    return request.param


def _sent(done):
    return PhaseProgress("f.1.1", "upload", done, 10**9)


def test_request_and_answer(run):
    request = Request("POST", "/v1/x", frozenset({200}), body=b"hello", headers={"Content-Type": "application/json"})
    with serving(lambda h: h.reply(201, [("X-Thing", "1")], b"answer")) as (server, url):
        answer = run(url, asking(request))
    assert (answer.status, answer.headers["x-thing"], answer.body) == (201, "1", b"answer")
    ((method, path, headers, body),) = server.seen
    assert (method, path, body) == ("POST", "/v1/x", b"hello")
    assert "Authorization" not in headers
    assert verified(method, path, headers, body)
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Content-Type"] == "application/json"


def verified(method, path, headers, body):
    """Whether the request is signed as an aggregator wants it, for the path it sees."""
    path, _, query = path.partition("?")
    head = RequestHead(method, path, query, headers["Content-Digest"], headers["He-Agg-Federation"])
    claim = parse_claim(headers["Signature-Input"], headers["Signature"])
    assert (claim.name, head.federation, head.content_digest) == ("a", "test", digest_field(body))
    assert abs(claim.created - time.time()) < 60
    return verify_request(head, claim, SIGNER.key.public_key)


def test_path_of_the_url_comes_first_and_is_not_signed(run):
    """A proxy may put a prefix in front; the aggregator never sees it."""
    with serving(lambda h: h.reply(200)) as (server, url):
        run(url + "/behind/proxy/", asking(GET))
    method, path, headers, body = server.seen[0]
    assert path == "/behind/proxy/v1/thing?wait=1"
    assert verified(method, "/v1/thing?wait=1", headers, body)
    assert not verified(method, path, headers, body)
    assert not verified(method, "/v1/thing?wait=2", headers, body)
    assert not verified("PUT", "/v1/thing?wait=1", headers, body)


def test_every_sending_is_signed_anew(run):
    def twice():
        first = yield GET
        second = yield GET
        return first, second

    with serving(lambda h: h.reply(200)) as (server, url):
        before = time.time()
        first, second = run(url, twice())
    inputs = [headers["Signature-Input"] for _, _, headers, _ in server.seen]
    assert inputs[0] != inputs[1]
    assert before <= first.signed_at <= second.signed_at <= time.time()
    assert all(verified(*seen) for seen in server.seen)


def streamed(*files):
    """A body of files, one after another."""

    def pieces():
        for path, length in files:
            yield from read_file(path, length)

    return StreamBody(sum(length for _, length in files), pieces)


def test_known_digests_are_used(run, tmp_path, monkeypatch):
    """What the manifest says of a part is not hashed once more to be sent."""
    (tmp_path / "part").write_bytes(b"12345")
    five = digest_field(b"12345")
    requests = [
        Request("PUT", "/v1/x", frozenset({200}), body=streamed((tmp_path / "part", 5)), content_digest=five),
        Request("POST", "/v1/x", frozenset({200}), body=b"12345", content_digest=five),
        Request("POST", "/v1/x", frozenset({200}), body=b""),
        GET,
    ]
    monkeypatch.setattr("client_sdk._net.signing.digest_field", lambda data: pytest.fail("hashed again"))
    for request in requests:
        with serving(lambda h: h.reply(200)) as (server, url):
            run(url, asking(request))
        assert verified(*server.seen[0])


def test_files_are_streamed_one_after_another(run, tmp_path):
    contents = [bytes(range(256)) * 4096 * 3, b"short", bytes(2**20 + 3)]  # several chunks, and less than one
    for name, content in zip("abc", contents, strict=True):
        (tmp_path / name).write_bytes(content)
    body = streamed(*((tmp_path / name, len(content)) for name, content in zip("abc", contents, strict=True)))
    digest, told = digest_field(b"".join(contents)), []
    request = Request("PUT", "/v1/x", frozenset({204}), body=body, content_digest=digest, progress=_sent)
    with serving(lambda h: h.reply(204)) as (server, url):
        run(url, asking(request), told.append)
    assert verified(*server.seen[0])
    (_, _, headers, got) = server.seen[0]
    assert got == b"".join(contents)
    assert headers["Content-Length"] == str(len(got))
    assert "Transfer-Encoding" not in headers
    ends = [2**20, 2 * 2**20, 3 * 2**20, 3 * 2**20 + 5, 4 * 2**20 + 5, 4 * 2**20 + 8]
    assert [event.done_bytes for event in told] == ends


def test_answer_goes_to_whoever_takes_it(run):
    content, told = bytes(range(256)) * 4096 * 3 + b"end", []
    sink = Pieces(lambda pieces: _sent(sum(map(len, pieces))) if len(pieces) == 1 else None)
    with serving(lambda h: h.reply(200, (), content)) as (_, url):
        answer = run(url, asking(Request("GET", "/v1/x", frozenset({200}), max_bytes=10, into=sink)), told.append)
    assert (answer.status, answer.body) == (200, b"")
    assert b"".join(sink.pieces) == content
    assert [event.done_bytes for event in told] == [len(sink.pieces[0])]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("room_bytes", [1, 7, 4096])
def test_an_answer_goes_where_there_is_room_and_no_further(run, chunked, room_bytes):
    content, sink = bytes(range(256)) * 17, Pieces(room_bytes=room_bytes)

    def reply(handler):
        if not chunked:
            return handler.reply(200, (), content)
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        return handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content))

    with serving(reply) as (_, url):
        run(url, asking(Request("GET", "/v1/x", frozenset({200}), into=sink)))
    assert b"".join(sink.pieces) == content


def test_an_error_is_not_taken_for_what_was_asked_for(run):
    refuse = Pieces(lambda pieces: pytest.fail("taken"))
    with serving(lambda h: h.reply(410, (), b"gone")) as (_, url):
        answer = run(url, asking(Request("GET", "/v1/x", frozenset({200}), into=refuse)))
    assert (answer.status, answer.body) == (410, b"gone")


def test_what_takes_an_answer_may_refuse_it(run):
    """Its own error comes out, and the connection, on which more was to come, is not used again."""

    def refuse(pieces):
        raise WireError(Reason.BAD_DIGEST, "not that")

    def twice():
        with pytest.raises(WireError, match="not that"):
            yield Request("GET", "/v1/x", frozenset({200}), into=Pieces(refuse))
        return (yield GET)

    with serving(lambda h: h.reply(200, (), bytes(2**22) if h.path == "/v1/x" else b"another")) as (server, url):
        assert run(url, twice()).body == b"another"
    assert len(server.seen) == 2


def test_file_that_shrinks_under_way_is_an_error(run, tmp_path):
    files = {"first": bytes(100), "second": bytes(100)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    body = streamed(*((tmp_path / name, 100) for name in files))

    def shrink(_):
        (tmp_path / "second").write_bytes(b"short")
        return _sent(0)

    request = Request("PUT", "/v1/x", frozenset({204}), body=body, content_digest=EMPTY_DIGEST, progress=shrink)

    def ignore(handler):
        handler.close_connection = True

    with serving(ignore) as (_, url), pytest.raises(WireError, match="expected 100 bytes, got 5"):
        run(url, asking(request))


def test_file_that_is_gone_is_the_spools_fault(run, tmp_path):
    body = streamed((tmp_path / "part", 100))
    with serving(lambda h: h.reply(204)) as (_, url), pytest.raises(ConfigError, match=r"part: No such file"):
        run(url, asking(Request("PUT", "/v1/x", frozenset({204}), body=body)))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed(run, status):
    with (
        serving(lambda h: h.reply(200, (), b"gotcha")) as (thief, elsewhere),
        serving(lambda h: h.reply(status, [("Location", elsewhere)])) as (_, url),
    ):
        assert run(url, asking(GET)).status == status
    assert thief.seen == []


def test_nobody_listens(run):
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{placeholder.getsockname()[1]}"
        with pytest.raises(TransportError, match="nobody listens at that port") as caught:
            run(url, asking(GET))
    assert caught.value.reason == Reason.UNREACHABLE
    assert url in caught.value.message


def cut_off(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"only this")
    handler.close_connection = True


def hang_up(handler):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def garbage(handler):
    handler.wfile.write(b"\x00\x01\x02 not http\r\n\r\n")
    handler.close_connection = True


@pytest.mark.parametrize("script", [cut_off, hang_up, garbage])
def test_broken_answer_may_be_tried_again(run, script):
    with serving(script) as (_, url), pytest.raises(TransportError, match=r"http://127\.0\.0\.1"):
        run(url, asking(GET))


def test_silence_has_an_end(run):
    with serving(lambda h: time.sleep(1.0)) as (_, url), pytest.raises(TransportError, match=r"timed out|Timeout"):
        run(url, asking(Request("GET", "/v1/x", frozenset({200}), budget_s=0.2)))


def test_endless_answer_is_cut_off(run):
    def flood(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(2**40))
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(2**16))
        except OSError:
            handler.close_connection = True

    with serving(flood) as (_, url), pytest.raises(ProtocolError, match="expected at most 100000 bytes") as caught:
        run(url, asking(Request("GET", "/v1/x", frozenset({200}), max_bytes=100_000)))
    assert caught.value.reason == Reason.TOO_LARGE


@pytest.mark.parametrize("chunked", [False, True])
def test_answer_of_no_announced_length_is_whole(run, chunked):
    content = bytes(range(256)) * 1000

    def unannounced(handler):
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(content), 10_000):
            piece = content[start : start + 10_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        handler.wfile.write(b"0\r\n\r\n" if chunked else b"")
        handler.close_connection = True

    with serving(unannounced) as (_, url):
        assert run(url, asking(GET)).body == content


def test_compressed_answer_is_not_expanded(run):
    import gzip

    bomb = gzip.compress(bytes(10**6))
    with serving(lambda h: h.reply(200, [("Content-Encoding", "gzip")], bomb)) as (_, url):
        assert run(url, asking(GET)).body == bomb


@pytest.mark.parametrize(
    "url",
    [
        "http://aggregator.example",
        "http://192.168.1.1:8000",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://[fe80::1]",
        "http://0.0.0.0:8000",
    ],
)
def test_nothing_is_sent_in_the_clear(run, url):
    with pytest.raises(ConfigError, match="would show who takes part") as caught:
        run(url, asking(GET))
    assert "this machine only" in caught.value.hint


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.8.8.8:1", "http://[::1]:1", "https://h.example/x"])
def test_urls_that_are_fine(url):
    Transport(url, SIGNER).close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "aggregator",
        "ftp://127.0.0.1",
        "https://",
        "https://user:password@host",
        "https://host/?a=1",
        "https://host/#a",
        "https://host:99999999",
        "https://ho st",
        "https://\x00",
    ],
)
def test_urls_that_are_none(url):
    with pytest.raises(ConfigError) as caught:
        Transport(url, SIGNER)
    assert "password" not in caught.value.message


def test_plain_http_goes_past_the_proxies_of_the_environment(run, monkeypatch):
    with serving(lambda h: h.reply(200, (), b"stolen")) as (thief, proxy), serving(lambda h: h.reply(200)) as (_, url):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("ALL_PROXY", proxy)
        assert run(url, asking(GET)).body == b""
    assert thief.seen == []


def test_certificates_file_that_is_none(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match="expected certificates in PEM form"):
            Transport("https://127.0.0.1", SIGNER, TlsFiles(path))


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that nobody but its own file vouches for."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + built.public_bytes(serialization.Encoding.PEM)
    )
    (tmp_path / "ca.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return path, tmp_path / "ca.pem"


def test_certificate_must_be_trusted(run, certificate):
    """A wrong certificate is no passing trouble: it is told at once and not retried."""
    chain, ca_file = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    with serving(lambda h: h.reply(200, (), b"hello")) as (server, url):
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # the handshake that the client breaks off
        url = url.replace("http:", "https:")
        with pytest.raises(ConfigError, match="certificate is not trusted") as caught:
            run(url, asking(GET))
        assert "ca_file" in caught.value.hint
        assert server.seen == []
        assert run(url, asking(GET), ca_file=ca_file).body == b"hello"


def test_client_certificate_is_shown_to_whoever_asks(run, certificate, tmp_path):
    """mTLS: a server that wants a certificate gets this site's, and nothing is sent to it without."""
    chain, ca_file = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca_file)
    with serving(lambda h: h.reply(200, (), b"hello")) as (server, url):
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # the handshake that the server breaks off
        url = url.replace("http:", "https:")
        with pytest.raises(TransportError):
            run(url, asking(GET), ca_file=ca_file)
        assert server.seen == []
        assert run(url, asking(GET), ca_file=ca_file, client_cert=chain).body == b"hello"
        assert run(url, asking(GET), ca_file=ca_file, client_cert=ca_file, client_key=chain).body == b"hello"


def test_client_certificate_that_cannot_be_used(tmp_path, certificate):
    chain, ca_file = certificate
    Transport("https://127.0.0.1", SIGNER, TlsFiles(client_cert=chain)).close()
    for files, url, text in (
        (TlsFiles(client_key=chain), "https://127.0.0.1", "expected client_cert beside it"),
        (TlsFiles(client_cert=chain), "http://127.0.0.1", "expected an https:// url"),
        (TlsFiles(client_cert=ca_file), "https://127.0.0.1", "expected a certificate and its key in PEM form"),
        (TlsFiles(client_cert=tmp_path / "none"), "https://127.0.0.1", "expected a certificate and its key"),
    ):
        with pytest.raises(ConfigError, match=text):
            Transport(url, SIGNER, files)


def test_signature_is_in_no_log_and_no_message(run, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(hang_up) as (_, url), pytest.raises(TransportError) as caught:
        run(url, asking(GET))
    with serving(lambda h: h.reply(200)) as (server, url):
        run(url, asking(GET))
    assert any("GET" in line for line in caplog.messages)  # something is logged
    for secret in (server.seen[0][2]["Signature"], SIGNER.key.to_bytes().hex()):
        assert secret not in caplog.text
        assert secret not in str(caught.value)


def test_other_effects(run):
    told = []

    def flow():
        start = yield Now()
        yield Sleep(0.05)
        event = Retrying("why", 1, 0.5, 10.0)
        yield Report(event)
        thread = yield from compute(threading.get_ident)
        try:
            yield Compute(lambda: 1 // 0)
        except ZeroDivisionError:
            caught = True
        return (yield Now()) - start, thread, caught

    seconds, thread, caught = run("http://127.0.0.1:1", flow(), told.append)
    assert 0.05 <= seconds < 5
    assert (thread == threading.get_ident()) == (run is run_sync)
    assert caught
    assert told == [Retrying("why", 1, 0.5, 10.0)]


def test_flow_is_closed_when_something_else_breaks(run):
    closed = []

    def flow():
        try:
            yield Compute(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        run("http://127.0.0.1:1", flow())
    assert closed == [True]


@pytest.mark.parametrize("cancel", CANCELS)
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("in_step", ["work", "clean-up"])
def test_cancelled_task_waits_for_the_step_under_way(times, cancel, in_step):
    """However often: the thread must be done before the flow cleans up what it writes, and that before anybody goes on.

    Neither holds the event loop up.
    """
    log, threads, begun, over = [], set(), threading.Event(), threading.Event()

    def slow(what):
        threads.add(threading.current_thread())
        if what == in_step:
            begun.set()
            assert over.wait(20.0)
        log.append(what)

    def flow():
        try:
            yield Compute(partial(slow, "work"))
            yield Sleep(60.0)
        finally:
            slow("clean-up")

    async def main():
        transport = AsyncTransport("http://127.0.0.1:1", SIGNER)
        task = asyncio.create_task(transport.run(flow(), lambda event: None))
        if in_step == "clean-up":
            while not log:
                await asyncio.sleep(0.01)
            task.cancel()
        await asyncio.to_thread(begun.wait, 20.0)
        try:
            for _ in range(times):
                cancel(task)
                await turns()
                assert not task.done()
        finally:
            over.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["work", "clean-up"]
        await transport.close()

    asyncio.run(main())
    assert threading.current_thread() not in threads


def test_cancelled_task_breaks_its_request_off():
    """Nobody waits for an answer that takes half a minute; and the sink is let go of before the flow cleans up."""
    log, sink = [], Pieces(lambda pieces: log.append("piece"))
    asked, ended = threading.Event(), threading.Event()

    def reply(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"a")
        asked.set()
        ended.wait(60.0)
        handler.close_connection = True

    def flow():
        try:
            yield Request("GET", "/v1/x", frozenset({200}), into=sink)
        finally:
            log.append("cleaned up")

    async def main(url):
        transport = AsyncTransport(url, SIGNER)
        task = asyncio.create_task(transport.run(flow(), lambda event: None))
        await asyncio.to_thread(asked.wait, 20.0)
        while not log:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["piece", "cleaned up"]
        await transport.close()

    with serving(reply) as (_, url):
        begun = time.monotonic()
        asyncio.run(main(url))
        assert time.monotonic() - begun < 30.0
        ended.set()


def test_many_requests_of_one_site_wait_side_by_side():
    """More than the loop's own threads are: a long poll must not keep a submission back."""
    together = threading.Barrier(12)

    def reply(handler):
        together.wait(20.0)
        handler.reply(200)

    async def main(url):
        transport = AsyncTransport(url, SIGNER)
        answers = await asyncio.gather(*(transport.run(asking(GET), lambda event: None) for _ in range(12)))
        await transport.close()
        return [answer.status for answer in answers]

    with serving(reply) as (_, url):
        assert asyncio.run(main(url)) == [200] * 12


def test_what_a_listener_raises_ends_the_request(run, tmp_path):
    (tmp_path / "part").write_bytes(bytes(2**21))
    body = streamed((tmp_path / "part", 2**21))
    request = Request("PUT", "/v1/x", frozenset({204}), body=body, content_digest=EMPTY_DIGEST, progress=_sent)
    with serving(lambda h: h.reply(204)) as (_, url), pytest.raises(RuntimeError, match="enough"):
        run(url, asking(request), lambda event: (_ for _ in ()).throw(RuntimeError("enough")))


def test_a_connection_is_used_again_while_it_is_good(run):
    ports, closing = [], []

    def reply(handler):
        ports.append(handler.client_address[1])
        if handler.path == "/v1/last":
            handler.close_connection = True  # without a word
        handler.reply(200, [("Connection", "close")] if handler.path == "/v1/told" else [], b"body")

    def several():
        for name in ("a", "b", "told", "c", "last"):
            yield Request("GET", f"/v1/{name}", frozenset({200}))
        time.sleep(0.2)
        closing.append((yield Request("GET", "/v1/d", frozenset({200}))).body)

    with serving(reply) as (_, url):
        run(url, several())
    assert closing == [b"body"]
    assert [ports.index(port) for port in ports] == [0, 0, 0, 3, 3, 5]


def test_the_word_of_an_aggregator_that_takes_no_more_of_an_upload_is_heard(run, tmp_path):
    (tmp_path / "part").write_bytes(bytes(2**25))
    body = streamed((tmp_path / "part", 2**25))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse():
            peer, _ = listener.accept()
            with peer:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += peer.recv(1)
                peer.sendall(b"HTTP/1.1 409 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
                while peer.recv(2**16):
                    pass

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        request = Request("PUT", "/v1/x", frozenset({204}), body=body, content_digest=EMPTY_DIGEST)
        answer = run(f"http://127.0.0.1:{listener.getsockname()[1]}", asking(request))
        thread.join(10)
    assert (answer.status, answer.body) == (409, b"no")


def test_cancelled_task_does_not_wait_for_a_connection_that_does_not_come():
    async def main(url):
        transport = AsyncTransport(url, SIGNER)
        task = asyncio.create_task(transport.run(asking(GET), lambda event: None))
        await asyncio.sleep(0.2)
        assert not task.done()
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun < 30.0
        await transport.close()

    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as queue:
        for _ in range(3):  # a queue that is full drops what comes
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        asyncio.run(main(f"http://127.0.0.1:{listener.getsockname()[1]}"))
