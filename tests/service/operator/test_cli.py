"""The operator's commands, as a user types them."""

import io
import json
import os
import signal
import socket
from subprocess import CompletedProcess

import httpx
import pytest
from rich.console import Console

from he_agg.documents.federation import FederationDocument
from he_agg.documents.record import RoundRecord
from he_agg.documents.signed import Signed
from he_agg.host.commands import main
from service.core.aggregator_key import AggregatorKey
from service.operator.federation import _table
from service.operator.watch import _draw
from tests.support.peers import KEY_ID, Peer, deal, make_plan
from tests.support.server import he_agg, start_server
from tests.support.trust import consortium

SITES = ["hospital-a", "hospital-b"]


@pytest.fixture
def plan():
    return make_plan("stroke", min_sites=2, max_sites=3)


@pytest.fixture
def document(tmp_path, plan):
    path = tmp_path / "federation.json"
    path.write_bytes(FederationDocument(plan.public, 1, KEY_ID).encode())
    return path


@pytest.fixture
def members(tmp_path):
    return consortium("stroke", SITES, AggregatorKey.load_or_create(tmp_path / "data").signing_key)


@pytest.fixture
def roster(tmp_path, members):
    path = tmp_path / "roster.json"
    path.write_bytes(members.roster.encode())
    return path


@pytest.fixture
def run(tmp_path, capsys):
    """`he-agg ...`, in this process: a process of its own takes half a second, and one test has those."""

    def command(*arguments, check=True):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--data-dir", str(tmp_path / "data")])
        printed = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        assert not check or code == 0, printed.err
        return CompletedProcess(arguments, code, printed.out, printed.err)

    return command


def refused(result, code, *words):
    assert result.returncode == code, result.stderr
    assert "he-agg: error: " in result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def test_a_federation_from_beginning_to_end(tmp_path, run, document, roster, members):
    created = he_agg("federation", "create", document, "--roster", roster, "--data-dir", tmp_path / "data")
    assert "registered: plan" in created.stdout
    assert members.identities["coordinator"].fingerprint in created.stdout
    with start_server(tmp_path / "data", environment={"HE_AGG_RECHECK_S": "0.05"}, fresh=True) as server:
        # everything from here on happens while the server runs
        assert "was registered already" in run("federation", "create", document, "--roster", roster).stdout
        with httpx.Client(base_url=server.url) as client:
            peer, other = (Peer(client, "stroke", members.identities[site]) for site in SITES)
            assert peer.current()["stage"] == "created"
            said = run("federation", "start", "stroke").stdout
            assert "not heard of yet that they hold the key of epoch 1: hospital-a, hospital-b" in said
            started = json.loads(run("federation", "start", "stroke", "--json").stdout)
            assert started["round"]["id"] == "stroke.1.1"
            assert [site["site"] for site in started["round"]["sites"]] == ["hospital-a", "hospital-b"]
            assert peer.current(wait=5)["round_id"] == "stroke.1.1"
            bundle = tmp_path / "bundle.json"
            bundle.write_bytes(deal(members, 2).encode())
            refused(run("federation", "epoch", "stroke", bundle, check=False), 1, "epoch bundle, plan: expected")
            bundle.write_bytes(deal(members, 2, plan_id=started["plan_id"]).encode())
            assert "is in epoch 2" in run("federation", "epoch", "stroke", bundle).stdout
            assert "had this bundle already" in run("federation", "epoch", "stroke", bundle).stdout
            assert peer.document("epochs/newest").content == bundle.read_bytes()
            assert (peer.current(wait=5)["round_id"], peer.current()["epoch"]) == ("stroke.1.2", 2)
            left = {name: one for name, one in members.roster.body.members.items() if name != "hospital-b"}
            following = tmp_path / "next.json"
            following.write_bytes(members.next_roster(left).encode())
            assert other.state().status_code == 200
            assert "version 2 of the roster" in run("federation", "roster", "stroke", following).stdout
            assert "had this roster already" in run("federation", "roster", "stroke", following).stdout
            assert (peer.current()["roster_version"], other.state().status_code) == (2, 403)
            assert "stroke.1.3 is open, 0 of 1 sites complete" in run("federation", "show", "stroke").stdout
            assert "has ended, by its operator" in run("federation", "end", "stroke").stdout
            assert peer.current(wait=5)["stage"] == "ended"
            transcript = tmp_path / "transcript.jsonl"
            assert "4 records" in run("federation", "export", "stroke", "--out", transcript).stdout
            auditor = Peer(client, "stroke", members.identities["auditor"])
            assert auditor.document("transcript").content == transcript.read_bytes()
    shown = json.loads(run("federation", "show", "--json").stdout)
    assert [(s["federation"], s["stage"], s["round"]["phase"]) for s in shown] == [("stroke", "ended", "failed")]
    assert (shown[0]["epoch"], shown[0]["roster_version"], shown[0]["records"]) == (2, 2, 4)
    assert shown[0]["end"]["reason"] == "operator"
    assert "EXPIRED" not in _table(shown)
    expired = shown[0] | {"stage": "running", "end": None, "roster_expires_at": 86400}
    assert "EXPIRED on 1970-01-02: nobody is let in" in _table([expired])
    storage = {"free_bytes": None, "held_bytes": 0}
    view = {"now": 10**9, "federations": [expired], "process": None, "storage": storage}
    for one in (expired, expired | {"round": None}):
        console = Console(record=True, width=160, file=io.StringIO())
        console.print(_draw(view | {"federations": [one]}))
        assert "EXPIRED on 1970-01-02: nobody is let in" in console.export_text()
    first, *rest = transcript.read_bytes().splitlines()
    assert json.loads(first).keys() == {"v", "kind", "federation", "plan"}
    assert rest[:2] == [members.roster.encode(), following.read_bytes()]
    reasons = [set(Signed.parse(RoundRecord, line).body.excluded.values()) for line in rest[2:]]
    assert reasons == [*[{"absent"}] * 3, set()]
    refused(run("federation", "start", "stroke", check=False), 1, "has ended")


def test_rosters_that_do_not_fit(tmp_path, run, document, members):
    path = tmp_path / "a-roster.json"
    create = ("federation", "create", document, "--roster", path)
    refused(run(*create, check=False), 4, "cannot be read")
    path.write_bytes(b"{}")
    refused(run(*create, check=False), 4, "is not a roster")
    path.write_bytes(Signed(members.roster.body).encode())
    refused(run(*create, check=False), 1, "expected the signatures of 1 coordinator of version 1", "bad-signature")
    stranger = AggregatorKey.load_or_create(tmp_path / "another").signing_key
    path.write_bytes(consortium("stroke", SITES, stranger).roster.encode())
    refused(run(*create, check=False), 1, "does not list this aggregator's key", "he-agg aggregator show")
    key = AggregatorKey.load_or_create(tmp_path / "data").signing_key
    path.write_bytes(consortium("strike", SITES, key).roster.encode())
    refused(run(*create, check=False), 1, "expected the roster of federation stroke")
    path.write_bytes(consortium("stroke", SITES, key, valid_s=-1).roster.encode())
    refused(run(*create, check=False), 1, "has expired")
    path.write_bytes(consortium("stroke", [*SITES, "hospital-c", "hospital-d"], key).roster.encode())
    refused(run(*create, check=False), 1, "at most 3 sites")
    refused(run("federation", "show", "stroke", check=False), 1, "no such federation")
    path.write_bytes(consortium("stroke", SITES[:1], key).roster.encode())
    run(*create)
    refused(run("federation", "start", "stroke", check=False), 1, "at least 2 sites, got 1", "hint: more sites need")
    path.write_bytes(members.roster.encode())
    refused(run("federation", "roster", "stroke", path, check=False), 1, "expected version 2 of the roster")
    refused(run("federation", "roster", "strike", path, check=False), 1, "known: stroke")


def test_files_that_do_not_belong_here(tmp_path, run, document, plan, roster):
    other = tmp_path / "file"
    cases = {
        plan.encode(): ("plan file", "stays at the sites"),
        b"\x5e\xa1\x10" + bytes(100): ("holds a key", "nothing was stored"),
        b'{"v":1,"what":"he-agg-group-key"}': ("holds a key",),
        b"": ("not a federation file",),
        document.read_bytes()[:-1]: ("not a federation file",),
        document.read_bytes().replace(b'"min_sites":2', b'"min_sites":1'): ("plan.min_sites",),
    }
    for content, words in cases.items():
        other.write_bytes(content)
        refused(run("federation", "create", other, "--roster", roster, check=False), 1, *words)
    refused(run("federation", "create", tmp_path / "none", "--roster", roster, check=False), 4, "cannot be read")
    assert run("federation", "show").stdout.startswith("no federations yet")
    run("federation", "create", document, "--roster", roster)
    changed = FederationDocument(plan.public, 2, KEY_ID)
    other.write_bytes(changed.encode())
    refused(run("federation", "create", other, "--roster", roster, check=False), 1, "federation stroke exists")


def test_where_there_is_no_store(tmp_path, run):
    refused(run("federation", "show", check=False), 4, "there is no aggregator store", "federation create")
    assert not (tmp_path / "data").exists()


def test_an_address_in_use(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(run("serve", "--port", port, check=False), 4, f"port {port}", "another --port")


def test_an_export_replaces_nothing_unless_it_is_told_to(tmp_path, run, document, roster):
    run("federation", "create", document, "--roster", roster)
    out = tmp_path / "transcript.jsonl"
    run("federation", "export", "stroke", "--out", out)
    out.write_text("of last year")
    refused(run("federation", "export", "stroke", "--out", out, check=False), 4, "exists", "--force")
    assert out.read_text() == "of last year"
    run("federation", "export", "stroke", "--out", out, "--force")
    assert out.read_text() != "of last year"


@pytest.mark.parametrize(("name", "words"), [("HE_AGG_PROT", "set HE_AGG_PORT"), ("HE_AGG_FROBNICATE", "no setting")])
def test_a_misspelt_setting_in_the_environment_is_refused(run, monkeypatch, name, words):
    monkeypatch.setenv(name, "3")
    refused(run("federation", "show", check=False), 4, name, words)


def test_the_end_by_ctrl_c_is_no_error(tmp_path):
    server = start_server(tmp_path / "data", fresh=True)
    with server:
        os.kill(server.pid, signal.SIGINT)
        assert server.wait() == 0
    assert "error" not in server.log
