"""TLS against the real server process: who gets in, who does not, and what they are told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import warnings

import httpx
import numpy as np
import pytest

from client_sdk._net.transport import Transport
from he_agg.errors import ConfigError, Reason, TransportError
from he_agg.host.commands import main
from he_agg.host.processes import AggregatorProcess
from service.serve.tls import check_address, tls_context
from service.settings import load_settings
from tests.service.serve.tls_clients import SIGNER, ask, client_context, settings
from tests.support.certificates import Authority
from tests.support.peers import Peer, expected_sum, make_plan, prepare, read_ended, read_sum
from tests.support.real import RealFederation
from tests.support.server import start_server


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority, tmp_path_factory):
    issued = authority.issue("server", "127.0.0.1")
    with start_server(tmp_path_factory.mktemp("tls") / "data", environment=settings(issued)) as process:
        yield process


@pytest.fixture(scope="module")
def mutual(authority, tmp_path_factory):
    issued = authority.issue("mutual", "127.0.0.1")
    environment = settings(issued, HE_AGG_TLS_CLIENT_CA=str(authority.ca_file))
    with start_server(tmp_path_factory.mktemp("mtls") / "data", environment=environment) as process:
        yield process


def handshake(url, context):
    """One handshake, and one request: with TLS 1.3 a client learns of a refusal only when it reads."""
    host, port = url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as stream,
    ):
        stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return stream.version(), stream.recv(12)


def turned_away(url, context):
    """Whether there is no answer: asyncio hangs up on a handshake that failed without saying why."""
    try:
        answer = handshake(url, context)[1]
    except (ssl.SSLError, ConnectionError):
        return True
    assert answer in (b"", b"HTTP/1.1 200")
    return answer == b""


def test_a_site_that_pins_the_authority_gets_in(server, authority):
    assert server.url.startswith("https://127.0.0.1:")
    assert ask(server.url, authority.ca_file) == 200


def test_without_the_authority_it_says_what_is_wrong(server, authority, tmp_path):
    for ca_file in (None, Authority(tmp_path / "other").ca_file):
        with pytest.raises(ConfigError, match="its certificate is not trusted") as caught:
            ask(server.url, ca_file)
        assert caught.value.reason == Reason.BAD_CONFIG
        assert "set ca_file" in caught.value.hint
    assert ask(server.url, authority.ca_file) == 200


def test_a_certificate_for_another_host_is_refused(server, authority, tmp_path):
    elsewhere = authority.issue("elsewhere", "aggregator.example", "127.0.0.2")
    with start_server(tmp_path / "data", environment=settings(elsewhere)) as process:
        with pytest.raises(ConfigError, match=r"its certificate is not trusted.*IP address mismatch.*127\.0\.0\.1"):
            ask(process.url, authority.ca_file)
        with pytest.raises(ConfigError, match=r"its certificate is not trusted.*Hostname mismatch.*localhost"):
            ask(process.url.replace("127.0.0.1", "localhost"), authority.ca_file)
    assert ask(server.url, authority.ca_file) == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_that_are_served(server, authority, version):
    context = client_context(authority.ca_file)
    context.minimum_version = context.maximum_version = version
    assert handshake(server.url, context) == (version.name.replace("_", "."), b"HTTP/1.1 200")


def old_client(authority, version):
    """A client that would take any cipher, and speaks one old version only."""
    context = client_context(authority.ca_file)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    return context


def between(server_context, context):
    """A handshake in memory. Returns the version."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(back, there, server_hostname="127.0.0.1")
    accepting = server_context.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for side in (client, accepting):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return accepting.version()


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_older_versions_are_refused_by_the_server(server, authority, version):
    context = old_client(authority, version)
    assert turned_away(server.url, context)
    issued = authority.issue("old", "127.0.0.1")
    ours = tls_context(load_settings(tls_cert=issued.cert, tls_key=issued.key))
    with pytest.raises(ssl.SSLError) as caught:
        between(ours, context)
    assert caught.value.reason == "UNSUPPORTED_PROTOCOL"
    # it is for the version alone: with that allowed, the same two get on
    ours.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        ours.minimum_version = ssl.TLSVersion.TLSv1
    assert between(ours, context) == version.replace("_", ".")


def test_plain_http_is_not_served_beside_it(server, authority):
    with pytest.raises(httpx.TransportError), httpx.Client() as client:
        client.get(server.url.replace("https://", "http://") + "/healthz")
    assert ask(server.url, authority.ca_file) == 200


def test_client_certificates(mutual, authority, tmp_path):
    assert turned_away(mutual.url, client_context(authority.ca_file))

    stranger = Authority(tmp_path / "stranger").issue("hospital-a")
    context = client_context(authority.ca_file)
    context.load_cert_chain(stranger.cert, stranger.key)
    assert turned_away(mutual.url, context)

    ours = authority.issue("hospital-a")
    context = client_context(authority.ca_file)
    context.load_cert_chain(ours.cert, ours.key)
    assert not turned_away(mutual.url, context)
    with httpx.Client(verify=context) as client:
        assert client.get(mutual.url + "/healthz").status_code == 200


def test_a_site_with_a_certificate_of_its_own(mutual, authority, tmp_path):
    stranger = Authority(tmp_path / "stranger").issue("hospital-b")
    for client in (None, stranger):
        with pytest.raises(TransportError) as caught:
            ask(mutual.url, authority.ca_file, client)
        assert caught.value.reason == Reason.UNREACHABLE
    assert ask(mutual.url, authority.ca_file, authority.issue("hospital-b")) == 200


def test_the_server_outlives_handshakes_that_fail(server, authority):
    host, port = server.url.removeprefix("https://").split(":")
    for rubbish in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(300)):
        with socket.create_connection((host, int(port)), timeout=20) as stream:
            stream.sendall(rubbish)
    assert ask(server.url, authority.ca_file) == 200
    assert {line["level"] for line in server.log_lines} <= {"INFO"}


@pytest.mark.parametrize("url", ["http://aggregator.example", "http://192.0.2.1:8470", "http://0.0.0.0:8470"])
def test_a_site_speaks_plain_http_to_its_own_machine_only(url):
    with pytest.raises(ConfigError, match="expected https://") as caught:
        Transport(url, SIGNER)
    assert "this machine only" in caught.value.hint
    Transport(url.replace("http://", "https://"), SIGNER).close()
    Transport("http://127.0.0.1:8470", SIGNER).close()


def test_a_round_over_tls(server, authority):
    """Uploads, refusals from the head, and a sum: nothing of the protocol depends on plain sockets."""
    world = RealFederation(server, make_plan("private"), ["a", "b"])
    world.client.close()
    with httpx.Client(base_url=server.url, verify=client_context(authority.ca_file), timeout=60) as client:
        world.peers = {name: Peer(client, world.name, member) for name, member in world.members.items()}
        round_id = world.round_id
        submissions = {site: prepare(world.plan, round_id, site, number) for number, site in enumerate("ab")}
        peer, submission = world.peer("a"), submissions["a"]
        refused = peer.put(submission, 0, bytes(8 * 2**20))
        assert (refused.status_code, refused.json()["reason"]) == (413, "too-large")
        for site, each in submissions.items():
            assert world.peer(site).submit(each).status_code == 200
        record = read_ended(peer.record(round_id, wait=20).content).record
        assert sorted(record.members) == ["a", "b"]
        got = read_sum(world.plan, peer.sum_from(round_id).content)
        for one, expected in zip(got, expected_sum(world.plan, list(submissions.values())), strict=True):
            np.testing.assert_array_equal(one, expected)


class TestServe:
    """What `he-agg serve` refuses before it opens anything, and what it takes."""

    @pytest.fixture
    def refused(self, tmp_path, capsys):
        def command(*arguments):
            with pytest.raises(SystemExit) as ended:
                main(["serve", "--port", "0", "--data-dir", str(tmp_path / "data"), *map(str, arguments)])
            assert not (tmp_path / "data").exists()
            assert ended.value.code == 4
            return capsys.readouterr().err

        return command

    @pytest.mark.parametrize("host", ["0.0.0.0", "::"])
    def test_plain_http_for_everybody(self, refused, host):
        said = refused("--host", host)
        assert f"refusing to serve plain HTTP on {host}" in said
        assert "or --tls-cert and --tls-key; or --behind-tls-proxy" in said

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1"])
    def test_this_machine_alone(self, host):
        check_address(host, load_settings())
        check_address("192.0.2.1", load_settings(behind_tls_proxy=True))
        for other in ("192.0.2.1", "10.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1"):
            with pytest.raises(ConfigError, match="refusing to serve plain HTTP"):
                check_address(other, load_settings())

    def test_plain_http_behind_a_proxy(self, tmp_path):
        environment = {"HE_AGG_HOST": "0.0.0.0", "HE_AGG_BEHIND_TLS_PROXY": "true"}
        with start_server(tmp_path / "data", environment=environment) as process:
            url = process.url.replace("0.0.0.0", "127.0.0.1")
            assert url.startswith("http://127.0.0.1:")
            assert httpx.get(url + "/healthz").status_code == 200

    def test_tls_for_everybody(self, tmp_path, authority):
        issued = authority.issue("everybody", "127.0.0.1")
        with start_server(tmp_path / "data", environment=settings(issued, HE_AGG_HOST="0.0.0.0")) as process:
            assert ask(process.url.replace("0.0.0.0", "127.0.0.1"), authority.ca_file) == 200

    def test_half_of_the_settings(self, refused, authority):
        issued = authority.issue("half", "127.0.0.1")
        for arguments in (
            ["--tls-cert", issued.cert],
            ["--tls-key", issued.key],
            ["--tls-client-ca", authority.ca_file],
        ):
            assert "one without the other" in refused(*arguments)
        assert "got both" in refused("--tls-cert", issued.cert, "--tls-key", issued.key, "--behind-tls-proxy")

    def test_files_that_cannot_be_used(self, refused, authority, tmp_path):
        one, other = authority.issue("one", "127.0.0.1"), authority.issue("other", "127.0.0.1")
        closed = authority.issue("closed", "127.0.0.1", passphrase=b"secret")
        missing = tmp_path / "missing"
        rubbish = tmp_path / "rubbish"
        rubbish.touch(0o600)
        for cert, key in ((one.cert, other.key), (rubbish, one.key), (missing, one.key), (one.cert, rubbish)):
            assert "expected a certificate (with its chain) and its key" in refused(
                "--tls-cert", cert, "--tls-key", key
            )
        assert "without passphrase" in refused("--tls-cert", closed.cert, "--tls-key", closed.key)
        assert f"{missing} cannot be read" in refused("--tls-cert", one.cert, "--tls-key", missing)
        for ca in (rubbish, missing):
            said = refused("--tls-cert", one.cert, "--tls-key", one.key, "--tls-client-ca", ca)
            assert f"{ca}: expected certificates in PEM form" in said
        one.key.chmod(0o644)
        assert "only its owner and group" in refused("--tls-cert", one.cert, "--tls-key", one.key)


def test_options_of_the_command(authority, tmp_path):
    """The same by options as a user types them, in a process that is ended with SIGTERM."""
    issued = authority.issue("options", "127.0.0.1")
    arguments = ["--tls-cert", issued.cert, "--tls-key", issued.key, "--tls-client-ca", authority.ca_file]
    with AggregatorProcess(tmp_path / "data", *map(str, arguments)) as process:
        context = client_context(authority.ca_file)
        context.load_cert_chain(issued.cert, issued.key)
        with httpx.Client(verify=context) as client:
            assert client.get(process.url + "/healthz").status_code == 200
        assert process.stop() == 0
