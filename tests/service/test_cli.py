"""The operator's commands, as a user types them."""

import json
import socket
import stat
from subprocess import CompletedProcess

import httpx
import pytest

from he_agg.commands import main
from he_agg.federation import FederationDocument
from tests.support.peers import KEY_ID, Peer, make_plan
from tests.support.server import he_agg, start_server


@pytest.fixture
def plan():
    return make_plan("stroke", min_sites=2, max_sites=3)


@pytest.fixture
def document(tmp_path, plan):
    path = tmp_path / "federation.json"
    path.write_bytes(FederationDocument(plan.public, 1, KEY_ID).encode())
    return path


@pytest.fixture
def run(tmp_path, capsys):
    """`he-agg ...`, in this process: a process of its own takes half a second, and one test has those."""

    def command(*arguments, check=True):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--data-dir", str(tmp_path / "data")])
        printed = capsys.readouterr()
        assert not check or ended.value.code == 0, printed.err
        return CompletedProcess(arguments, ended.value.code, printed.out, printed.err)

    return command


def refused(result, code, *words):
    assert result.returncode == code, result.stderr
    assert "he-agg: error: " in result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def test_a_federation_from_beginning_to_end(tmp_path, run, document):
    created = he_agg("federation", "create", document, "--data-dir", tmp_path / "data")
    assert "registered: plan" in created.stdout
    with start_server(tmp_path / "data", environment={"HE_AGG_RECHECK_S": "0.05"}) as server:
        # everything from here on happens while the server runs
        assert "was registered already" in run("federation", "create", document).stdout
        first = he_agg("site", "add", "stroke", "hospital-a", "--data-dir", tmp_path / "data")
        token = first.stdout.strip()
        assert len(token) == 43
        assert "not shown again" in first.stderr
        refused(run("federation", "start", "stroke", check=False), 1, "at least 2 sites, got 1", "hint: register more")
        file = tmp_path / "b.token"
        run("site", "add", "stroke", "hospital-b", "--token-file", file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(file.read_text().strip()) == 43

        with httpx.Client(base_url=server.url) as client:
            peer = Peer(client, "stroke", token)
            assert peer.current().json()["state"] == "waiting"
            started = json.loads(run("federation", "start", "stroke", "--json").stdout)
            assert started["round"]["id"] == "stroke.1.1"
            assert started["round"]["invited"] == ["hospital-a", "hospital-b"]
            assert peer.current(wait=5).json()["round_id"] == "stroke.1.1"
            replaced = json.loads(run("site", "token", "stroke", "hospital-a", "--json").stdout)["token"]
            assert peer.current().status_code == 401
            peer = Peer(client, "stroke", replaced)
            assert "stroke.1.1 is open, 0 of 2 sites complete" in run("federation", "show", "stroke").stdout
            assert "has ended" in run("federation", "end", "stroke").stdout
            assert peer.current(wait=5).json()["state"] == "ended"
    shown = json.loads(run("federation", "show", "--json").stdout)
    assert [(s["federation"], s["stage"], s["round"]["phase"]) for s in shown] == [("stroke", "ended", "failed")]
    assert replaced not in json.dumps(shown)
    refused(run("federation", "start", "stroke", check=False), 1, "has ended")


def test_names_and_numbers_of_sites(run, document):
    run("federation", "create", document)
    for site in ("a", "b", "c"):
        run("site", "add", "stroke", site)
    refused(run("site", "add", "stroke", "a", check=False), 1, "already", "he-agg site token stroke a")
    refused(run("site", "add", "stroke", "d", check=False), 1, "at most 3 sites")
    refused(run("site", "add", "stroke", "No Such Name", check=False), 1, "expected a name")
    refused(run("site", "add", "strike", "d", check=False), 1, "known: stroke")
    refused(run("site", "token", "stroke", "d", check=False), 1, "no such site")


def test_files_that_do_not_belong_here(tmp_path, run, document, plan):
    other = tmp_path / "file"
    cases = {
        plan.encode(): ("plan file", "stays at the sites"),
        b"\x5e\xa1\x10" + bytes(100): ("holds a key", "nothing was stored"),
        b'{"v":1,"what":"he-agg-group-key"}': ("holds a key",),
        b"": ("no federation file",),
        document.read_bytes()[:-1]: ("no federation file",),
        document.read_bytes().replace(b'"min_sites":2', b'"min_sites":1'): ("plan.min_sites",),
    }
    for content, words in cases.items():
        other.write_bytes(content)
        refused(run("federation", "create", other, check=False), 1, *words)
    refused(run("federation", "create", tmp_path / "none", check=False), 1, "cannot read")
    assert not (tmp_path / "data").exists()
    run("federation", "create", document)
    changed = FederationDocument(plan.public, 2, KEY_ID)
    other.write_bytes(changed.encode())
    refused(run("federation", "create", other, check=False), 1, "federation stroke exists")


def test_where_there_is_no_store(tmp_path, run):
    refused(run("federation", "show", check=False), 4, "there is no aggregator store", "federation create")
    assert not (tmp_path / "data").exists()


def test_an_address_in_use(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(run("serve", "--port", port, check=False), 4, f"port {port}", "another --port")
