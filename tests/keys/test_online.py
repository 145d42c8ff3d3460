"""The ceremony through the real aggregator: documents travel there and back, and it vouches for none of them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from he_agg.documents.epoch import EpochBundle
from he_agg.documents.roster import Roster
from he_agg.documents.signed import Signed
from tests.keys.ceremony import found, settings, sign
from tests.keys.dealing import COORDINATORS, SITES
from tests.support.server import he_agg, start_server

ROTATE = "epoch rotate --keystore demo.keystore --roster {} --identity hospital-a.identity"


def test_the_ceremony_through_the_aggregator(ceremony, tmp_path):
    data = tmp_path / "data"
    public = tmp_path / "aggregator.public.json"
    he_agg("aggregator", "show", "--data-dir", data, "--out", public)
    found(ceremony, aggregator=public.read_bytes(), spread_bundle=False)
    at = ceremony.root / "hospital-a"
    he_agg("federation", "create", at / "demo.federation.json", "--roster", at / "roster-1.json", "--data-dir", data)
    with start_server(data) as server:
        for name in SITES:
            settings(ceremony, name, server.url)
        # Before anybody brought the bundle.
        err = ceremony.run("hospital-b", "epoch accept --config site.toml", expect=1)
        assert "he-agg epoch publish" in err
        for new in (True, False):
            assert (
                ceremony.json("hospital-a", "epoch publish demo.epoch-1.bundle.json --config site.toml")["new"] is new
            )
        for name in SITES:
            assert ceremony.json(name, "epoch accept --config site.toml")["epoch"] == 1
            ceremony.run(name, "epoch accept --config site.toml")
        seen = ceremony.json("hospital-b", "epoch commitments --config site.toml")
        assert (seen["sites"], seen["missing"]) == (list(SITES), [])
        assert seen["key_id"] == ceremony.key("hospital-d").key_id

        # A hospital joins, and the one before last leaves: everybody follows by signatures.
        ceremony.run("hospital-e", "site init hospital-e")
        ceremony.send("hospital-e.public.json", "hospital-e", "hospital-a")
        change = "--add site=hospital-e.public.json --remove hospital-d"
        ceremony.run("hospital-a", f"roster next roster.json {change} --out roster-2.json")
        err = ceremony.run("hospital-a", "roster publish roster-2.json --config site.toml", expect=1)
        assert "bad-signature" in err
        sign(ceremony, "roster-2.json", "--previous roster.json")
        ceremony.run("hospital-a", ROTATE.format("roster-2.json"))
        # The aggregator takes the bundle of the newest roster only, and the roster from coordinators only.
        assert "roster" in ceremony.run(
            "hospital-a", "epoch publish demo.epoch-2.bundle.json --config site.toml", expect=1
        )
        ceremony.send("roster-2.json", "hospital-a", "hospital-d", "hospital-e")
        assert "forbidden" in ceremony.run("hospital-d", "roster publish roster-2.json --config site.toml", expect=1)
        for new in (True, False):
            assert ceremony.json("hospital-a", "roster publish roster-2.json --config site.toml")["new"] is new
        ceremony.run("hospital-a", "epoch publish demo.epoch-2.bundle.json --config site.toml")
        ceremony.run("hospital-e", f"roster accept roster-2.json --out roster.json {ceremony.heard(*COORDINATORS[:2])}")
        settings(ceremony, "hospital-e", server.url)
        stay = (*COORDINATORS, "hospital-e")
        for name in stay:
            facts = ceremony.json(name, "epoch accept --config site.toml")
            assert (facts["epoch"], facts["roster_version"]) == (2, 2)
            pinned = Signed.parse(Roster, (ceremony.root / name / "roster.json").read_bytes())
            assert pinned.body.version == 2
        seen = ceremony.json("hospital-b", "epoch commitments --config site.toml")
        assert (seen["sites"], seen["missing"]) == (list(stay), [])
        # The removed one is told nothing any more, and stays in its epoch.
        err = ceremony.run("hospital-d", "epoch accept --config site.toml", expect=4)
        assert "not a member of federation demo any more" in err
        assert ceremony.key("hospital-d").epoch == 1
        # The aggregator never had anything that opens.
        secret = ceremony.key("hospital-a").mac_seed
        for path in data.rglob("*"):
            if path.is_file():
                assert secret not in path.read_bytes()
                assert secret.hex().encode() not in path.read_bytes()


class Liar(ThreadingHTTPServer):
    """Answers what it is told to, whoever asks. `answers`: body by the end of the path."""

    answers: dict[str, bytes]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = {}
        self.put: list[tuple[str, bytes]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Liar

    def do_GET(self) -> None:
        body = next((body for end, body in self.server.answers.items() if self.path.endswith(end)), None)
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def do_PUT(self) -> None:
        self.server.put.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def liar():
    with Liar() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_what_a_lying_aggregator_offers_is_refused_and_noted(ceremony, liar):
    found(ceremony)
    at, site = ceremony.root / "hospital-a", ceremony.root / "hospital-d"
    settings(ceremony, "hospital-d", f"http://127.0.0.1:{liar.server_port}")
    old = (at / "demo.epoch-1.bundle.json").read_bytes()
    ceremony.run("hospital-a", ROTATE.format("roster.json"))
    good = (at / "demo.epoch-2.bundle.json").read_bytes()
    ceremony.run("hospital-a", "roster next roster.json --remove hospital-b --out roster-2.json")
    unsigned = (at / "roster-2.json").read_bytes()
    ceremony.run("hospital-a", ROTATE.format("roster.json"))
    before = {name: (site / name).read_bytes() for name in ("demo.keystore", "roster.json")}
    forged, first = Signed.parse(EpochBundle, good), (at / "roster-1.json").read_bytes()
    lies = [
        ({"/rosters/2": unsigned, "/epochs/newest": good}, "expected the signatures of 2"),
        ({"/rosters/2": first, "/epochs/newest": good}, "expected version 2"),
        ({"/rosters/newest": first, "/epochs/newest": Signed(forged.body).encode()}, "expected one signature, that of"),
        ({"/rosters/newest": first, "/epochs/newest": good[:-5]}, "JSON"),
    ]
    for count, (answers, words) in enumerate(lies, 1):
        liar.answers = {"/rosters/newest": unsigned} | answers
        err = ceremony.run("hospital-d", "epoch accept --config site.toml", expect=1)
        assert words in err
        assert {name: (site / name).read_bytes() for name in before} == before
        assert liar.put == []
        lines = (site / "hospital-d.security.log").read_text().splitlines()
        assert len(lines) == count
        assert json.loads(lines[-1])["site"] == "hospital-d"
    liar.answers = {"/rosters/newest": first, "/epochs/newest": good}
    ceremony.run("hospital-d", "epoch accept --config site.toml")
    assert ceremony.key("hospital-d").epoch == 2
    assert [path for path, _ in liar.put] == ["/v1/federations/demo/epochs/2/commitments/hospital-d"]
    # Back to the epoch before: refused, too, by the same code.
    liar.answers = {"/rosters/newest": first, "/epochs/newest": old}
    assert "epochs only go forward" in ceremony.run("hospital-d", "epoch accept --config site.toml", expect=4)
    assert ceremony.key("hospital-d").epoch == 2


def test_a_bundle_of_another_epoch_is_not_stored_and_a_hole_is_asked_for_again(ceremony, liar):
    found(ceremony)
    at, site = ceremony.root / "hospital-a", ceremony.root / "hospital-d"
    settings(ceremony, "hospital-d", f"http://127.0.0.1:{liar.server_port}")
    for _ in range(4):
        ceremony.run("hospital-a", ROTATE.format("roster.json"))
    bundles = {n: (at / f"demo.epoch-{n}.bundle.json").read_bytes() for n in range(1, 6)}
    first = (at / "roster-1.json").read_bytes()
    accept = "epoch accept --config site.toml"

    def kept():
        return {int(path.name.rpartition("-")[2]) for path in site.glob("demo.keystore.epoch-*")}

    # Epoch 2 is told as 5, which is yet to come; 3 is what it is said to be.
    liar.answers = {"/rosters/newest": first, "/epochs/newest": bundles[4]}
    liar.answers |= {"/epochs/2": bundles[5], "/epochs/3": bundles[3]}
    assert ceremony.json("hospital-d", accept)["missed"] == [3]
    assert kept() == {1, 3}
    liar.answers |= {"/epochs/newest": bundles[5], "/epochs/2": bundles[2]}
    assert ceremony.json("hospital-d", accept)["missed"] == [2]
    assert (kept(), ceremony.key("hospital-d").epoch) == ({1, 2, 3, 4}, 5)
    for epoch in kept():
        assert ceremony.key("hospital-d", f"demo.keystore.epoch-{epoch}").epoch == epoch
    assert ceremony.json("hospital-d", accept)["missed"] == []


def test_either_settings_or_files(ceremony):
    found(ceremony)
    settings(ceremony, "hospital-d", "http://127.0.0.1:1")
    both = "epoch accept demo.epoch-1.bundle.json --config site.toml --identity hospital-d.identity"
    assert "got both" in ceremony.run("hospital-d", both, expect=2)
    assert "expected --config, or BUNDLE" in ceremony.run("hospital-d", "epoch accept", expect=2)
    # A bundle that came as a file, with the paths of the settings: nobody is connected to.
    ceremony.run("hospital-d", "epoch accept demo.epoch-1.bundle.json --config site.toml")
