"""The proxy files of docs/deployment.md, run by the real proxies: they need nginx and caddy in PATH."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.certificates import Authority
from tests.support.peers import Peer, make_plan, prepare, read_ended
from tests.support.ports import free_ports
from tests.support.real import RealFederation
from tests.support.server import QUICK, start_server
from tests.support.trust import AUDITOR

PAGE = Path(__file__).parents[3] / "docs" / "deployment.md"


def example(language):
    """A file of the page."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return text


def changed(text, replacements):
    """The page's file with places and ports of this machine."""
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, str(new))
    return text


def nginx(directory, upstream, port, server, clients):
    body = changed(
        example("nginx"),
        {
            "127.0.0.1:8470": upstream,
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/he-agg/chain.pem": server.cert,
            "/etc/he-agg/key.pem": server.key,
            "/etc/he-agg/hospitals-ca.pem": clients,
        },
    )
    places = "".join(
        f"{what}_temp_path {directory}/{what};\n" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = f"daemon off; master_process off; pid {directory}/pid; error_log stderr;\nevents {{}}\n"
    (directory / "nginx.conf").write_text(f"{config}http {{\naccess_log off;\n{places}{body}}}\n")
    return ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf")]


def caddy(directory, upstream, port, server, clients):
    body = changed(
        example("caddy"),
        {
            "127.0.0.1:8470": upstream,
            "https://aggregator.example": f"https://localhost:{port}",
            "/etc/he-agg/chain.pem": server.cert,
            "/etc/he-agg/key.pem": server.key,
            "/etc/he-agg/hospitals-ca.pem": clients,
        },
    )
    (directory / "Caddyfile").write_text(f"{{\nadmin off\nauto_https disable_redirects\n}}\n{body}")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(directory / "Caddyfile")]


PROXIES = {"nginx": nginx, "caddy": caddy}


@contextmanager
def running(command, port, directory):
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HOME": str(directory)})
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (directory / "log").read_text()
                time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


class Behind(Peer):
    """Sends every path with a prefix in front, and signs it without."""

    def __init__(self, client, federation, member, prefix):
        super().__init__(client, federation, member)
        self.prefix = prefix

    def signed(self, method, path, headers=None, **more):
        request = super().signed(method, path, headers, **more)
        request.url = request.url.copy_with(raw_path=self.prefix.encode() + request.url.raw_path)
        return request


@pytest.fixture(scope="module", params=sorted(PROXIES))
def proxy(request, tmp_path_factory):
    """A proxy with mTLS in front of a server, and the client's context that gets in."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    directory = tmp_path_factory.mktemp(request.param)
    authority = Authority(directory / "authority")
    issued, port = authority.issue("server", "localhost"), free_ports(1)[0]
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    hospital = authority.issue("hospital")
    context.load_cert_chain(hospital.cert, hospital.key)
    with start_server(directory / "data", environment=QUICK) as server:
        upstream = server.url.removeprefix("http://")
        command = PROXIES[request.param](directory, upstream, port, issued, authority.ca_file)
        with running(command, port, directory):
            yield server, f"https://localhost:{port}", context, authority


def world_behind(proxy, name, prefix, **options):
    server, url, context, _ = proxy
    world = RealFederation(server, make_plan(name, **options), ["a", "b"])
    world.client.close()
    world.client = httpx.Client(base_url=url, verify=context, timeout=90)
    world.peers = {n: Behind(world.client, world.name, member, prefix) for n, member in world.members.items()}
    return world


@pytest.mark.parametrize("prefix", ["", "/he-agg"])
def test_a_round_through_it(proxy, prefix):
    world = world_behind(proxy, f"round{len(prefix)}", prefix)
    try:
        round_id = world.round_id
        for number, site in enumerate("ab"):
            submission = prepare(world.plan, round_id, site, number)
            assert world.peer(site).submit(submission).status_code == 200
        record = read_ended(world.peer().record(round_id, wait=20).content).record
        assert sorted(record.members) == ["a", "b"]
        whole = world.peer().sum_from(round_id)
        assert (whole.status_code, len(whole.content)) == (200, world.plan.public.wire_bytes)
        assert world.peer().sum_from(round_id, 1).content == whole.content[world.plan.public.places[0].wire_bytes :]
        transcript = world.peer(AUDITOR).document("transcript")
        assert transcript.content.count(b"\n") == 5
    finally:
        world.close()


def test_another_rewriting_is_noticed(proxy):
    world = world_behind(proxy, "rewritten", "")
    try:
        peer = world.peer()
        assert peer.state().status_code == 200
        request = peer.signed("GET", f"/v1/federations/{world.name}/state")
        request.url = request.url.copy_with(raw_path=request.url.raw_path + b"?wait=0")
        answer = world.client.send(request)
        assert (answer.status_code, answer.json()["reason"]) == (401, "bad-signature")
    finally:
        world.close()


def test_the_longest_part_gets_through(proxy):
    """It is refused, but by the aggregator, which knows the plan: the answer is its own, not the proxy's."""
    world = world_behind(proxy, "long", "")
    try:
        peer, round_id = world.peer(), world.round_id
        submission = prepare(world.plan, round_id, "a", 1)
        answer = peer.put_raw(round_id, submission.upload, 0, bytes(64 * 2**20))
        assert answer.status_code in (400, 413)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert peer.put(submission, 0, submission.parts[0]).status_code == 204
    finally:
        world.close()


@pytest.mark.slow
def test_the_longest_poll_gets_through(proxy):
    world = world_behind(proxy, "poll", "")
    try:
        began, round_id = time.monotonic(), world.round_id
        answer = world.peer().record(round_id, wait=60)
        assert answer.status_code == 204
        assert time.monotonic() - began > 59
    finally:
        world.close()


def test_without_a_certificate_nobody_gets_in(proxy):
    _, url, context, authority = proxy
    with httpx.Client(verify=context) as client:
        answer = client.get(f"{url}/v1/federations/none/state")
        assert (answer.status_code, answer.json()["reason"]) == (401, "unauthenticated")
    stranger = ssl.create_default_context(cafile=str(authority.ca_file))
    with httpx.Client(verify=stranger) as client:
        try:
            answer = client.get(f"{url}/v1/federations/none/state")
        except httpx.TransportError:
            return
        assert answer.status_code == 400  # nginx says so in words
        assert "No required SSL certificate was sent" in answer.text
