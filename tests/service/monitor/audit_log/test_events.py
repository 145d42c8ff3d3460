"""What a real aggregator and its commands tell a real receiver."""

import ast
import re
from contextlib import closing
from dataclasses import replace

import httpx
import pytest

from he_agg.documents.verdict import REJECTED
from he_agg.errors import Reason
from service.audit_events.catalogue import CATALOGUE
from service.audit_events.event import user_of_this_process
from service.monitor.audit_log.observer import _KINDS, AuditLog
from service.observers import Answered
from service.problems import PROBLEMS
from tests.service.monitor.watched import watched_server
from tests.support.peers import adopt, deal, make_plan, prepare
from tests.support.real import RealFederation, until
from tests.support.receivers import Syslog, parsed
from tests.support.server import QUICK, he_agg, start_server
from tests.support.written import ROOT


def told(receiver):
    """(name, fields) of all that has come."""
    read = [parsed(message) for message in receiver.messages]
    return [(each.msgid, each.sd.get("he-agg@32473", {})) for each in read]


def wait_for(receiver, name, count=1):
    """The fields of events of a kind, once there are so many."""
    return until(lambda: len(found := [f for n, f in told(receiver) if n == name]) >= count and found)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A federation on a server with an audit log, and the receiver."""
    plan = make_plan("stroke", rounds=3)
    with Syslog("tcp") as receiver:
        environment = {"HE_AGG_AUDIT_LOG": f"syslog+tcp://127.0.0.1:{receiver.port}"}
        with watched_server(tmp_path_factory.mktemp("audited") / "data", environment) as watched:
            federation = RealFederation(watched.server, plan, ["a", "b", "c", "d"])
            yield watched, federation, receiver
            federation.close()


def command(watched, *words, check=True):
    # Without the variable: the server has noted its target in the data directory.
    return he_agg("federation", *words, "--data-dir", watched.server.data_dir, check=check)


def test_the_server_and_its_link(world):
    _, _, receiver = world
    (started,) = wait_for(receiver, "aggregator.started")
    assert started["purpose"] == "serve"
    assert wait_for(receiver, "operator.link-made")[0] == {"by": user_of_this_process(), "via": "command"}


def test_signing_in_and_out(world):
    watched, _, receiver = world
    with closing(watched.logged_in()) as client:
        assert client.post("/login", json={"token": "1.ab.cd"}).status_code == 401
        assert client.post("/logout").status_code == 204
        assert client.post("/logout").status_code == 204  # nobody is there to sign out
    assert wait_for(receiver, "operator.signed-in") == [{"via": "link", "role": "viewer", "source": "127.0.0.1"}]
    assert wait_for(receiver, "operator.sign-in-failed") == [
        {"via": "link", "source": "127.0.0.1", "reason": "bad-link", "count": "1"}
    ]
    assert wait_for(receiver, "operator.signed-out") == [{"via": "link", "source": "127.0.0.1"}]
    assert len(wait_for(receiver, "operator.link-made", 2)) == 2


def test_commands_tell_the_same_log(world):
    watched, _, receiver = world
    me = {"federation": "stroke", "by": user_of_this_process(), "via": "command"}
    for word in ("pause", "pause", "resume"):
        assert command(watched, word, "stroke").stderr == ""
    command(watched, "export", "stroke", "--out", watched.server.data_dir / "transcript")
    assert wait_for(receiver, "federation.resumed") == [me]
    assert wait_for(receiver, "federation.paused") == [me], "what changed nothing is no event"
    assert wait_for(receiver, "federation.exported") == [me | {"records": "0"}]


def test_requests_of_strangers_and_liars(world):
    _, federation, receiver = world
    mine = federation.peer("a")
    before = len([name for name, _ in told(receiver) if name == "request.refused"])
    mine.member, real = federation.members["b"], mine.member
    try:
        request = mine.signed("GET", "/v1/federations/stroke/state")
        request.headers["Signature-Input"] = request.headers["Signature-Input"].replace('keyid="b"', 'keyid="a"')
        answers = [federation.client.send(request) for _ in range(3)]
        request.headers["Signature-Input"] = request.headers["Signature-Input"].replace('keyid="a"', 'keyid="eve"')
        answers.append(federation.client.send(request))
    finally:
        mine.member = real
    answers.append(mine.bring("rosters/2", federation.consortium.roster.encode()))  # a site is no coordinator
    assert [answer.status_code for answer in answers] == [401, 401, 401, 401, 403]
    found = wait_for(receiver, "request.refused", before + 3)[before:]
    lied, strange, forbidden = found
    assert lied == {
        "reason": "bad-signature",
        "claimed": "stroke/a",
        "source": "127.0.0.1",
        "request": answers[0].headers["x-request-id"],
        "count": "1",
    }
    assert (strange["reason"], strange["claimed"]) == ("unauthenticated", "stroke/eve")
    assert (forbidden["reason"], forbidden["member"], forbidden["federation"]) == ("forbidden", "a", "stroke")


def test_a_key_that_was_sent(world):
    _, federation, receiver = world
    assert federation.peer("c").end(federation.round_id, b'{"he-agg-group-key":"x"}').status_code == 422
    (sent,) = wait_for(receiver, "member.sent-key")
    assert (sent["federation"], sent["member"]) == ("stroke", "c")


def test_rounds_verdicts_rosters_epochs_and_the_end(world):
    watched, federation, receiver = world
    round_id = federation.round_id
    for number, site in enumerate("abcd"):
        federation.peer(site).submit(prepare(federation.plan, round_id, site, number))
    (published,) = wait_for(receiver, "round.published")
    assert published.items() >= {"federation": "stroke", "round": round_id, "members": "4"}.items()
    assert len(published["record"]) == 64
    assert federation.peer("b").judge(round_id, REJECTED).status_code == 201
    assert wait_for(receiver, "verdict.rejected") == [{"federation": "stroke", "round": round_id, "member": "b"}]
    members = dict(federation.consortium.roster.body.members)
    del members["d"]
    people = replace(federation.consortium, roster=federation.consortium.next_roster(members))
    coordinator = federation.peers["coordinator"]
    assert coordinator.bring("rosters/2", people.roster.encode()).status_code == 201
    adopt(people)
    (changed,) = wait_for(receiver, "roster.changed")
    assert changed.items() >= {"federation": "stroke", "roster_version": "2", "removed": "1"}.items()
    assert (changed["by"], changed["via"]) == ("coordinator", "request")
    assert wait_for(receiver, "round.failed")[0]["reason"] == "roster-changed"
    bundle = deal(people, 2, plan_id=federation.plan.plan_id)
    assert coordinator.bring("epochs/2", bundle.encode()).status_code == 201
    (epoch,) = wait_for(receiver, "epoch.changed")
    assert (epoch["epoch"], epoch["dealer"], epoch["by"]) == ("2", "coordinator", "coordinator")
    command(watched, "end", "stroke")
    (ended,) = wait_for(receiver, "federation.ended")
    assert (ended["reason"], ended["via"]) == ("operator", "command")


def test_every_message_names_its_number(world):
    """Of each process: the server's and those of the commands."""
    _, _, receiver = world
    numbers = {}
    for message in receiver.messages:
        read = parsed(message)
        numbers.setdefault(read.procid, []).append(int(read.sd["meta"]["sequenceId"]))
    assert len(numbers) > 3
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values()), numbers


def test_the_end_of_the_server_is_the_last_event(world):
    watched, _, receiver = world
    assert watched.server.stop() == 0
    assert told(receiver)[-1] == ("aggregator.stopped", {"purpose": "serve"})


def test_a_dead_target_stops_no_round_and_is_noticed(tmp_path):
    with Syslog("tcp") as before:
        port = before.port
    environment = QUICK | {"HE_AGG_METRICS_PORT": "0", "HE_AGG_AUDIT_LOG": f"syslog+tcp://127.0.0.1:{port}"}
    with start_server(tmp_path / "data", environment=environment) as server:
        metrics = server.line().split()[-1]

        def value(name):
            found = re.search(rf"^he_agg_audit_{name} (\S+)$", httpx.get(metrics).text, re.M)
            assert found, name
            return float(found[1])

        federation = RealFederation(server, make_plan("stroke", rounds=1), ["a", "b", "c"])
        round_id = federation.round_id
        for number, site in enumerate("abc"):
            federation.peer(site).submit(prepare(federation.plan, round_id, site, number))
        assert federation.peer().record(round_id, wait=20).status_code == 200
        until(lambda: value("log_up") == 0)
        assert value("events_waiting") >= 2
        shown = he_agg("federation", "show", "--data-dir", server.data_dir)
        assert shown.stderr == "", "what tells nothing needs no log"
        federation.close()
        lines = [line for line in server.log_lines if "audit log" in line["message"]]
        assert [line["level"] for line in lines] == ["ERROR"]
        with Syslog("tcp", port) as receiver:
            until(lambda: value("log_up") == 1, 30)
            assert wait_for(receiver, "round.published")[0]["round"] == round_id
            until(lambda: value("events_waiting") == 0)
            assert value(r'events_total\{outcome="lost"\}') == 0


def test_a_command_says_that_the_log_did_not_take_its_events(tmp_path):
    with Syslog("tcp") as before:
        port = before.port
    (tmp_path / "audit-log").write_text(f"syslog+tcp://127.0.0.1:{port}")
    made = he_agg("operator", "link", "--data-dir", tmp_path)
    assert made.stdout.startswith("http://")
    assert f"the audit log at syslog+tcp://127.0.0.1:{port} did not take 1 of its events" in made.stderr


def test_every_reason_about_a_sender_is_told_of():
    found = []
    audit = AuditLog(found.append)
    for reason in PROBLEMS:
        audit.answered(
            Answered(0, 0, "PUT", "/", 400, 0, 0, "ab", "stroke", "a", "", reason.value, "192.0.2.1", "stroke/b")
        )
    assert [event.kind.name for event in found] == [_KINDS[reason] for reason in PROBLEMS if reason in _KINDS]
    assert {"member.sent-key", "quota.exceeded", "store.full", "request.refused"} == {e.kind.name for e in found}
    assert Reason.NOT_INVITED not in _KINDS


def test_every_kind_is_told_of_somewhere():
    """And nothing is told of under a name that is none: `make_event` refuses those when it is too late."""
    names = {}
    for path in (ROOT / "service").rglob("*.py"):
        if path.name == "catalogue.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in CATALOGUE:
                names.setdefault(node.value, path)
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if called in ("report", "make_event", "tell") and node.args and isinstance(node.args[0], ast.Constant):
                kind = CATALOGUE[str(node.args[0].value)]
                given = {keyword.arg for keyword in node.keywords} - {None}
                assert given | ({"count"} if called == "tell" else set()) <= set(kind.fields), (path, node.lineno)
    assert names.keys() == CATALOGUE.keys()
