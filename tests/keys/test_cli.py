"""Commands of the coordinator, as they are typed: what they print, write and refuse, and their exit codes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from he_agg import Plan
from he_agg.host.commands import main
from keys import Identity
from keys.public_file import read_public


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run `he-agg` in an empty directory; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    np.savez("model.npz", w=np.zeros((30, 4), np.float32), b=np.zeros(4))

    def command(line):
        with pytest.raises(SystemExit) as caught:
            main(line.split())
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return command


PLAN_NEW = "plan new demo --model model.npz --clip 0.5 --weight-cap 100 --max-sites 5"


def test_plan_shows_what_was_agreed_on(run, tmp_path):
    assert run(PLAN_NEW)[0] == 0
    plan = Plan.parse((tmp_path / "demo.plan").read_bytes())
    assert [spec.name for spec in plan.layout.tensors] == ["w", "b"]
    assert json.loads(run("plan show demo.plan --json")[1])["layout"][0]["clip"] == 0.5


@pytest.mark.parametrize("suite", ["x25519", "mlkem768-x25519"])
def test_an_identity_and_its_public_file_fit_together(run, tmp_path, suite):
    code, out, _ = run(f"site init hospital-a --suite {suite} --json")
    facts = json.loads(out)
    assert code == 0
    identity = Identity.load(tmp_path / "hospital-a.identity")
    public = read_public(tmp_path / "hospital-a.public.json")
    assert public == identity.member()
    assert facts["fingerprint"] == identity.fingerprint == public.fingerprint
    assert facts["suite"] == public.receiving.suite == suite
    assert (tmp_path / "hospital-a.identity").stat().st_mode & 0o777 == 0o600
    for file in ("hospital-a.identity", "hospital-a.public.json"):
        assert json.loads(run(f"keys show {file} --json")[1])["fingerprint"] == identity.fingerprint
    secret = identity.signing_key.to_bytes().hex()
    assert secret not in (tmp_path / "hospital-a.public.json").read_text()
    assert secret not in out


@pytest.mark.parametrize(
    ("line", "bits", "per_value", "security"),
    [
        ("plan --sites 31 --bits 16", [19, 24, 24], 3.002, 131),
        ("plan --sites 100 --bits 16", [22, 30], 3.752, 180),
        ("plan --sites 8 --bits 8", [17, 24, 25], 1.533, 131),
        ("plan --sites 40 --bits 24", [22, 17, 18], 4.377, 131),
        ("plan --sites 31 --bits 16 --codec ckks", [40], 20.001, 137),
    ],
)
def test_plan_shows_what_it_would_choose(run, line, bits, per_value, security):
    code, out, _ = run(line + " --json")
    facts = json.loads(out)
    assert code == 0
    assert [section["bits"] for section in facts["sections"]] == bits
    assert facts["bytes_per_value"] == per_value
    assert facts["security_bits"] == security
    assert facts["failure_log2"] is None or facts["failure_log2"] < -128
    text = run(line)[1]
    for figure in (str(per_value), str(security), facts["profile"], "why"):
        assert figure in text
    for fact in ("why", "security_source"):
        assert facts[fact] in " ".join(text.split())
    for cost in facts["costs"]:
        ((in_bits, in_bytes),) = re.findall(rf"{cost['what']} +([\d.]+) +([\d.]+)\n", text)
        assert float(in_bits) == cost["bits_per_value"]
        assert float(in_bytes) == pytest.approx(cost["bits_per_value"] / 8, abs=1e-3)


def test_plans_say_how_keys_travel_and_how_secure_that_is(run):
    for keys, meant in (("split", "reads no update"), ("shared", "reads all")):
        assert run(f"{PLAN_NEW} --keys {keys} --out {keys}.plan")[0] == 0
        facts = json.loads(run(f"plan show {keys}.plan --json")[1])
        assert facts["keys"] == keys
        assert facts["security_bits"] >= 128
        text = " ".join(run(f"plan show {keys}.plan")[1].split())
        chosen = " ".join(run(f"plan --sites 5 --keys {keys}")[1].split())
        for told in (text, chosen):
            assert meant in told
            assert "even if all sites but two give theirs away" in told
        assert ("CKKS ciphertext" in chosen) == (keys == "shared")
    assert "3 to 1559 sites" in run("plan --sites 2 --keys split")[2]


def test_plan_alone_shows_its_help_and_commands(run):
    code, out, _ = run("plan")
    assert code == 0
    assert "--sites" in out
    assert "show" in out


@pytest.mark.parametrize(
    ("line", "code", "error", "hint"),
    [
        ("plan --sites 0", 2, "'--sites': expected a whole number from 2 to 10,000, got 0", "he-agg plan --help"),
        ("plan --sites many", 2, "expected a whole number from 2 to 10,000, got many", "he-agg plan --help"),
        ("plan --sites 3 --bits 40", 2, "'--bits': expected a whole number from 2 to 24, got 40", "he-agg plan --help"),
        ("plan --bits 8", 2, "say how many sites can take part", "he-agg plan --help"),
        ("plan --sites 9999 --bits 24 --codec ckks", 1, "no profile holds the sum", "fewer value bits"),
        ("roster new demo a --threshold 0", 2, "expected a whole number of 1 at least, got 0", "he-agg roster new"),
        ("plan new demo", 2, "Missing option", "he-agg plan new --help"),
        (PLAN_NEW.replace("0.5", "0"), 1, "clip bound", ""),
        (PLAN_NEW.replace("demo", "Demo"), 1, "a-z, 0-9", ""),
        (PLAN_NEW.replace("model.npz", "none.npz"), 4, "got none [file-missing]", ""),
        (PLAN_NEW.replace("model.npz", "text.npz"), 4, "expected an NPZ file of plain arrays", "numpy.savez"),
        ("roster verify model.npz", 4, "model.npz is not a roster", "fetch it again"),
        ("plan show model.npz", 4, "not a usable plan file", "he-agg plan new"),
        ("epoch new --plan none.plan --roster r --identity i", 4, "cannot be read", ""),
        ("keys show model.npz", 4, "mode 0600", "chmod 600"),
        ("site init Hospital", 1, "a-z, 0-9", ""),
        ("nonsense", 2, "No such command 'nonsense'", "he-agg --help"),
    ],
)
def test_wrong_input_gets_one_line_a_hint_and_a_stable_code(run, tmp_path, line, code, error, hint):
    (tmp_path / "text.npz").write_text("no archive")
    before = sorted(tmp_path.iterdir())
    got, out, err = run(line)
    assert got == code
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("he-agg: error: ")
    assert error in lines[0]
    assert not hint or (lines[1].startswith("he-agg: hint: ") and hint in lines[1])
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before, "a refused command leaves nothing behind"


def test_nothing_is_overwritten(run, tmp_path):
    assert run(PLAN_NEW)[0] == 0
    assert run("site init hospital-a")[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for line in (
        PLAN_NEW,
        "site init hospital-a",
        "site init hospital-a --out other",
        "site init b --out x --public x",
    ):
        code, _, err = run(line)
        assert code == 4
        assert "file-exists" in err or "expected different files" in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_weight_cap_that_leaves_nothing_gets_a_sentence(run):
    code, _, error = run(PLAN_NEW.replace("--weight-cap 100", "--weight-cap 1000000000000"))
    assert code == 0
    assert error.startswith("weight cap 1000000000000: of a site with 10000 samples, 0 of 15 bits would be left")
    assert "take the number of samples of the largest site" in error
    assert run(PLAN_NEW.replace("demo", "other"))[2] == ""


def test_a_secret_given_for_a_document_is_called_one(run):
    for name in ("hospital-a", "hospital-b"):
        run(f"site init {name}")
    members = "--coordinator hospital-b.public.json --aggregator hospital-b.public.json"
    code, _, err = run(f"roster new demo --site hospital-a.identity {members}")
    assert (code, "hospital-a.identity is or holds a secret key" in err) == (4, True)
    assert "its public half is in hospital-a.public.json" in err
    code, _, err = run("roster verify hospital-a.identity")
    assert (code, "secret-refused" in err) == (4, True)


def test_a_roster_of_one_is_told_what_is_missing(run, tmp_path):
    for name in ("hospital-a", "agg"):
        run(f"site init {name}")
    line = "roster new demo --site hospital-a.public.json --coordinator hospital-a.public.json"
    code, _, err = run(f"{line} --aggregator agg.public.json")
    assert (code, "expected a roster of at least 3 sites, got one of 1 site" in err) == (1, True)
