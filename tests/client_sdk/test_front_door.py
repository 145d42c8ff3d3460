"""`he-agg found` and `he-agg join` with what people get wrong: each refusal says what to do, and leaves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client_sdk.cli import join
from he_agg.documents.address import Address
from he_agg.documents.public_file import PublicFile
from he_agg.documents.roster import Member
from he_agg.documents.signed import Signed
from he_agg.documents.start import Start
from he_agg.host.commands import main
from he_agg.signing import SigningKey
from keys import Identity
from service.serve.self_signed import certificate_of, own_certificate

NOBODY = "https://127.0.0.1:9"


class Front:
    """Folders of three hospitals, in which commands are typed without a terminal."""

    def __init__(self, root, capsys, monkeypatch):
        root.mkdir(exist_ok=True)
        self.root, self._capsys, self._monkeypatch = root, capsys, monkeypatch
        self.key = SigningKey.generate()
        self.aggregator = Member("aggregator", self.key.public_key.hex())
        address = Signed.make(Address(NOBODY), self.key, "aggregator")
        self.prints = {"aggregator": self.aggregator.fingerprint}
        for name in ("hospital-b", "hospital-c"):
            self.type(name, "site", "init", name)
            self.prints[name] = Identity.load(root / name / f"{name}.identity").fingerprint
            (self.at("hospital-a") / f"{name}.public.json").write_bytes(
                (root / name / f"{name}.public.json").read_bytes()
            )
        (self.at("hospital-a") / "aggregator.public.json").write_bytes(PublicFile(self.aggregator, address).encode())
        np.savez(self.at("hospital-a") / "update.npz", w=np.linspace(-0.1, 0.1, 30))

    def at(self, name):
        (self.root / name).mkdir(exist_ok=True)
        return self.root / name

    def type(self, name, *words, code=0):
        self._monkeypatch.chdir(self.at(name))
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words)])
        printed = self._capsys.readouterr()
        assert ended.value.code == code, printed.out + printed.err
        return printed.out if code == 0 else printed.err

    def found(self, *more, code=0, **prints):
        heard = {**self.prints, **{name.replace("_", "-"): text for name, text in prints.items()}}
        said = [word for name, text in heard.items() if text for word in ("--fingerprint", f"{name}={text}")]
        example = ("--update", "update.npz", "--weight", "20")
        return self.type("hospital-a", "found", "demo", "--name", "hospital-a", *example, *said, *more, code=code)

    def send_start(self, *names, change=lambda start: start):
        start = Start.parse((self.at("hospital-a") / "demo.start.json").read_bytes())
        for name in names:
            (self.at(name) / "demo.start.json").write_bytes(change(start).encode())

    def files(self, name):
        return {path.name for path in self.at(name).iterdir()}


@pytest.fixture
def front(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(join, "PATIENCE_S", 0.0)
    return Front(tmp_path, capsys, monkeypatch)


MADE = {"demo.start.json", "demo.keystore", "demo.plan"}


def test_found_signs_nothing_that_was_not_compared(front):
    other = front.prints["aggregator"]
    assert "roster has" in front.found(hospital_b=other, code=1)
    assert "got none of hospital-c" in front.found(hospital_c=None, code=1)
    nothing = dict.fromkeys(("aggregator", "hospital_b", "hospital_c"))
    assert "no terminal to ask on" in front.found(code=1, **nothing)
    assert not MADE & front.files("hospital-a")
    front.found()
    assert front.files("hospital-a") >= MADE
    assert "demo.start.json exists" in front.found(code=4)


def test_found_says_what_is_missing(front):
    assert "expected --weight N" in front.type(
        "hospital-a", "found", "demo", "--name", "hospital-a", "--update", "update.npz", code=2
    )
    assert "--clip and --weight-cap" in front.type(
        "hospital-a", "found", "demo", "--name", "hospital-a", "--model", "update.npz", code=2
    )
    assert "got both" in front.found("--model", "update.npz", code=2)
    assert "leave out" in front.found("--local", "3", code=2)
    (front.at("hospital-a") / "aggregator.public.json").write_bytes(PublicFile(front.aggregator).encode())
    assert "--url https://HOST:PORT" in front.found(code=1)
    (front.at("hospital-a") / "aggregator.public.json").unlink()
    assert "public file of one aggregator, got 0" in front.found(code=1)
    assert not MADE & front.files("hospital-a")


def test_an_address_that_the_aggregator_has_not_signed_is_refused(front):
    file = PublicFile(front.aggregator, Signed.make(Address(NOBODY), SigningKey.generate(), "aggregator"))
    (front.at("hospital-a") / "aggregator.public.json").write_bytes(file.encode())
    assert "address" in front.found(code=4)


def test_several_coordinators_sign_before_anything_is_dealt(front):
    front.found("--coordinator", "hospital-b")
    assert "demo.start.json" not in front.files("hospital-a")
    roster = front.at("hospital-a") / "demo.roster-1.json"
    front.type("hospital-b", "roster", "sign", roster, "--identity", "hospital-b.identity")
    front.type("hospital-a", "found", "demo", "--plan", "demo.plan", "--roster", roster, "--yes")
    start = Start.parse((front.at("hospital-a") / "demo.start.json").read_bytes())
    assert set(start.roster.signatures) == {"hospital-a", "hospital-b"}
    assert start.document.plan.min_sites == 3


def test_join_accepts_no_other_fingerprint_and_writes_nothing(front):
    front.found()
    front.send_start("hospital-b")
    before = front.files("hospital-b")
    wrong = f"hospital-a={front.prints['hospital-c']}"
    assert "not what was given" in front.type("hospital-b", "join", "demo.start.json", "--fingerprint", wrong, code=1)
    assert "fingerprint of hospital-a" in front.type("hospital-b", "join", "demo.start.json", code=1)
    assert front.files("hospital-b") == before


def test_join_takes_what_needs_no_aggregator_and_says_to_come_again(front):
    (coordinator,) = re.findall(r"over the phone: ([0-9a-f ]+)", front.found())
    front.send_start("hospital-b")
    said = ("--fingerprint", f"hospital-a={coordinator}")
    err = front.type("hospital-b", "join", "demo.start.json", *said, code=3)
    assert "type the same again: `he-agg join demo.start.json`" in err
    assert front.files("hospital-b") >= {"site.toml", "roster.json", "demo.keystore"}
    settings = (front.at("hospital-b") / "site.toml").read_text()
    assert f'url = "{NOBODY}"' in settings
    front.type("hospital-b", "join", "demo.start.json", code=3)  # nothing to compare any more
    (front.at("hospital-b") / "site.toml").write_text(settings.replace(NOBODY, "https://127.0.0.1:7"))
    assert "other values of url" in front.type("hospital-b", "join", "demo.start.json", code=4)


def test_join_at_a_machine_with_other_keys_of_that_name(front):
    front.found()
    front.send_start("elsewhere")
    said = ("--name", "hospital-b", "--fingerprint", f"hospital-a={front.prints['hospital-b']}")
    assert "other keys for hospital-b" in front.type("elsewhere", "join", "demo.start.json", *said, code=1)
    assert front.files("elsewhere") == {"demo.start.json"}
    assert "--name NAME" in front.type("elsewhere", "join", "demo.start.json", code=4)


def test_a_newcomer_gets_an_identity_and_waits_for_a_roster_that_lists_it(front):
    (coordinator,) = re.findall(r"over the phone: ([0-9a-f ]+)", front.found())
    front.send_start("hospital-e")
    said = ("--name", "hospital-e", "--fingerprint", f"hospital-a={coordinator}")
    front.type("hospital-e", "join", "demo.start.json", *said, code=3)  # the roster after it is at the aggregator
    assert front.files("hospital-e") >= {"hospital-e.identity", "hospital-e.public.json", "roster.json", "site.toml"}
    assert "demo.keystore" not in front.files("hospital-e")


@pytest.mark.parametrize(
    "change",
    [
        lambda start: replace(
            start, address=Signed.make(Address("https://evil.example"), SigningKey.generate(), "aggregator")
        ),
        lambda start: replace(start, document=replace(start.document, key_id="0" * 64)),
        lambda start: replace(start, roster=Signed(start.roster.body)),
    ],
)
def test_a_start_file_that_was_changed_is_refused(front, change):
    front.found()
    front.send_start("hospital-b", change=change)
    assert "not a usable start file" in front.type("hospital-b", "join", "demo.start.json", code=4)
    assert "site.toml" not in front.files("hospital-b")


def test_a_folder_is_of_one_federation(front):
    (coordinator,) = re.findall(r"over the phone: ([0-9a-f ]+)", front.found())
    front.send_start("hospital-b")
    front.type("hospital-b", "join", "demo.start.json", "--fingerprint", f"hospital-a={coordinator}", code=3)
    prints = [w for name, text in front.prints.items() for w in ("--fingerprint", f"{name}={text}")]
    example = ("--update", "update.npz", "--weight", "20")
    front.type("hospital-a", "found", "other", "--name", "hospital-a", *example, *prints)
    other = front.at("hospital-a") / "other.start.json"
    assert "folder is of federation demo" in front.type("hospital-b", "join", other, code=4)


def at_address(key, url=NOBODY, certificate=""):
    """What makes a start file say another address, signed with a key of the aggregator's name."""
    return lambda start: replace(start, address=Signed.make(Address(url, certificate), key, "aggregator"))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two of one address."""
    made = [own_certificate(tmp_path_factory.mktemp("data"), NOBODY)[0] for _ in range(2)]
    return [certificate_of(path) for path in made]


def joined(front, change):
    """Hospital b with all that needs no aggregator."""
    (coordinator,) = re.findall(r"over the phone: ([0-9a-f ]+)", front.found())
    front.send_start("hospital-b", change=change)
    said = ("--fingerprint", f"hospital-a={coordinator}")
    front.type("hospital-b", "join", "demo.start.json", *said, code=3)
    return front.at("hospital-b")


def forged_start(front, change, capsys, monkeypatch):
    """A start file of the same name by people of whom nobody has heard, who list hospital b with its own keys."""
    evil = Front(front.root / "evil", capsys, monkeypatch)
    public = (front.root / "hospital-b" / "hospital-b.public.json").read_bytes()
    (evil.at("hospital-a") / "hospital-b.public.json").write_bytes(public)
    evil.found(hospital_b=front.prints["hospital-b"])
    evil.send_start("out", change=lambda start: change(evil)(start))
    return (evil.root / "out" / "demo.start.json").read_bytes()


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_second_start_file_takes_nobody_elsewhere(front, certificates, cut_off, capsys, monkeypatch):
    """Its people list the same site, sign an address of theirs, and nobody compared their fingerprints."""
    ours, theirs = certificates
    at = joined(front, at_address(front.key, certificate=ours))
    assert (at / "aggregator.pem").read_text() == ours
    forged = forged_start(front, lambda evil: at_address(evil.key, certificate=theirs), capsys, monkeypatch)
    if cut_off:  # between the pin and the settings
        (at / "aggregator.pem").unlink()
        (at / "site.toml").unlink()
    honest = (at / "demo.start.json").read_bytes()
    (at / "demo.start.json").write_bytes(forged)
    before = contents(at)
    err = front.type("hospital-b", "join", "demo.start.json", code=4)
    assert "never accepted in this folder; nothing was changed" in " ".join(err.split())
    assert contents(at) == before
    (at / "demo.start.json").write_bytes(honest)
    front.type("hospital-b", "join", "demo.start.json", code=3)
    assert (at / "aggregator.pem").read_text() == ours


def test_a_certificate_that_was_accepted_is_not_replaced(front, certificates):
    ours, other = certificates
    at = joined(front, at_address(front.key, certificate=ours))
    for change, word in (
        (at_address(front.key, certificate=other), "another certificate"),
        (at_address(front.key), "other values of ca_file"),
        (at_address(front.key, "https://127.0.0.1:7", other), "other values of url"),
    ):
        front.send_start("hospital-b", change=change)
        before = contents(at)
        assert word in front.type("hospital-b", "join", "demo.start.json", code=4)
        assert contents(at) == before


def test_an_old_start_file_does_after_the_roster_went_on_but_not_with_an_address_of_who_has_left(front, monkeypatch):
    """The aggregator got another key with version 2: the old key signs no address for anybody."""
    at = joined(front, lambda start: start)
    founder = front.at("hospital-a")
    fresh = PublicFile(Member("aggregator", SigningKey.generate().public_key.hex())).encode()
    (founder / "new.public.json").write_bytes(fresh)
    change = ("--remove", "aggregator", "--add", "aggregator=new.public.json", "--out", "roster-2.json")
    first = (at / "roster.json").read_bytes()
    (founder / "roster-1.json").write_bytes(first)
    front.type("hospital-a", "roster", "next", "roster-1.json", *change)
    sign = ("--previous", "roster-1.json", "--identity", "hospital-a.identity")
    front.type("hospital-a", "roster", "sign", "roster-2.json", *sign)
    front.type("hospital-b", "roster", "accept", founder / "roster-2.json", "--out", "roster.json")
    assert (at / "roster.json").read_bytes() != first
    before = contents(at)
    front.type("hospital-b", "join", "demo.start.json", code=3)
    assert contents(at) == before
    (at / "site.toml").unlink()
    front.send_start("hospital-b", change=at_address(front.key, "https://127.0.0.1:7"))
    assert "signed by nobody" in front.type("hospital-b", "join", "demo.start.json", code=4)
    assert "site.toml" not in front.files("hospital-b")


@pytest.mark.parametrize("file", ["hospital-b.identity", "hospital-b.public.json", "missing"])
def test_another_file_in_place_of_the_start_file(front, file):
    err = front.type("hospital-b", "join", file, code=4)
    assert "start file" in err or "cannot be read" in err


def test_a_local_federation_runs_and_the_shown_program_with_it(tmp_path):
    np.savez(tmp_path / "update.npz", w=np.linspace(-0.1, 0.1, 30).astype(np.float32))
    (tmp_path / "service.py").write_text("raise SystemExit('this is mine')\n")  # beside the user's own files
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HE_AGG_")}

    def run(*words):
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    shown = run("-P", "-m", "he_agg", "found", "--local", "3", "--update", "update.npz", "--weight", "20")
    (pid,) = map(int, re.findall(r"`kill (\d+)`", shown))
    try:
        (tmp_path / "program.py").write_text(shown[shown.index("from concurrent") :])
        lines = run("program.py").splitlines()
        assert [line.count("'demo.1.1', 3") for line in lines] == [1, 1, 1]
    finally:
        os.kill(pid, signal.SIGTERM)
    assert json.dumps(sorted(path.name for path in (tmp_path / "demo").iterdir() if "hospital" in path.name)) == (
        '["hospital-a", "hospital-b", "hospital-c"]'
    )
    assert Path(tmp_path / "demo" / "hospital-a" / "site.toml").exists()
