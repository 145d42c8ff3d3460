"""People sign in through a real identity provider, as viewer and as operator, and may do what each may."""

import json
import socket
import time
from contextlib import closing
from functools import partial

import httpx
import pytest

from he_agg.host.processes import AggregatorProcess
from tests.service.monitor.browser import CONTRAST, PROBLEMS, chromium, size, text
from tests.service.monitor.watched import events_of
from tests.support.holding import Held, put_sharing_key, submit_all
from tests.support.identity import SECRET, canaille, come_back
from tests.support.peers import make_plan
from tests.support.ports import free_ports
from tests.support.real import RealFederation, until
from tests.support.server import QUICK, he_agg, start_server

OTTO, VERA = "Dr Otto (otto)", "Dr Vera (vera)"


class House:
    """A server, the provider of its operators, and what the audit log was told."""

    def __init__(self, server: AggregatorProcess, page: str, log) -> None:
        self.server, self.page, self._log = server, page, log

    def events(self, name):
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [line["fields"] for line in lines if line["event"] == name]

    def browser(self, user) -> httpx.Client:
        """A browser in which somebody has signed in, if that person may."""
        client = httpx.Client(timeout=30)
        answer = client.get(come_back(client, self.page, user))
        assert answer.status_code == 303
        self.sent_to = answer.headers["location"]
        return client

    def act(self, client, federation, action, **headers):
        headers = {"Content-Type": "application/json", **headers}
        return client.post(f"{self.page}/federations/{federation}/{action}", content="{}", headers=headers)

    def stage(self, federation):
        shown = he_agg("federation", "show", federation, "--json", "--data-dir", self.server.data_dir)
        return json.loads(shown.stdout)["stage"]


def said_nothing_to(issuer):
    """Connect and stay silent, as browsers do in advance: whoever answers one at a time waits a minute for it."""
    return socket.create_connection((httpx.URL(issuer).host, httpx.URL(issuer).port))


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    root = tmp_path_factory.mktemp("house")
    (root / "secret").write_text(SECRET)
    (port,) = free_ports(1)  # the provider has to know the page's address before there is one
    page = f"http://127.0.0.1:{port}"
    with canaille(f"{page}/signed-in") as issuer, said_nothing_to(issuer):
        environment = QUICK | {
            "HE_AGG_OPERATOR_PORT": str(port),
            "HE_AGG_OIDC_ISSUER": issuer,
            "HE_AGG_OIDC_CLIENT_ID": "he-agg",
            "HE_AGG_OIDC_CLIENT_SECRET_FILE": str(root / "secret"),
            "HE_AGG_OIDC_SCOPES": "openid profile groups",
            "HE_AGG_OIDC_OPERATORS": "he-agg-operators",
            "HE_AGG_OIDC_VIEWERS": "he-agg-viewers",
            "HE_AGG_AUDIT_LOG": f"file://{root}/audit.jsonl",
        }
        with start_server(root / "data", environment=environment) as server:
            line = server.line()
            assert line == f"operators' page, people sign in by {issuer}: {page}/"
            yield House(server, page, root / "audit.jsonl")


@pytest.fixture(scope="module")
def world(house):
    federation = RealFederation(house.server, make_plan("stroke", rounds=3), ["a", "b", "c"])
    yield federation
    federation.close()


def test_a_viewer_looks_and_does_nothing(house, world):
    with closing(house.browser("vera")) as client:
        assert house.sent_to == "./"
        said = client.get(f"{house.page}/session.json").json()
        assert (said["by"], said["may_act"]) == (VERA, False)
        assert client.get(f"{house.page}/snapshot.json").json()["federations"][0]["federation"] == "stroke"
        answer = house.act(client, "stroke", "pause")
        assert (answer.status_code, answer.json()["detail"]) == (
            403,
            "pause is for operators, and you are signed in as a viewer",
        )
        assert house.act(client, "no%0Asuch", "pause").status_code == 403
    assert house.stage("stroke") == "running"
    until(lambda: house.events("operator.refused"))
    assert house.events("operator.signed-in") == [{"by": VERA, "via": "oidc", "role": "viewer", "source": "127.0.0.1"}]
    refused = {"federation": "stroke", "action": "pause", "source": "127.0.0.1", "count": 1, "by": VERA, "via": "page"}
    assert house.events("operator.refused")[0] == refused


def test_an_operator_pauses_resumes_and_is_told_of(house, world):
    with closing(house.browser("otto")) as client:
        assert client.get(f"{house.page}/session.json").json()["may_act"]
        assert house.act(client, "stroke", "pause").status_code == 204
        assert house.stage("stroke") == "paused"
        assert world.peer().state().status_code == 200
        assert house.act(client, "stroke", "resume").status_code == 204
        assert house.stage("stroke") == "running"
        answer = house.act(client, "stroke", "skip")
        assert answer.status_code == 409
        assert "expected a round whose holders are awaited" in answer.json()["detail"]
        assert house.act(client, "unknown", "pause").status_code == 404
        assert house.act(client, "stroke", "end").status_code == 404
    until(lambda: house.events("federation.resumed"))
    for name in ("federation.paused", "federation.resumed"):
        assert house.events(name) == [{"federation": "stroke", "by": OTTO, "via": "page"}]


def test_an_operator_skips_holders(house):
    plan = make_plan("split", split=True, min_sites=3, rounds=2)
    with closing(RealFederation(house.server, plan, ["a", "b", "c"], holders=["a", "b", "c", "trustee"])) as world:
        for name in ("a", "b", "trustee"):
            assert put_sharing_key(world.peers[name]).status_code == 201
        until(lambda: world.peer().current()["round_id"])
        submit_all(world.plan, world.peer, "split.1.1")
        world.peer().record("split.1.1", wait=20)
        assert Held(world.peers["a"], "split.1.1").echo().status_code == 201
        with closing(house.browser("otto")) as client:
            assert house.act(client, "split", "skip").status_code == 204
        assert world.peer().current(wait=10, after="split.1.1")["round_id"] == "split.2.1"
    until(lambda: house.events("federation.skipped"))
    skipped = {"federation": "split", "round": "split.1.1", "by": OTTO, "via": "page"}
    assert house.events("federation.skipped") == [skipped]


def test_who_is_in_no_group_is_not_let_in(house):
    with closing(house.browser("nina")) as client:
        assert house.sent_to == "./#refused=no-role"
        assert client.get(f"{house.page}/session.json").status_code == 401
        assert client.get(f"{house.page}/snapshot.json").status_code == 401
    until(lambda: house.events("operator.sign-in-failed"))
    assert house.events("operator.sign-in-failed")[-1] == {
        "by": "Dr Nina (nina)", "via": "oidc", "source": "127.0.0.1", "reason": "no-role", "count": 1,
    }  # fmt: skip


def test_an_answer_is_good_once_and_in_the_browser_that_asked(house):
    with closing(httpx.Client(timeout=30)) as client, closing(httpx.Client(timeout=30)) as another:
        address = come_back(client, house.page, "otto")
        # Somebody has another person's browser open the own answer: that one has begun nothing, or something else.
        assert another.get(address).headers["location"] == "./#refused=state"
        another.get(f"{house.page}/sign-in")
        assert another.get(address).headers["location"] == "./#refused=state"
        cookies = dict(client.cookies)
        assert client.get(address).headers["location"] == "./"
        client.cookies.update(cookies)
        assert client.get(address).headers["location"] == "./#refused=state", "a second time"
        assert client.get(f"{house.page}/signed-in").headers["location"] == "./#refused=state"
    until(lambda: any(each["reason"] == "state" for each in house.events("operator.sign-in-failed")))


def test_a_session_ends_for_good(house):
    with closing(house.browser("otto")) as client:
        name = f"he-agg-{house.page.rsplit(':', 1)[1]}"
        cookie = client.cookies[name]
        other = httpx.Client(base_url=house.page, cookies={name: cookie}, timeout=20)
        stream = events_of(other)
        assert next(stream)["federations"]
        assert client.post(f"{house.page}/logout").status_code == 204
        assert name not in client.cookies
        client.cookies.set(name, cookie)
        assert client.get(f"{house.page}/session.json").status_code == 401, "a cookie that somebody has kept"
        end = time.monotonic() + 60
        assert all(time.monotonic() < end for _ in stream), "what was being looked at goes on"
        other.close()
        assert house.act(client, "stroke", "pause").status_code == 401
    until(lambda: house.events("operator.signed-out"))
    assert house.events("operator.signed-out")[-1] == {"by": OTTO, "via": "oidc", "source": "127.0.0.1"}


def test_cookies_are_for_this_page_alone(house):
    with closing(httpx.Client(timeout=30)) as client:
        begun = client.get(f"{house.page}/sign-in").headers["set-cookie"]
        assert "HttpOnly" in begun
        assert "SameSite=lax" in begun
        answer = client.get(come_back(client, house.page, "otto"))
        session = next(each for each in answer.headers.get_list("set-cookie") if "begun" not in each)
        assert "HttpOnly" in session
        assert "SameSite=strict" in session
        assert "Max-Age=28800" in session


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 421),
    ],
)
def test_another_page_does_nothing_in_an_operators_browser(house, world, headers, status):
    with closing(house.browser("otto")) as client:
        assert house.act(client, "stroke", "pause", **headers).status_code == status
    assert house.stage("stroke") == "running"


def test_links_are_no_way_in_any_more(house):
    with httpx.Client(base_url=house.page) as client:
        link = he_agg("operator", "link", "--data-dir", house.server.data_dir).stdout.strip()
        assert client.post("/login", json={"token": link.partition("#")[2]}).status_code == 404
        assert client.get("/session.json").json()["entrance"] == "oidc"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


def sign_in(browser, house, user):
    browser.get(house.page)
    until(lambda: text(browser, "#sign-in-title") == "Sign in")
    browser.find_element("css selector", "#sign-in a").click()
    for field, value in (("login", user), ("password", f"{user} is my password")):
        find = partial(browser.find_elements, "name", field)
        until(find)
        find()[0].send_keys(value + "\n")


def looks_right(browser):
    for width in (320, 1280):
        for dark in (False, True):
            size(browser, width, dark=dark)
            assert browser.execute_script(PROBLEMS) == []
            assert browser.execute_script(CONTRAST) == [], (width, dark)
            assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), width
            assert browser.execute_script("return document.querySelector('header').offsetHeight") < 120, width


def test_the_page_for_an_operator_and_for_a_viewer(browser, house, world):
    browser.get(house.page)
    until(lambda: text(browser, "#sign-in-title") == "Sign in")
    looks_right(browser)
    sign_in(browser, house, "otto")
    until(lambda: "Dr Otto (otto), operator" in text(browser, "#who"))
    mine = "#federation-stroke"
    until(lambda: "Pause" in text(browser, f"{mine} .acts"))
    looks_right(browser)
    browser.find_element("css selector", f"{mine} [data-action=pause]").click()
    until(lambda: text(browser, "#confirm-title") == "Pause: stroke")
    assert browser.execute_script("return document.activeElement.id") == "confirm-no"
    looks_right(browser)
    browser.find_element("id", "confirm-yes").click()
    until(lambda: "Resume" in text(browser, f"{mine} .acts"))
    assert house.stage("stroke") == "paused"
    browser.find_element("css selector", f"{mine} [data-action=resume]").click()
    browser.find_element("id", "confirm-no").click()
    assert house.stage("stroke") == "paused"
    browser.find_element("css selector", f"{mine} [data-action=resume]").click()
    browser.find_element("id", "confirm-yes").click()
    until(lambda: "Pause" in text(browser, f"{mine} .acts"))
    browser.find_element("id", "logout").click()
    until(lambda: text(browser, "#sign-in-title") == "Sign in")
    browser.delete_all_cookies()  # the provider's as well: it would know the browser
    sign_in(browser, house, "nina")
    until(lambda: "none of the groups" in text(browser, "#sign-in-error"))
    looks_right(browser)
    browser.delete_all_cookies()
    sign_in(browser, house, "vera")
    until(lambda: "Dr Vera (vera), viewer" in text(browser, "#who"))
    until(lambda: "Round 1" in text(browser, mine))
    assert browser.execute_script("return document.querySelectorAll('[data-action]').length") == 0
    browser.get_log("browser")
