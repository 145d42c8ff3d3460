"""`he-agg submit|fetch|status` as a user runs them: what they print, what they refuse, and their exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from client_sdk import Site
from client_sdk._disk.npz import write_npz
from client_sdk._disk.stored import Stored
from client_sdk.cli import rounds
from client_sdk.cli.rounds import _describe
from he_agg.errors import ConfigError
from he_agg.host import commands
from he_agg.ids import RoundId
from tests.support.peers import operator
from tests.support.real import SITES
from tests.support.server import he_agg


def run(capsys, *arguments):
    """Run a command in this process: code, stdout, stderr."""
    with pytest.raises(SystemExit) as end:
        commands.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return end.value.code, out, err


def refused(capsys, code, *arguments):
    """Run a command that must fail: its error line, its hint, and nothing on stdout."""
    got, out, err = run(capsys, *arguments)
    assert got == code, err
    assert out == ""
    assert "Traceback" not in err
    lines = err.splitlines()
    errors = [line.removeprefix("he-agg: error: ") for line in lines if line.startswith("he-agg: error: ")]
    hints = [line.removeprefix("he-agg: hint: ") for line in lines if line.startswith("he-agg: hint: ")]
    assert len(errors) == 1
    assert len(hints) <= 1
    return errors[0], "".join(hints)


def save_update(federation, name, number=1):
    update = federation.update(name, number)
    path = federation.directory(name) / "update.npz"
    np.savez(path, **update.tensors)
    return path, update.weight


def test_round_by_commands_alone(federate):
    """Three sites, one process per command, JSON for scripts; every mean is the same file content."""
    federation = federate()
    first = SITES[0]
    before = json.loads(he_agg("status", "--config", federation.config(first), "--json").stdout)
    round_id = before["round"]["id"]
    assert (before["round"]["phase"], before["invited"], before["submitted"]) == ("open", True, False)
    assert before["pending"] == []
    running = []
    for name in SITES:
        path, weight = save_update(federation, name)
        command = [sys.executable, "-m", "he_agg", "submit", path, "--weight", weight, "--json"]
        command += ["--config", federation.config(name)]
        running.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    for name, process in zip(SITES, running, strict=True):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")
        answer = json.loads(out)
        assert (answer["site"], answer["round_id"]) == (name, round_id)
        assert answer["bytes_up"] > federation.plan.public.wire_bytes
        assert set(answer["seconds"]) == {"encrypt", "upload"}
    out = federation.directory(first) / "mean.npz"
    done = he_agg("fetch", "--config", federation.config(first), "--out", out)
    assert done.stdout == f"mean of round {round_id}: {out} (3 sites, total weight 1800)\n"
    assert done.stderr == ""
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with np.load(out) as means:
        assert {name: (means[name].shape, means[name].dtype) for name in means} == {
            "weights": ((4998, 1), np.float32),
            "bias": ((), np.float64),
            "none": ((0,), np.float64),
        }
        assert np.flatnonzero(means["weights"]).tolist() == [10, 11, 12]


def test_fetch_and_status_in_words(federate, capsys, tmp_path):
    federation = federate()
    config = federation.config(SITES[0])
    path, weight = save_update(federation, SITES[0])
    code, out, _ = run(capsys, "submit", path, "--weight", weight, "--config", config)
    round_id = f"{federation.name}.1.1"
    assert code == 0
    assert f"round {round_id}: submission" in out
    assert f"he-agg fetch --config {config} --round {round_id}" in out
    code, out, _ = run(capsys, "status", "--config", config)
    assert code == 0
    assert "this site: submitted" in out
    assert f"in spool    {round_id}" in out
    assert "roster      version 1, good until " in out
    # Again: the same submission, nothing is sent twice but the manifest.
    code, out, _ = run(capsys, "submit", path, "--weight", weight, "--config", config, "--json")
    assert json.loads(out)["bytes_up"] < 1500
    # The round that was submitted to is the one that is fetched, however long it takes.
    for name in SITES[1:]:
        other, other_weight = save_update(federation, name)
        assert run(capsys, "submit", other, "--weight", other_weight, "--config", federation.config(name))[0] == 0
    code, out, _ = run(capsys, "fetch", "--config", config, "--out", tmp_path / "mean.npz", "--json")
    assert code == 0
    assert json.loads(out)["round_id"] == round_id
    code, out, _ = run(capsys, "fetch", "--config", config, "--out", tmp_path / "again.npz", "--round", round_id)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "mean.npz").read_bytes()
    code, out, _ = run(capsys, "status", "--config", config)
    with Site.open(config) as site:
        # Whole, since the audit asks for it.
        assert f"last record {site.status().index}, {site.status().head}" in out
    error, hint = refused(capsys, 1, "submit", path, "--weight", weight, "--config", config)
    assert "has ended" in error
    assert "he-agg fetch" in hint


KILLED_AFTER_SOME_PARTS = """
import os, signal, sys
from client_sdk import PhaseProgress, Site
from client_sdk._protocol import encrypt as _encrypt, submit as _submit
import numpy as np

_submit._RUN_BYTES = 1  # one part to a request
_encrypt._SHORT_BYTES = 0  # while others are encrypted

def die(event):
    if isinstance(event, PhaseProgress) and event.phase == "upload" and event.done_bytes > 2**17:
        os.kill(os.getpid(), signal.SIGKILL)

config, update, weight = sys.argv[1:]
with Site.open(config, progress=die) as site, np.load(update) as tensors:
    site.current().submit(dict(tensors), int(weight))
"""


def test_submit_that_was_killed_finishes_when_run_again(federate, capsys):
    federation = federate(values=40_000)
    config = federation.config(SITES[0])
    path, weight = save_update(federation, SITES[0])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_SOME_PARTS, str(config), str(path), str(weight)], check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    spool = federation.directory(SITES[0]) / "spool" / SITES[0] / f"{federation.name}.1.1"
    stored = {file.name: file.read_bytes() for file in spool.iterdir()}
    places = federation.plan.public.places
    parts = {name: data for name, data in stored.items() if name.startswith("part-")}
    assert len(parts) >= 3
    # It was killed when the fourth part was on its way: the aggregator goes on with what it has got.
    missing, end = list(range(len(places))), time.monotonic() + 60
    while len(missing) > len(places) - 4:
        assert time.monotonic() < end, missing
        with operator(federation.server.data_dir) as (store, _), store.read() as tx:
            begun = tx.submission_of(RoundId(federation.name, 1, 1), SITES[0])
            missing = tx.missing(begun.id) if begun is not None else missing
    code, out, _ = run(capsys, "submit", path, "--weight", weight, "--config", config, "--json")
    assert code == 0
    answer = json.loads(out)
    now = {file.name: file.read_bytes() for file in spool.iterdir()}
    assert now.pop("receipt.json")
    assert {name: now[name] for name in parts} == parts
    # Nothing else than those and the manifest, behind which are at most the spaces of decimal tags that are short.
    manifest_bytes = answer["bytes_up"] - sum(places[n].wire_bytes for n in missing)
    assert 0 <= manifest_bytes - len(Stored.parse(now["submission.json"]).encoded) < 20 * len(places)


@pytest.mark.parametrize(
    ("change", "expected", "hint"),
    [
        (lambda t: t["weights"].__setitem__((7, 0), np.nan), "tensor 'weights', flat index 7", "diverged loss"),
        (lambda t: t["weights"].__setitem__((8, 0), 2.0), "tensor 'weights', flat index 8", "clip the update"),
        (lambda t: t.pop("bias"), "tensor 'bias' (2 of 3): expected float64 (), got none", "he-agg plan show"),
        (lambda t: t.update(extra=np.zeros(3)), "got 1 more: first 'extra'", "leave it out"),
        (lambda t: t.update(bias=np.zeros(2)), "tensor 'bias': expected shape (), got (2,)", ""),
        (
            lambda t: t.update(bias=np.float32(0)),
            "tensor 'bias': expected dtype float64, got float32",
            "write it as float64",
        ),
    ],
)
def test_wrong_update_is_named(shared, capsys, tmp_path, change, expected, hint):
    tensors = dict(shared.update(SITES[0]).tensors)
    change(tensors)
    np.savez(tmp_path / "update.npz", **tensors)
    arguments = ("submit", tmp_path / "update.npz", "--weight", 5, "--config", shared.config(SITES[0]))
    error, got = refused(capsys, 1, *arguments)
    assert expected in error
    assert hint in got


@pytest.mark.parametrize(("weight", "code"), [("0", 1), ("-3", 1), ("1001", 1), ("1.5", 2), ("many", 2)])
def test_wrong_weight(shared, capsys, weight, code):
    path, _ = save_update(shared, SITES[0])
    error, _ = refused(capsys, code, "submit", path, "--weight", weight, "--config", shared.config(SITES[0]))
    assert ("expected 1 to 1000" in error) if code == 1 else ("--weight" in error)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 no zip", b"\x93NUMPY", b"\x80\x04\x95pickle", "object", "array", "cut", "flipped"],
    ids=lambda c: c if isinstance(c, str) else repr(c[:9]),
)
def test_file_that_is_no_npz(shared, capsys, tmp_path, content):
    path = tmp_path / "update.npz"
    if content == "object":
        np.savez(path, w=np.array([{}], dtype=object))
    elif content == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content in ("cut", "flipped"):
        np.savez(path, **shared.update(SITES[0]).tensors)
        data = path.read_bytes()
        path.write_bytes(data[:-100] if content == "cut" else data[:300] + bytes([data[300] ^ 1]) + data[301:])
    else:
        path.write_bytes(content)
    error, hint = refused(capsys, 4, "submit", path, "--weight", 5, "--config", shared.config(SITES[0]))
    assert "expected an NPZ file of plain arrays, got something else" in error
    assert "numpy.savez" in hint


def test_files_that_are_missing(shared, capsys, tmp_path):
    config = shared.config(SITES[0])
    error, _ = refused(capsys, 4, "submit", tmp_path / "no.npz", "--weight", 5, "--config", config)
    assert "expected an NPZ file, got none" in error
    error, _ = refused(capsys, 4, "status", "--config", tmp_path / "no.toml")
    assert "no.toml cannot be read" in error
    error, _ = refused(capsys, 4, "fetch", "--config", config, "--out", tmp_path / "no" / "mean.npz")
    assert "in a directory that exists" in error
    error, _ = refused(capsys, 2, "fetch", "--config", config)
    assert "--out" in error


def test_existing_file_is_not_overwritten(shared, capsys, tmp_path):
    out = tmp_path / "mean.npz"
    out.write_bytes(b"precious")
    error, hint = refused(capsys, 4, "fetch", "--config", shared.config(SITES[0]), "--out", out)
    assert "exists and is not overwritten" in error
    assert "--force" in hint
    assert out.read_bytes() == b"precious"


def test_nothing_to_fetch(shared, capsys, tmp_path):
    arguments = ("fetch", "--config", shared.config(SITES[0]), "--out", tmp_path / "mean.npz")
    error, hint = refused(capsys, 1, *arguments)
    assert "there is none yet" in error
    assert "he-agg status" in hint
    error, _ = refused(capsys, 1, *arguments, "--round", f"{shared.name}.9.1")
    assert "[unknown-round]" in error
    error, _ = refused(capsys, 1, *arguments, "--round", "nine")
    assert "expected a round id like" in error
    error, _ = refused(capsys, 1, *arguments, "--round", "elsewhere.1.1")
    assert "expected a round of federation" in error


def test_no_round_is_open(federate, capsys):
    federation = federate(start=False)
    path, weight = save_update(federation, SITES[0])
    error, hint = refused(capsys, 1, "submit", path, "--weight", weight, "--config", federation.config(SITES[0]))
    assert "expected an open round, there is none now" in error
    assert "--wait" in hint


def test_aggregator_that_is_not_there(shared, capsys):
    config = shared.directory(SITES[0]) / "elsewhere.toml"
    text = shared.config(SITES[0]).read_text().replace(shared.server.url, "http://127.0.0.1:9")
    config.write_text(text.replace("patience_s = 60", "patience_s = 0.3"))
    error, hint = refused(capsys, 3, "status", "--config", config)
    assert "http://127.0.0.1:9" in error
    assert "gave up after" in error
    assert "nobody listens at that port" in error
    assert "check the port in the url" in hint


@pytest.mark.parametrize("where", ["no-such-host.invalid", "127.0.0.1:9", "127.0.0.1"])
def test_status_says_soon_that_nobody_answers(shared, capsys, monkeypatch, where):
    """An unknown host or a wrong port were five minutes of silence: somebody sits and waits for this command."""
    assert rounds._STATUS_PATIENCE_S <= 10
    monkeypatch.setattr(rounds, "_STATUS_PATIENCE_S", 1.0)
    config = shared.directory(SITES[0]) / "nobody.toml"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = where if where != "127.0.0.1" else f"127.0.0.1:{silent.getsockname()[1]}"
        config.write_text(shared.config(SITES[0]).read_text().replace(shared.server.url, f"https://{where}"))
        begun = time.monotonic()
        code, out, err = run(capsys, "status", "--config", config)
    assert (code, out) == (3, "")
    assert "trying again for" in err or "gave up after 1 try" in err
    assert time.monotonic() - begun < 60


def test_a_terminal_shows_what_is_waited_for_and_nothing_else_does(federate):
    """In plain lines, without control codes; only who cannot be reached is said in any case."""
    federation = federate()
    config, terminal = federation.config(SITES[0]), federation.directory(SITES[0])
    path, weight = save_update(federation, SITES[0])
    round_id = f"{federation.name}.1.1"

    def shown(*arguments):
        ours, theirs = os.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "he_agg", *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=theirs
        ) as process:
            os.close(theirs)
            text = b""
            with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
                while piece := os.read(ours, 4096):
                    text += piece
        os.close(ours)
        assert process.returncode == 0
        assert b"\x1b" not in text
        return text.decode().splitlines()

    assert shown("status", "--config", config) == [f"asking {federation.server.url}, for 10 s at most"]
    # On a machine that takes seconds for a phase, a line says how far it is.
    slow = re.compile(rf"round {round_id}: (encrypting|sending|receiving), [0-9]+ % of .*|.*, [0-9]+ (s|min) at most")
    sending = shown("submit", path, "--weight", weight, "--config", config)
    assert all(slow.fullmatch(line) for line in sending), sending
    for name in SITES[1:]:
        other, other_weight = save_update(federation, name)
        done = he_agg("submit", other, "--weight", other_weight, "--config", federation.config(name))
        assert (done.returncode, done.stderr) == (0, "")
    *waiting, mean = shown("fetch", "--config", config, "--out", terminal / "mean.npz")
    assert all(slow.fullmatch(line) for line in waiting), waiting
    assert re.fullmatch(rf"round {round_id}: the mean is there; seconds: wait .*, download .*, decrypt [0-9.]+", mean)


def test_keystore_that_others_may_read(federate, capsys):
    federation = federate(start=False)
    keystore = federation.directory(SITES[0]) / "keystore"
    keystore.chmod(0o640)
    error, hint = refused(capsys, 4, "status", "--config", federation.config(SITES[0]))
    assert "expected mode 0600, got 0640" in error
    assert f"chmod 600 {keystore}" in hint


@pytest.fixture(scope="module")
def shared(hospitals, tmp_path_factory):
    """A federation for commands that are refused: nothing is ever submitted to it."""
    return hospitals(tmp_path_factory.mktemp("shared"))


def test_mean_files_hold_any_tensor_name(tmp_path):
    """`numpy.savez` would take the first two for its own arguments."""
    tensors = {name: np.full(3, i, np.float32) for i, name in enumerate(["file", "allow_pickle", "a/b.weight", "ü"])}
    write_npz(tmp_path / "mean.npz", tensors, force=False)
    with np.load(tmp_path / "mean.npz") as found:
        assert {name: found[name].tolist() for name in found} == {n: t.tolist() for n, t in tensors.items()}
    with pytest.raises(ConfigError):
        write_npz(tmp_path / "mean.npz", tensors, force=False)
    write_npz(tmp_path / "mean.npz", {}, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mean.npz"]


def test_mean_file_is_whole_or_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ConfigError, match="No space left"):
        write_npz(tmp_path / "mean.npz", {"w": np.zeros(3)}, force=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mine", "what"), [(1, "`he-agg epoch accept`"), (3, "`he-agg epoch publish`"), (2, "")])
def test_status_says_whether_keystore_and_federation_are_in_one_epoch(mine, what):
    facts = {
        "federation": "demo", "stage": "running", "site": "a", "round": None, "last_published": None, "epoch": 2,
        "key_id": "0" * 64, "plan_id": "0" * 64, "pending": [], "records": 0, "head": "0" * 64, "keystore_epoch": mine,
        "roster_version": 1, "roster_expires_at": 1000, "disputed": None,
    }  # fmt: skip
    out = _describe(facts, "of 3 sites")
    assert (f"KEYSTORE IS OF EPOCH {mine}" in out, what in out) == (mine != 2, True)
    assert "roster      version 1, EXPIRED on 1970-01-01" in out
