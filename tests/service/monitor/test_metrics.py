"""What /metrics counts in a real round, who gets it, and that labels stay few."""

import re
import time
from typing import Any

import httpx
import pytest

from he_agg.errors import ConfigError
from service.http.app import create_app
from service.http.bodies import Linger
from service.http.held import Held
from service.logs import RequestLog
from service.monitor.metrics import Metrics
from service.monitor.monitoring import Watching
from service.observers import PHASES, Answered, Observed
from service.serve.listeners import bind, url_of
from service.settings import Settings
from tests.support.peers import Peer, prepare
from tests.support.real import until
from tests.support.server import he_agg


@pytest.fixture(scope="module")
def played(watched):
    """A server that has seen a round, retries and refusals, and its samples before and after."""
    from tests.support.peers import make_plan
    from tests.support.real import RealFederation

    world = RealFederation(watched.server, make_plan("counted"), ["a", "b", "c"])
    before = watched.samples()
    round_id, peer = world.round_id, world.peer()
    prepared = {site: prepare(world.plan, round_id, site, i) for i, site in enumerate("abc")}
    for site in "abc":
        world.peer(site).submit(prepared[site])
        assert world.peer(site).complete(prepared[site]).status_code == 200
    peer.record(round_id, wait=20)
    assert peer.sum_from(round_id).status_code == 200
    peer.request("GET", f"/v1/rounds/{round_id}/submissions/{0:032x}")
    world.client.get("/nowhere/at/all")
    world.client.request("PROPFIND", "/healthz")
    Peer(world.client, "counted", world.members["a"], clock=lambda: time.time() - 1000).state()
    until(lambda: watched.value("he_agg_folds_total", federation="counted", outcome="published"))
    yield world, before, watched.samples()
    world.close()


def of(samples, name, **labels):
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def test_a_round_is_counted(played):
    world, before, after = played
    size = world.plan.public.wire_bytes
    phases = {phase: of(after, "he_agg_phase_seconds_count", phase=phase) for phase in (*PHASES.values(), "fold")}
    assert phases == {"put": 6, "download": 1, "fold": 1}
    assert of(after, "he_agg_receipts_total", federation="counted") == 6
    assert 3 * size < of(after, "he_agg_received_bytes_total", federation="counted") < 3 * size + 200_000
    assert size < of(after, "he_agg_sent_bytes_total", federation="counted") < size + 100_000
    states = {state: of(after, "he_agg_rounds", federation="counted", state=state) for state in ("open", "published")}
    assert states == {"open": 1, "published": 1}
    assert of(before, "he_agg_rounds", federation="counted", state="published") == 0
    assert of(after, "he_agg_submissions", federation="counted", state="complete") == 3
    assert of(after, "he_agg_federation_stage", federation="counted", stage="running") == 1
    assert of(after, "he_agg_round_quorum_sites", federation="counted") == 2
    assert of(after, "he_agg_records", federation="counted") == 1
    assert of(after, "he_agg_disk_free_bytes") > of(after, "he_agg_disk_reserve_bytes") == 256 * 2**20
    assert of(after, "he_agg_write_wait_seconds_count") > of(before, "he_agg_write_wait_seconds_count")
    assert of(after, "he_agg_requests_under_way") == 0


def test_refusals_are_counted_by_reason_and_status(played):
    _, _, after = played
    assert of(after, "he_agg_problems_total", reason="unknown-submission") == 1
    assert of(after, "he_agg_problems_total", reason="clock-skew") == 1
    assert of(after, "he_agg_problems_total", reason="bad-request") == 2
    assert of(after, "he_agg_responses_total", status="405") == 1
    assert of(after, "he_agg_request_seconds_count", method="other", route="/healthz", status="4xx") == 1


def test_labels_are_few_and_name_nobody(played, watched):
    _, _, after = played
    known = {
        "method", "route", "status", "phase", "reason", "federation", "outcome", "state", "stage", "le",
    }  # fmt: skip
    assert {name for _, labels in after for name, _ in labels} <= known
    values = {value for _, labels in after for name, value in labels if name != "le"}
    assert not {value for value in values if re.search(r"[0-9a-f]{16}|nowhere|PROPFIND|counted\.", value)}
    routes = {value for _, labels in after for name, value in labels if name == "route"}
    assert all("{" in route or re.fullmatch(r"-|/[a-z]+", route) for route in routes), routes


def test_more_requests_make_no_more_samples(played, watched):
    world, *_ = played
    watched.samples()
    before = watched.samples().keys()
    for number in range(20):
        world.client.get(f"/nothing/{number}")
        world.peer().request("GET", f"/v1/rounds/{world.round_id}/submissions/{number:032x}")
        Peer(world.client, f"unknown-{number}", world.members["a"]).state()
    added = {name for name, _ in watched.samples().keys() - before}
    # A status or reason that was not seen before is one more of a closed set.
    assert len(watched.samples().keys() - before) <= 2 + 3 * 20, added
    assert not any("unknown-1" in str(labels) for _, labels in watched.samples())


def test_every_request_line_has_its_ids(played, watched):
    lines = [line for line in watched.server.log_lines if line["message"] == "request"]
    assert all(re.fullmatch(r"[0-9a-f]{16}", line["id"]) for line in lines)
    for route in ("/{upload}",):
        found = [line for line in lines if line["route"].endswith(route) and line["status"] in (200, 201, 204)]
        assert found
        assert {line["round_id"] for line in found} == {"counted.1.1"}, route


def test_phases_are_routes_of_the_application(tmp_path):
    paths = create_app(Settings(data_dir=tmp_path)).openapi()["paths"]
    for method, route in PHASES:
        assert method.lower() in paths[route]


def test_sites_get_no_metrics_and_no_page(played, watched):
    world, *_ = played
    for path in ("/metrics", "/", "/snapshot.json", "/events", "/login"):
        assert world.client.get(path).status_code == 404, path
    only = httpx.Client(base_url=watched.metrics_url.removesuffix("/metrics"))
    with only:
        for path in ("/", "/snapshot.json", "/events", "/login"):
            assert only.get(path).status_code == 404, path
        assert only.get("/metrics", headers={"Host": "rebound.example"}).status_code == 421


def test_two_applications_count_apart():
    one, other = Metrics(), Metrics()
    one.answered(Answered(0.0, 0.1, "GET", "/healthz", 200, 0, 2, "", "", "", "", ""))
    assert b'he_agg_responses_total{status="200"} 1.0' in one.render()
    assert b"he_agg_responses_total{" not in other.render()


def test_nothing_listens_unless_it_is_asked_for(tmp_path):
    watching = Watching(Settings(data_dir=tmp_path))
    assert watching.observers == ()
    assert watching.process() is None
    middleware: list[Any] = [each.cls for each in create_app(Settings(data_dir=tmp_path)).user_middleware]
    assert middleware == [RequestLog, Linger, Held]
    wanted = create_app(Settings(data_dir=tmp_path, metrics_port=0)).user_middleware
    assert [each.cls for each in wanted] == [Observed, *middleware]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--operator-port", "0", "--operator-host", "0.0.0.0"], "refusing to serve the operators' page by plain HTTP"),
        (["--operator-port", "0", "--operator-host", "no.such.host.invalid"], "cannot listen on"),
        (["--metrics-port", "0", "--metrics-host", "203.0.113.7"], "cannot listen on 203.0.113.7"),
    ],
)
def test_listeners_that_cannot_be(tmp_path, options, words):
    result = he_agg("serve", "--port", "0", *options, "--data-dir", tmp_path / "data", check=False)
    assert result.returncode == 4, result.stderr
    assert words in result.stderr
    if "cannot listen" in words:
        assert f"hint: name an address of this machine with {options[2]}\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "data").exists()


def test_an_address_may_be_in_brackets():
    with bind("[::1]", 0, "--port") as listener:
        assert url_of(listener).startswith("http://[::1]:")


def test_an_observer_that_fails_breaks_no_answer(tmp_path, caplog):
    import asyncio

    class Broken:
        def answered(self, request):
            raise RuntimeError("broken")

    watching = Watching(Settings(data_dir=tmp_path))
    broken: Any = Broken()
    watching.observers = (broken,)
    app = create_app(Settings(data_dir=tmp_path / "data"), watching=watching)

    async def ask():
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a")
        async with app.router.lifespan_context(app), client:
            return await client.get("/healthz")

    assert asyncio.run(ask()).status_code == 200
    assert any(record.getMessage() == "monitoring failed" for record in caplog.records)


def test_traces_without_their_packages_are_refused(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match="OpenTelemetry is not installed"):
        Watching(Settings(data_dir=tmp_path, traces=True))
