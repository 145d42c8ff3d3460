"""The operators' listener against a real server: who gets in, what the page gets, and what comes by itself."""

import http.client
import json
import re
import socket
import stat
import time
import tomllib
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from he_agg.errors import ConfigError, KeystoreError, Reason
from service.monitor.dashboard.access import LINK_S, SESSION_S, Access
from service.monitor.dashboard.app import STATIC
from service.monitor.dashboard.live import MAX_VIEWERS
from service.monitor.recent import Recent
from service.observers import Answered
from tests.service.monitor.watched import events_of, watched_server
from tests.support.peers import prepare
from tests.support.ports import free_ports
from tests.support.real import until
from tests.support.server import he_agg


@pytest.fixture
def client(watched):
    with closing(watched.logged_in()) as client:
        yield client


def token_of(link):
    return link.partition("#")[2]


def test_files_are_anybodys_and_data_is_not(watched):
    with httpx.Client(base_url=watched.operator_url) as stranger:
        page = stranger.get("/")
        assert page.status_code == 200
        assert "<title>he-agg aggregator</title>" in page.text
        for path in ("/snapshot.json", "/events", "/metrics"):
            answer = stranger.get(path)
            assert answer.status_code == 401, path
            assert answer.json().keys() == {"status", "detail"}
        for cookie in ("", "x", "1.2.3", "9999999999.0011223344556677." + "0" * 64, "é" * 3):
            headers = {b"Cookie": f"he-agg-{stranger.base_url.port}={cookie}".encode()}
            assert stranger.get("/snapshot.json", headers=headers).status_code == 401


def test_every_file_of_the_page_is_served_and_packed(watched):
    declared = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["tool"]["setuptools"]
    (pattern,) = declared["package-data"]["service.monitor.dashboard"]
    files = {path.name: path for path in STATIC.iterdir()}
    assert {path.name for path in STATIC.parent.glob(pattern)} == files.keys()
    with httpx.Client(base_url=watched.operator_url) as client:
        for name, path in files.items():
            answer = client.get("/" if name == "index.html" else f"/{name}")
            assert answer.content == path.read_bytes(), name
            for address in re.findall(r"(?:src|href)=\"([^#\"]+)\"|from \"\./([^\"]+)\"", path.read_text()):
                assert "".join(address) in files.keys() | {"sign-in"}, (name, address)


def test_every_answer_keeps_others_out(watched):
    with httpx.Client(base_url=watched.operator_url) as client:
        for path in ("/", "/app.js", "/style.css", "/icon.svg", "/snapshot.json", "/nothing"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert headers["referrer-policy"] == "no-referrer"
        assert client.get("/", headers={"Host": "rebound.example"}).status_code == 421
        assert client.get("/", headers={"Host": "localhost:1234"}).status_code == 200


def test_a_link_is_good_once(watched):
    link = watched.new_link()
    with httpx.Client(base_url=watched.operator_url) as client:
        answer = client.post("/login", json={"token": token_of(link)})
        assert answer.status_code == 204
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert f"Max-Age={SESSION_S}" in cookie
        assert client.get("/snapshot.json").status_code == 200
        assert client.post("/login", json={"token": token_of(link)}).status_code == 401
        assert client.post("/logout").status_code == 204
        assert client.get("/snapshot.json").status_code == 401


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"token": "1.2.3"}', "application/json", 401),
        (b'{"token": 7}', "application/json", 400),
        (b"{}", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"[" * 990, "application/json", 400),
        (b"\xff", "application/json", 400),
        (b'{"token": "' + b"1" * 2000 + b'"}', "application/json", 413),
        (b'{"token": "1.2.3"}', "text/plain", 415),
    ],
)
def test_logins_that_are_none(watched, body, kind, status):
    answer = httpx.post(f"{watched.operator_url}/login", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert "set-cookie" not in answer.headers


def test_links_and_sessions_end():
    now = [1000.5]
    access = Access(b"k" * 32, lambda: now[0])
    link, session = access.new_link(), access.new_session()
    assert access.find(link) is None
    assert access.redeem(session) is None
    now[0] += LINK_S - 1
    assert access.redeem(access.new_link()) is not None
    now[0] += 2
    assert access.redeem(link) is None
    assert access.find(session) is not None
    now[0] += SESSION_S
    assert access.find(session) is None


def test_a_restart_ends_links_and_no_sessions():
    now = [1000.5]
    first = Access(b"k" * 32, lambda: now[0])
    link, session = first.new_link(), first.new_session()
    now[0] += 5
    second = Access(b"k" * 32, lambda: now[0])
    assert second.redeem(link) is None
    assert second.redeem(first.new_link()) is not None
    assert second.find(session) is not None
    assert Access(b"l" * 32, lambda: now[0]).find(session) is None


def test_the_key_is_its_owners(tmp_path):
    first = Access.load_or_create(tmp_path)
    path = tmp_path / "operator.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert Access.load_or_create(tmp_path).find(first.new_session()) is not None
    path.chmod(0o640)
    with pytest.raises(KeystoreError, match="others may read or change it"):
        Access.load_or_create(tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="expected 32 bytes, got 5"):
        Access.load_or_create(tmp_path)
    result = he_agg("operator", "link", "--data-dir", tmp_path / "nowhere", check=False)
    assert result.returncode == 4
    assert not (tmp_path / "nowhere").exists()


def test_a_round_as_the_page_sees_it(watched, world_on, client):
    world = world_on(watched, "seen", rounds=2)
    size = world.plan.public.wire_bytes
    stream = events_of(client)

    def seen(enough):
        end = time.monotonic() + 20
        for snapshot in stream:
            (federation,) = [each for each in snapshot["federations"] if each["federation"] == "seen"]
            if enough(federation):
                return federation
            assert time.monotonic() < end, federation
        raise AssertionError("the stream has ended")

    federation = seen(lambda each: each["round"] is not None)
    assert federation["round"]["id"] == "seen.1.1"
    assert federation["round"]["quorum"] == 2
    assert [site["state"] for site in federation["round"]["sites"]] == ["absent"] * 3
    prepared = {site: prepare(world.plan, "seen.1.1", site, i) for i, site in enumerate("abc")}
    world.peer("a").put(prepared["a"], 0, prepared["a"].parts[0])
    federation = seen(lambda each: each["round"]["sites"][0]["bytes"])
    assert federation["round"]["sites"][0] == {
        "site": "a",
        "state": "open",
        "bytes": len(prepared["a"].parts[0]),
        "bytes_total": size,
        "accepted_at": None,
        "asked_again": [],
    }
    world.peer("a").put(prepared["a"], 1, b"".join(prepared["a"].parts[1:]))
    world.peer("b").submit(prepared["b"])
    federation = seen(lambda each: each["round"]["complete"] == 2)
    assert [site["bytes"] for site in federation["round"]["sites"]] == [size, size, 0]
    world.peer("c").submit(prepared["c"])
    federation = seen(lambda each: each["published"] == 1)
    (ended,) = federation["history"]
    assert ended | {"opened_at": 0, "closed_at": 0, "ended_at": 0, "settled_at": 0} == {
        "id": "seen.1.1",
        "number": 1,
        "attempt": 1,
        "outcome": "published",
        "opened_at": 0,
        "closed_at": 0,
        "ended_at": 0,
        "members": 3,
        "excluded": {},
        "bytes_up": 3 * size,
        "bytes_sum": size,
        "sum_kept": True,
        "verdicts": {},
        "answered": [],
        "settled_at": 0,
    }
    assert ended["opened_at"] <= ended["closed_at"] <= ended["ended_at"]
    assert federation["round"]["id"] == "seen.2.1"
    stream.close()


def test_problems_are_shown_with_their_ids(watched, world_on, client):
    world = world_on(watched, "troubled")
    for _ in range(3):
        refused = world.peer("a").end(world.round_id, b'{"he-agg-group-key":"x"}')
        assert refused.status_code == 422
    problems = until(
        lambda: [one for one in client.get("/snapshot.json").json()["process"]["problems"] if one["count"] == 3]
    )
    (problem,) = [one for one in problems if one["reason"] == "secret-refused"]
    assert problem["id"] == refused.headers["x-request-id"]
    assert (problem["member"], problem["federation"]) == ("a", "troubled")
    assert problem["round_id"] == "troubled.1.1"
    assert problem["what"] == "PUT /v1/rounds/{round_id}/submissions/{upload}"


def test_strangers_push_nothing_out(watched, world_on, client):
    world = world_on(watched, "noisy")
    world.peer("a").end(world.round_id, b'{"he-agg-group-key":"x"}')
    for number in range(200):
        world.client.get(f"/cgi-bin/{number}")
    problems = until(
        lambda: [p for p in client.get("/snapshot.json").json()["process"]["problems"] if p["count"] >= 200]
    )
    assert problems[0]["what"] == "GET -"
    shown = client.get("/snapshot.json").json()["process"]["problems"]
    assert any(p["federation"] == "noisy" and p["reason"] == "secret-refused" for p in shown)


def test_pages_are_limited(watched, client):
    port = client.base_url.port
    cookie = "; ".join(f"{each.name}={each.value}" for each in client.cookies.jar)
    connections = []
    try:
        for _ in range(MAX_VIEWERS):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/events", headers={"Cookie": cookie})
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.readline() == b"retry: 2000\n"
            connections.append((connection, answer))
        assert client.get("/events").status_code == 503
        assert client.get("/snapshot.json").status_code == 200
    finally:
        for connection, answer in connections:
            answer.close()
            connection.close()
    assert until(lambda: _has_room(client))


def test_a_burst_of_pages_is_limited_as_well(watched, client):
    """All heads are there before the first is answered."""
    cookie = "; ".join(f"{each.name}={each.value}" for each in client.cookies.jar)
    head = f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{client.base_url.port}\r\nCookie: {cookie}\r\n\r\n".encode()
    with ExitStack() as opened:
        address = ("127.0.0.1", client.base_url.port)
        streams = [opened.enter_context(socket.create_connection(address, timeout=20)) for _ in range(2 * MAX_VIEWERS)]
        for stream in streams[: 2 * MAX_VIEWERS]:
            stream.sendall(head)
        statuses = [stream.recv(12).split()[1] for stream in streams]
    assert sorted(set(statuses)) == [b"200", b"503"]
    assert statuses.count(b"200") <= MAX_VIEWERS
    assert until(lambda: _has_room(client))


def test_idle_connections_do_not_close_the_page(watched, client):
    with ExitStack() as opened:
        for _ in range(200):
            opened.enter_context(socket.create_connection(("127.0.0.1", client.base_url.port)))
        assert httpx.get(watched.operator_url).status_code == 200
        assert client.get("/snapshot.json").status_code == 200
        assert next(events_of(client))


@pytest.mark.parametrize(
    "sent", [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "null"}]
)
def test_only_the_page_logs_out(watched, client, sent):
    """A form of another site's page is sent with the browser's word for where it comes from."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for fields in (form | sent, form | {"Origin": "https://elsewhere.example"}):
        answer = client.post("/logout", headers=fields)
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert client.get("/logout").status_code == 405
    own = {"Sec-Fetch-Site": "same-origin", "Origin": watched.operator_url}
    assert client.post("/logout", headers=own).status_code == 204


def test_no_member_pushes_out_the_problems_of_others():
    recent = Recent()

    def refused(member, number):
        recent.answered(
            Answered(number, 0.0, "GET", f"/{number}", 404, 0, 0, "", "f", member, "", Reason.UNKNOWN_ROUND.value)
        )

    for member in ("quiet", "b", "c"):
        refused(member, 0)
    for number in range(1, 500):
        refused("loud", number)
        refused("louder", number)
    shown = recent.problems()
    assert len(shown) == 50
    assert {each["member"] for each in shown} == {"quiet", "b", "c", "loud", "louder"}
    assert shown[0]["at"] == 499


def _has_room(client):
    with client.stream("GET", "/events") as answer:
        return answer.status_code == 200


def test_a_stop_ends_streams_at_once(tmp_path):
    with watched_server(tmp_path / "data") as watched, closing(watched.logged_in(watched.link)) as client:
        stream = events_of(client)
        assert next(stream)["federations"] == []
        began = time.monotonic()
        assert watched.server.stop() == 0
        assert time.monotonic() - began < 5
        assert list(stream) == []
        metrics = httpx.URL(watched.metrics_url)
        with pytest.raises(httpx.ConnectError):
            httpx.get(metrics)


def test_watch_from_the_store_and_from_afar(watched, world_on):
    world = world_on(watched, "watched")
    prepared = prepare(world.plan, world.round_id, "a", 1)
    world.peer("a").submit(prepared)
    stored = json.loads(he_agg("watch", "--once", "--json", "--data-dir", watched.server.data_dir).stdout)
    (mine,) = [each for each in stored["federations"] if each["federation"] == "watched"]
    assert mine["round"]["complete"] == 1
    assert stored["process"] is None
    afar = json.loads(he_agg("watch", "--once", "--json", "--url", watched.new_link()).stdout)
    (same,) = [each for each in afar["federations"] if each["federation"] == "watched"]
    assert 0 <= mine["round"].pop("remaining_s") - same["round"].pop("remaining_s") <= 60  # one looked after the other
    assert same == mine
    assert afar["process"]["version"]
    text = he_agg("watch", "--once", "--data-dir", watched.server.data_dir).stdout
    assert "watched" in text
    assert "1 of 3 complete, quorum 2 (1 more needed)" in text
    assert "✓ complete" in text


def test_watch_says_what_is_wrong(watched, tmp_path):
    link = watched.new_link()
    he_agg("watch", "--once", "--url", link)
    used = he_agg("watch", "--once", "--url", link, check=False)
    assert used.returncode == 1
    assert "was used before" in used.stderr
    none = he_agg("watch", "--once", "--url", watched.operator_url, check=False)
    assert none.returncode == 4
    gone = he_agg("watch", "--once", "--url", "http://127.0.0.1:9/#" + token_of(link), check=False)
    assert gone.returncode == 3
    store = he_agg("watch", "--once", "--data-dir", tmp_path / "none", check=False)
    assert store.returncode == 4
    for result in (used, none, gone, store):
        assert "Traceback" not in result.stderr
        assert result.stdout == ""


def test_behind_a_proxy(tmp_path):
    (port,) = free_ports(1, "")
    environment = {
        "HE_AGG_OPERATOR_URL": "https://ops.example/he-agg",
        "HE_AGG_OPERATOR_HOST": "0.0.0.0",
        "HE_AGG_OPERATOR_PORT": str(port),
    }
    with watched_server(tmp_path / "data", environment) as watched:
        assert watched.link.startswith("https://ops.example/he-agg/#")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Host": "ops.example"}) as proxy:
            answer = proxy.post("/login", json={"token": token_of(watched.link)})
            assert answer.status_code == 204
            assert "Secure" in answer.headers["set-cookie"]
            cookie = answer.headers["set-cookie"].partition(";")[0]
            assert proxy.get("/snapshot.json", headers={"Cookie": cookie}).status_code == 200
            assert proxy.get("/", headers={"Host": "rebound.example"}).status_code == 421


@pytest.mark.parametrize("url", ["http://ops.example", "https://", "https://a@b", "ops.example"])
def test_addresses_that_are_none(tmp_path, url):
    arguments = ["--operator-port", "0", "--operator-url", url, "--data-dir", tmp_path / "data"]
    result = he_agg("serve", "--port", "0", *arguments, check=False)
    assert result.returncode == 4
    assert "--operator-url: expected another form" in result.stderr
