"""One exhaustive table of problems, and an OpenAPI document that tells them."""

import ast
import asyncio
import errno
import json
import time
from pathlib import Path

import httpx
import pytest

import he_agg
import service
from he_agg.errors import Reason, WireError
from he_agg.protocol.http_signatures import EMPTY_DIGEST, RequestHead, sign_request
from service.http.app import create_app
from service.problems import PROBLEMS
from service.settings import Settings
from service.store.failures import StoreBusyError, StoreFullError
from tests.support.trust import identity_of

# What a request can reach in the core.
CORE = Path(he_agg.__file__).parent
CORE_FILES = [CORE / f"{name}.py" for name in ("canonical", "ids", "signing")]
CORE_FILES += [*CORE.glob("documents/*.py"), *CORE.glob("protocol/*.py")]
CORE_FILES += [CORE / "plan" / f"{name}.py" for name in ("plan", "sections", "security", "ckks_parameters")]
# Only a site ever builds a `Plan`, which holds a layout.
SITES_ONLY = {Reason.LAYOUT_MISMATCH, Reason.BAD_ANSWER}
WATCHES = "watch.py"  # asks a server, as a command: what it raises is an answer to nobody
# The aggregator's own key is read when it starts, not when somebody asks for something.
AT_START = {Reason.UNSAFE_PERMISSIONS, Reason.KEYSTORE_CORRUPT}


def reasons_in(path):
    tree = ast.parse(path.read_text())
    names = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
    }
    return {Reason[name] for name in names}


def test_every_reason_that_the_service_can_raise_is_in_the_table():
    files = [*Path(service.__file__).parent.rglob("*.py"), *CORE_FILES]
    files = [path for path in files if path.name != WATCHES]
    raised = set().union(*(reasons_in(path) for path in files)) - SITES_ONLY - AT_START
    assert raised <= PROBLEMS.keys()
    for reason, (status, title) in PROBLEMS.items():
        assert 400 <= status < 600
        assert title[0].isupper(), reason


@pytest.fixture
def app(tmp_path):
    return create_app(Settings(data_dir=tmp_path / "data"))


def signature(path):
    member = identity_of("nobody")
    return sign_request(RequestHead("GET", path, "", EMPTY_DIGEST, "f"), "nobody", member.signing_key, time.time())


def ask(app, *paths, **spoilt):
    """GET each path from the application itself, with attributes of its aggregator replaced."""

    async def run():
        async with app.router.lifespan_context(app):
            for name, value in spoilt.items():
                setattr(app.state.aggregator, name, value)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return [await client.get(path, headers=signature(path)) for path in paths]

    return asyncio.run(run())


def test_health(app):
    alive, ready = ask(app, "/healthz", "/readyz")
    assert alive.json() == ready.json() == {"status": "ok"}
    alive, ready = ask(app, "/healthz", "/readyz", _check_rows=lambda: 1 / 0)
    assert (alive.status_code, ready.status_code) == (200, 503)
    assert ready.json() == {"status": "not ready", "lacks": "database"}


def test_an_unexpected_failure_tells_nothing_and_logs_where(app, caplog):
    class LeakError(Exception):
        pass

    def fail(*_):
        raise LeakError("the body was: secret-body") from ValueError("secret-cause")

    with caplog.at_level("ERROR", "he_agg.service"):
        (answer,) = ask(app, "/v1/rounds/f.1.1/submissions/x", newest_roster=fail)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == "internal"
    assert "secret" not in answer.text
    assert "LeakError" not in answer.text
    from service.logs import _JsonLines

    (line,) = [json.loads(_JsonLines().format(record)) for record in caplog.records]
    assert line["error"] == ["LeakError", "ValueError"]
    assert any(frame.endswith("_authenticate") for frame in line["traceback"])
    assert "secret" not in json.dumps(line)


@pytest.mark.parametrize(
    ("error", "status", "reason", "retry_after"),
    [
        (StoreFullError(), 507, "storage-full", "60"),
        (StoreBusyError(), 503, "busy", "2"),
        (OSError(errno.EIO, "secret-path"), 500, "internal", None),
    ],
    ids=repr,
)
def test_trouble_of_the_machine(app, caplog, error, status, reason, retry_after):
    """Only what an operator has to see to is louder than what a site got wrong."""

    def fail(*_):
        raise error

    caplog.set_level("INFO", "he_agg.service")
    (answer,) = ask(app, "/v1/rounds/f.1.1/submissions/x", newest_roster=fail)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert answer.headers.get("Retry-After") == retry_after
    assert "secret" not in answer.text
    line = next(record for record in caplog.records if record.getMessage() == "request")
    assert line.levelname == {507: "WARNING", 503: "INFO", 500: "ERROR"}[status]


def test_an_error_of_the_client_side_is_a_failure_here(app):
    def fail(*_):
        raise WireError(Reason.NON_FINITE, "only a site says this")

    (answer,) = ask(app, "/v1/rounds/f.1.1/submissions/x", newest_roster=fail)
    assert (answer.status_code, answer.json()["reason"]) == (500, "internal")


def test_openapi_tells_every_endpoint_with_its_problems(app):
    openapi, page = ask(app, "/openapi.json", "/docs")
    assert page.status_code == 404  # such pages load scripts from elsewhere
    document = openapi.json()
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {
        ("GET", "/v1/federations/{federation}/state"),
        ("GET", "/v1/rounds/{round_id}/submissions/{upload}"),
        ("PUT", "/v1/rounds/{round_id}/submissions/{upload}"),
        ("GET", "/v1/rounds/{round_id}/record"),
        ("GET", "/v1/rounds/{round_id}/sum"),
        ("GET", "/v1/rounds/{round_id}/verdicts"),
        ("PUT", "/v1/rounds/{round_id}/verdicts/{site}"),
        ("GET", "/v1/federations/{federation}/records/{index}"),
        ("GET", "/v1/federations/{federation}/transcript"),
        ("GET", "/v1/federations/{federation}/rosters/{version}"),
        ("PUT", "/v1/federations/{federation}/rosters/{version}"),
        ("GET", "/v1/federations/{federation}/epochs/{number}"),
        ("PUT", "/v1/federations/{federation}/epochs/{number}"),
        ("PUT", "/v1/federations/{federation}/epochs/{number}/commitments/{site}"),
        ("GET", "/v1/federations/{federation}/epochs/{number}/commitments"),
        ("PUT", "/v1/federations/{federation}/epochs/{number}/sharing-keys/{holder}"),
        ("GET", "/v1/federations/{federation}/epochs/{number}/sharing-keys"),
        ("PUT", "/v1/rounds/{round_id}/submissions/{upload}/dealing"),
        ("GET", "/v1/rounds/{round_id}/holders"),
        ("GET", "/v1/rounds/{round_id}/shares"),
        ("PUT", "/v1/rounds/{round_id}/echoes/{holder}"),
        ("GET", "/v1/rounds/{round_id}/echoes"),
        ("PUT", "/v1/rounds/{round_id}/answers/{holder}"),
        ("GET", "/v1/rounds/{round_id}/answers"),
        ("PUT", "/v1/rounds/{round_id}/complaints/{holder}.{dealer}"),
        ("GET", "/v1/rounds/{round_id}/complaints"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
    }
    for (method, path), operation in operations.items():
        assert operation["summary"], path
        assert operation["description"], path
        if path.startswith("/v1"):
            assert operation["security"] == [{"signed request": []}]
            assert "401" in operation["responses"]
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"], (method, path, status)
    put = operations["PUT", "/v1/rounds/{round_id}/submissions/{upload}"]
    assert "Content-Digest" in {p["name"] for p in put["parameters"]}
    assert "round-closed" in put["responses"]["409"]["content"]["application/problem+json"]["examples"]
    assert "Problem" in document["components"]["schemas"]
    assert "HTTPValidationError" not in json.dumps(document)
