"""A trustee as a process of its own, on a real aggregator: founded, joined and run by the commands people type."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from client_sdk import Site
from he_agg.documents.public_file import PublicFile
from he_agg.documents.roster import Member
from he_agg.documents.start import Start
from he_agg.host.commands import main
from he_agg.host.processes import HE_AGG, AggregatorProcess
from he_agg.signing import SigningKey
from keys import Identity
from tests.support.real import in_threads, until

HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
TRUSTEE = "trustee"


class People:
    """A folder for each, in which commands are typed without a terminal."""

    def __init__(self, root, capsys, monkeypatch):
        self.root, self._capsys, self._monkeypatch = root, capsys, monkeypatch
        self.prints = {}
        for name in (*HOSPITALS, TRUSTEE):
            identity = Identity.create(name, "x25519")
            identity.save(self.at(name) / f"{name}.identity")
            (self.at("hospital-a") / f"{name}.public.json").write_bytes(PublicFile(identity.member()).encode())
            self.prints[name] = identity.fingerprint
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

    def found(self, *more, aggregator=None, code=0):
        """By default with an aggregator that is never asked."""
        public, url = self.at("hospital-a") / "aggregator.public.json", "https://127.0.0.1:9"
        if aggregator is None:
            public.write_bytes(PublicFile(Member("aggregator", SigningKey.generate().public_key.hex())).encode())
        else:
            url = aggregator.url
            aggregator.operate("aggregator", "show", "--out", str(public))
        example = ("--update", "update.npz", "--weight", "20", "--max-sites", "3", "--deadline", "60")
        words = ("found", "demo", "--name", "hospital-a", "--url", url, "--yes", *example, *more)
        said = self.type("hospital-a", *words, code=code)
        for name in (*HOSPITALS[1:], TRUSTEE) if code == 0 else ():
            start = (self.at("hospital-a") / "demo.start.json").read_bytes()
            (self.at(name) / "demo.start.json").write_bytes(start)
        return said

    def take(self, aggregator):
        heard = f"hospital-a={self.prints['hospital-a']}"
        start = str(self.at("hospital-a") / "demo.start.json")
        aggregator.operate("federation", "take", start, "--fingerprint", heard)

    def join(self, name, *command, code=0):
        heard = f"hospital-a={self.prints['hospital-a']}"
        fingerprint = () if name == "hospital-a" else ("--fingerprint", heard)
        return self.type(name, *command, "demo.start.json", *fingerprint, code=code)


@pytest.fixture
def people(tmp_path, capsys, monkeypatch):
    return People(tmp_path, capsys, monkeypatch)


@pytest.fixture
def aggregator(tmp_path):
    with AggregatorProcess(tmp_path / "aggregator") as process:
        yield process


@contextlib.contextmanager
def trustee_of(people):
    """`he-agg holder run`, and the lines that it has printed."""
    words = [*HE_AGG, "holder", "run", "--config", "holder.toml"]
    # A shell that runs tests in the background has them ignore Ctrl-C, and whoever they start.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(words, cwd=people.at(TRUSTEE), stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, heard)
    with process:
        lines: list[str] = []

        def read():
            for line in process.stdout or ():
                lines.append(line.strip())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield process, lines
        finally:
            process.kill()
            reader.join()


def test_a_trustee_holds_until_the_federation_ends(people, aggregator):
    said = people.found("--keys", "split", "--holder", "trustee.public.json", aggregator=aggregator)
    assert "trustee gets it, and types `he-agg holder join demo.start.json`" in said
    assert "is a site" not in said
    people.take(aggregator)
    assert "he-agg holder run --config holder.toml" in people.join(TRUSTEE, "holder", "join")
    people.join(TRUSTEE, "holder", "join")  # again is fine
    assert not list(people.at(TRUSTEE).glob("*.keystore"))

    def hospital(name):
        with Site.open(people.at(name) / "site.toml", progress=False, patience_s=60) as site:
            round = next(site.rounds())
            update = {"w": np.full(30, 0.01 * (HOSPITALS.index(name) + 1))}
            if name == "hospital-c":
                return round.submit(update, weight=10)  # and is gone: two of the three holders left are a hospital's
            return round.aggregate(update, weight=10)

    with trustee_of(people) as (process, lines):
        until(lambda: any("sharing key" in line for line in lines))
        for name in HOSPITALS:  # with the second of them there are sharing keys enough, and the first round opens
            people.join(name, "join")
        first, second, _ = in_threads(hospital, HOSPITALS)
        for mean in (first, second):
            assert (mean.n_sites, mean.total_weight) == (3, 30)
            assert mean.tensors["w"] == pytest.approx(np.full(30, 0.02), abs=1e-5)
        until(lambda: "round demo.1.1: trustee has answered" in lines)
        aggregator.operate("federation", "end", "demo")
        assert process.wait(60) == 0
        until(lambda: "federation demo has ended; nothing is held any more" in lines)
    assert lines[:2] == [
        f"trustee holds for demo, at {aggregator.url}",
        "epoch 1: the aggregator has the sharing key of trustee",
    ]
    spool = people.at(TRUSTEE) / "trustee.spool" / TRUSTEE
    assert len((spool / "demo.promises").read_bytes().splitlines()) == 2


def test_a_trustee_ends_cleanly_when_it_is_told_to(people, aggregator):
    people.found("--keys", "split", "--holder", "trustee.public.json", aggregator=aggregator)
    people.join(TRUSTEE, "holder", "join")
    people.take(aggregator)
    with trustee_of(people) as (process, lines):
        until(lambda: any("sharing key" in line for line in lines))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        until(lambda: lines[-1].startswith("stopped;"))


def test_who_cannot_join_as_a_trustee_is_told_why(people):
    people.found("--keys", "split", "--holder", "trustee.public.json")
    assert "he-agg holder join" in people.join(TRUSTEE, "join", code=1)
    assert "is a site of demo" in people.join("hospital-b", "holder", "join", code=1)
    assert not (people.at("hospital-b") / "holder.toml").exists()
    for name in ("demo.start.json", "demo.keystore", "demo.plan"):
        (people.at("hospital-a") / name).unlink()
    assert "no holders" in people.found("--keys", "shared", "--holder", "trustee.public.json", code=2)
    (people.at("hospital-a") / "trustee.public.json").unlink()
    people.found()
    assert "has no holders" in people.join(TRUSTEE, "holder", "join", code=1)


def test_three_hospitals_and_no_trustee_hold_by_themselves(people):
    (people.at("hospital-a") / "trustee.public.json").unlink()
    people.found("--keys", "split")
    table = people.type("hospital-a", "roster", "verify", _roster_of(people))
    assert "3 of 3 have to see the same record (quorum), and 3 to answer for it (threshold); 0 may be away" in table
    assert "with 1 holder on its side at most, reads no update (claim 1)" in table


def _roster_of(people) -> Path:
    path = people.at("hospital-a") / "roster-1.json"
    path.write_bytes(Start.parse((people.at("hospital-a") / "demo.start.json").read_bytes()).roster.encode())
    return path
