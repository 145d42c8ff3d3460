"""The aggregator's key: made once, kept private, the same for everybody who shares the directory."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest

from he_agg import canonical
from he_agg.documents.roster import Member, Role
from he_agg.errors import ConfigError, KeystoreError, Reason, WireError
from he_agg.host.commands import main
from he_agg.protocol.wire import refuse_secrets
from he_agg.signing import SigningKey, verify
from service.core.aggregator_key import AggregatorKey
from tests.support.owners import somebody_elses


def test_made_once_and_found_again(tmp_path):
    made = AggregatorKey.load_or_create(tmp_path / "data")
    found = AggregatorKey.load_or_create(tmp_path / "data")
    assert found == AggregatorKey(found.signing_key, "aggregator")
    assert found.signing_key.to_bytes() == made.signing_key.to_bytes()
    path = tmp_path / "data" / "aggregator.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["aggregator.key"]
    assert verify(found.member.public_key, made.signing_key.sign(b"x"), b"x")
    other = AggregatorKey.load_or_create(tmp_path / "other")
    assert other.member.fingerprint != made.member.fingerprint


def test_member_and_public_file(tmp_path):
    key = AggregatorKey.load_or_create(tmp_path)
    assert (key.member.name, key.member.roles, key.member.receiving) == (
        "aggregator",
        frozenset({Role.AGGREGATOR}),
        None,
    )
    key.save_public(tmp_path / "public.json")
    key.save_public(tmp_path / "public.json")  # again is fine
    value = canonical.parse((tmp_path / "public.json").read_bytes(), 4096)
    assert Member.from_json(value["name"], value["public"]) == Member("aggregator", key.member.signing_key)
    assert value["public"]["roles"] == []
    with pytest.raises(ConfigError) as caught:
        key.named("berlin").save_public(tmp_path / "public.json")
    assert caught.value.reason == Reason.FILE_EXISTS
    assert canonical.parse((tmp_path / "public.json").read_bytes(), 4096) == value
    with pytest.raises(WireError):
        key.named("No Name")


def test_nothing_secret_in_repr(tmp_path):
    key = AggregatorKey.load_or_create(tmp_path)
    assert key.signing_key.to_bytes().hex() not in repr(key)
    with pytest.raises(WireError) as caught:
        refuse_secrets((tmp_path / "aggregator.key").read_bytes())
    assert caught.value.reason == Reason.SECRET_REFUSED


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o606, 0o610])
def test_open_to_others_is_refused(tmp_path, mode):
    AggregatorKey.load_or_create(tmp_path)
    (tmp_path / "aggregator.key").chmod(mode)
    with pytest.raises(KeystoreError, match="expected mode 0600") as caught:
        AggregatorKey.load_or_create(tmp_path)
    assert caught.value.reason == Reason.UNSAFE_PERMISSIONS


def test_somebody_elses_is_refused(tmp_path, monkeypatch):
    AggregatorKey.load_or_create(tmp_path)
    somebody_elses(tmp_path / "aggregator.key", monkeypatch)
    with pytest.raises(KeystoreError, match="expected it to belong to") as caught:
        AggregatorKey.load_or_create(tmp_path)
    assert caught.value.reason == Reason.UNSAFE_PERMISSIONS


@pytest.mark.parametrize("what", ["dangling", "pipe", "directory"])
def test_only_a_regular_file(tmp_path, what):
    AggregatorKey.load_or_create(tmp_path / "real")
    path = tmp_path / "data" / "aggregator.key"
    path.parent.mkdir()
    if what == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif what == "pipe":
        os.mkfifo(path, 0o600)
    else:
        path.mkdir()
    with pytest.raises(KeystoreError) as caught:
        AggregatorKey.load_or_create(tmp_path / "data")
    assert caught.value.reason == (Reason.FILE_MISSING if what == "dangling" else Reason.UNSAFE_PERMISSIONS)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: b"",
        lambda c: c[:-1],
        lambda c: c + b"\n",
        lambda c: c.replace(b"he-agg-aggregator-key", b"he-agg-other"),
        lambda c: c.replace(b'"v":1', b'"v":2'),
        lambda c: c + b" " * 5000,
    ],
)
def test_damage_is_refused_and_nothing_is_overwritten(tmp_path, damage):
    AggregatorKey.load_or_create(tmp_path)
    path = tmp_path / "aggregator.key"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(KeystoreError) as caught:
        AggregatorKey.load_or_create(tmp_path)
    assert caught.value.reason == Reason.KEYSTORE_CORRUPT
    assert path.read_bytes() == damaged


def test_processes_that_start_at_once_agree(tmp_path):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from service.core.aggregator_key import AggregatorKey\n"
        "sys.stdin.readline()\n"
        "print(AggregatorKey.load_or_create(Path(sys.argv[1])).member.fingerprint)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    said = {process.communicate(timeout=60)[0] for process in started}
    assert len(said) == 1
    assert said == {AggregatorKey.load_or_create(tmp_path / "data").member.fingerprint + "\n"}
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["aggregator.key"]


def test_a_directory_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        AggregatorKey.load_or_create(tmp_path / "file")


def test_show(tmp_path, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["aggregator", "show", "--data-dir", str(tmp_path / "data"), *map(str, arguments)])
        return ended.value.code, capsys.readouterr()

    code, printed = run("--out", tmp_path / "aggregator.public.json")
    member = AggregatorKey.load_or_create(tmp_path / "data").member
    assert (code, printed.err) == (0, "")
    assert printed.out.splitlines()[0] == f"aggregator  {member.fingerprint}"
    public = json.loads((tmp_path / "aggregator.public.json").read_bytes())
    assert Member.from_json(public["name"], public["public"]).fingerprint == member.fingerprint
    code, printed = run("--json")
    assert json.loads(printed.out) == {
        "name": "aggregator",
        "fingerprint": member.fingerprint,
        "signing_key": member.signing_key,
    }
    AggregatorKey(SigningKey.generate()).save_public(tmp_path / "other.json")
    code, printed = run("--out", tmp_path / "other.json")
    assert code == 4
    assert "never overwritten" in printed.err
