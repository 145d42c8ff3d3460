"""A request has one form. Asked of every route in the OpenAPI document: what it does not declare is refused."""

import http.client
import json
import re

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from he_agg.protocol.http_signatures import EMPTY_DIGEST, manifest_field
from tests.support.holding import deal_to, holders_of, put_dealing, put_sharing_key
from tests.support.peers import make_plan
from tests.support.real import RealFederation
from tests.support.trust import AUDITOR, COORDINATOR

NOT_NUMBERS = ["+1", "-1", "-0", "01", "00", "1_0", "1.", ".5", "%31", "1e0", "0x1", "1" * 19, "nan", "inf", "one"]
HOLDERS = ["a", "b", "c", "trustee"]
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}


class Routes:
    """All operations of the document, each with an address that is good and a member that may ask."""

    def __init__(self, world):
        self.world = world
        assert {put_sharing_key(world.peers[name]).status_code for name in HOLDERS} == {201}
        dealt = deal_to(world.plan, holders_of(world.peer("a"), world.round_id), world.round_id, "a", 1)
        assert put_dealing(world.peer("a"), dealt).status_code == 201
        self.names = {
            "federation": world.name,
            "round_id": world.round_id,
            "upload": dealt.prepared.upload,
            "site": "a",
            "index": "1",
            "version": "1",
            "number": "1",
            "holder": "a",
            "dealer": "b",
        }
        self.host = world.server.url.removeprefix("http://")
        document = world.client.get("/openapi.json").json()
        self.operations = [
            (method.upper(), path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]

    def good(self, path, **changed):
        return path.format(**(self.names | changed))

    def ask(self, method, path, operation, *, query="", content_type="declared"):
        """Send exactly these bytes. Returns status and problem."""
        declared = list(operation.get("requestBody", {}).get("content", {}))
        kinds = declared if content_type == "declared" else [] if content_type is None else [content_type]
        digest = EMPTY_DIGEST
        if declared == ["application/octet-stream"] and not path.endswith("dealing"):
            digest = manifest_field(self.names["upload"])
        sender = "a"
        if "rosters" in path or "epochs" in path:
            own = "commitments" in path or "sharing-keys" in path
            sender = COORDINATOR if not own else "a" if method == "PUT" else AUDITOR
        elif "transcript" in path:
            sender = AUDITOR
        connection = http.client.HTTPConnection(self.host, timeout=20)
        connection.putrequest(method, path + (f"?{query}" if query else ""))
        for name, value in self.world.peers[sender].signature(method, path, digest, query).items():
            connection.putheader(name, value)
        for kind in kinds:
            connection.putheader("Content-Type", kind)
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status < 400:
            return answer.status, {}
        assert answer.headers["content-type"] == "application/problem+json", content
        return answer.status, json.loads(content)

    def assert_refused(self, *asked, **more):
        status, problem = self.ask(*asked, **more)
        assert (status, problem.get("reason")) == (400, "bad-request"), (asked[:2], more, status, problem)


@pytest.fixture(scope="module")
def routes(shared_server):
    plan = make_plan("forms", split=True, min_sites=3)
    world = RealFederation(shared_server, plan, ["a", "b", "c"], holders=HOLDERS)
    yield Routes(world)
    world.close()
    world.end()


def test_the_form_that_is_declared_is_taken(routes):
    for method, path, operation in routes.operations:
        assert routes.ask(method, routes.good(path), operation)[1].get("reason") != "bad-request", path


def test_unknown_and_doubled_parameters(routes):
    for method, path, operation in routes.operations:
        good = routes.good(path)
        for query in ("unknown=1", "&", "=", "wait", "from=0&unknown=1", "WAIT=0"):
            routes.assert_refused(method, good, operation, query=query)
        for declared in operation.get("parameters", ()):
            if declared["in"] == "query":
                one = f"{declared['name']}={'0' * 64 if declared['name'] == 'after' else 0}"
                assert routes.ask(method, good, operation, query=one)[1].get("reason") != "bad-request", (path, one)
                for query in (f"{one}&{one}", f"{one}&", f"&{one}", f"{one};{one}", one + "%30", one + "+"):
                    routes.assert_refused(method, good, operation, query=query)


def test_numbers_have_one_spelling(routes):
    asked = 0
    for method, path, operation in routes.operations:
        for declared in operation.get("parameters", ()):
            kinds = re.findall('"type": "(integer|number)"', json.dumps(declared["schema"]))
            for value in NOT_NUMBERS if kinds else ():
                asked += 1
                if declared["in"] == "query":
                    routes.assert_refused(method, routes.good(path), operation, query=f"{declared['name']}={value}")
                elif declared["in"] == "path":
                    routes.assert_refused(method, routes.good(path, **{declared["name"]: value}), operation)
    assert asked > 6 * len(NOT_NUMBERS)


def test_ids_are_not_percent_encoded(routes):
    for method, path, operation in routes.operations:
        for name, value in routes.names.items():
            if f"{{{name}}}" in path:
                encoded = routes.good(path, **{name: f"%{ord(value[0]):02x}{value[1:]}"})
                routes.assert_refused(method, encoded, operation)


def test_content_types(routes):
    for method, path, operation in routes.operations:
        good = routes.good(path)
        kinds = ["text/plain", "application/json; charset=utf-8", "application/JSON", "application/xml"]
        for kind in [*kinds, None] if "requestBody" in operation else kinds:
            routes.assert_refused(method, good, operation, content_type=kind)


def test_methods_and_addresses_that_are_none(routes):
    declared = {}
    for method, path, _ in routes.operations:
        declared.setdefault(path, set()).add(method)
    for path, methods in declared.items():
        for method in sorted(METHODS - methods):
            answer = routes.world.client.request(method, routes.good(path))
            assert (answer.status_code, answer.headers["allow"]) == (405, ", ".join(sorted(methods))), (method, path)
            if method != "HEAD":
                assert answer.headers["content-type"] == "application/problem+json"
                assert (answer.json()["type"], answer.json()["reason"]) == ("about:blank", "bad-request")
    for path in ("/", "/v1", "/v1/rounds", "/v2/federations/forms/rounds/current", "/docs", "/redoc"):
        answer = routes.world.client.get(path)
        assert (answer.status_code, answer.json()["type"]) == (404, "about:blank"), path


def test_every_answer_names_its_line_in_the_log(routes):
    for method, path, _ in routes.operations:
        answer = routes.world.client.request(method, routes.good(path))
        assert answer.headers["x-request-id"], path


def test_ranges_are_not_heeded(routes):
    """A whole answer comes, whatever range is asked for, also one that cannot be read."""
    path = f"/v1/federations/{routes.world.name}/rosters/1"
    whole = routes.world.peer("a").request("GET", path)
    for asked in ("bytes=0-9", "bytes=9-0", "bytes=x", "lines=1"):
        answer = routes.world.peer("a").request("GET", path, {"Range": asked})
        assert (answer.status_code, answer.content) == (200, whole.content), asked


def test_whatever_else_stands_in_a_query(routes):
    """Random queries: taken only where they are declared, once each, in their one spelling."""
    words = st.sampled_from(
        ["wait", "from", "after", "x", "=", "&", "0", "1", "-", "+", "%30", "_", ".", "01", "forms.1.1"]
    )

    @settings(
        max_examples=300, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
    )
    @given(which=st.sampled_from(routes.operations), query=st.lists(words, min_size=1, max_size=8).map("".join))
    def ask(which, query):
        method, path, operation = which
        status, problem = routes.ask(method, routes.good(path), operation, query=query)
        kinds = {p["name"]: json.dumps(p["schema"]) for p in operation.get("parameters", ()) if p["in"] == "query"}
        pairs = [pair.partition("=") for pair in query.split("&")]
        forms = {"integer": "0|[1-9][0-9]*", "number": r"(0|[1-9][0-9]*)(\.[0-9]+)?", "string": r"[a-z]+\.1\.1"}

        def is_good(name, value):
            found = [form for kind, form in forms.items() if f'"type": "{kind}"' in kinds.get(name, "")]
            return found != [] and re.fullmatch(found[0], value) is not None

        names = [name for name, _, _ in pairs]
        good = len(set(names)) == len(names) and all(is_good(name, value) for name, _, value in pairs)
        assert good or (status, problem["reason"]) == (400, "bad-request"), (path, query, status)
        assert status < 500

    ask()


def test_an_address_has_one_spelling(routes):
    for method, path, operation in routes.operations:
        status, problem = routes.ask(method, routes.good(path) + "/", operation)
        assert (status, problem["reason"]) == (404, "bad-request"), path
