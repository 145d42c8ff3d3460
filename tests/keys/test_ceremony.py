"""The whole ceremony by files and commands, as docs/ceremony.md tells it: each hospital in a directory of its own."""

from __future__ import annotations

import numpy as np
import pytest

from he_agg.codecs import codec_for
from he_agg.documents.federation import FederationDocument
from he_agg.documents.roster import Roster
from he_agg.documents.signed import Signed
from he_agg.errors import DecryptionError, KeystoreError
from he_agg.ids import RoundId
from keys import GroupKey, Identity
from keys.public_file import read_public
from tests.keys.ceremony import found, sign, spread
from tests.keys.dealing import SITES
from tests.support.federation import by_number, fold_all, source

ROUND = RoundId("demo", 1, 1)


def submissions(key: GroupKey, n_sites: int):
    """One-hot vectors, encrypted: a site that is counted twice would show."""
    plan = key.plan.public
    vectors = np.eye(plan.values, dtype=np.int32)[:n_sites]
    return [by_number(codec_for(plan).encrypt(vector, key, ROUND)) for vector in vectors]


def opened(key: GroupKey, parts, n_sites: int):
    """What a key makes of a sum."""
    return codec_for(key.plan.public).decrypt(source(parts), n_sites, key, ROUND)


def test_founding(ceremony):
    found(ceremony)
    document = FederationDocument.parse((ceremony.root / "hospital-a" / "demo.federation.json").read_bytes())
    assert document == ceremony.key("hospital-d").federation_document
    total = fold_all(document.plan, [submissions(ceremony.key(name), 4)[i] for i, name in enumerate(SITES)])
    for name in SITES:
        assert opened(ceremony.key(name), total, 4).tolist() == [1, 1, 1, 1, *[0] * (document.plan.values - 4)]
    # Nothing secret was carried: hospital-a made the key, and nobody else's identity is there.
    at = {path.name for path in (ceremony.root / "hospital-a").iterdir()}
    assert {name for name in at if name.endswith(".identity")} == {"hospital-a.identity"}
    for path in (ceremony.root / "hospital-d").iterdir():
        secret = path.suffix in (".identity", ".keystore")
        assert path.stat().st_mode & 0o777 == (0o600 if secret else 0o644)


def test_verify_shows_everybody_and_its_exit_code_says_whether_it_is_valid(ceremony):
    found(ceremony)
    out = ceremony.run("hospital-d", f"roster verify roster.json {ceremony.heard(*SITES)}")
    for name in SITES:
        assert f"{name:<24} {ceremony.fingerprint(name)}" in out
    assert "signatures of coordinators: hospital-a, hospital-b (2 needed)" in out
    assert "valid until" in out
    wrong = ceremony.fingerprint("hospital-a").replace("a", "b").replace("1", "2").replace("f", "0")
    err = ceremony.run("hospital-d", f"roster verify roster.json --fingerprint hospital-a='{wrong}'", expect=1)
    assert "bad-signature" in err
    ceremony.run("hospital-a", "roster next roster.json --out next.json")
    err = ceremony.run("hospital-a", "roster verify next.json --previous roster.json", expect=1)
    assert "expected the signatures of 2 coordinators of version 1, got 0" in err
    sign(ceremony, "next.json", "--previous roster.json")
    assert ceremony.json("hospital-a", "roster verify next.json --previous roster.json")["valid"] is True


def test_a_hospital_joins_and_nobody_else_s_identity_is_touched(ceremony):
    found(ceremony)
    identities = {name: (ceremony.root / name / f"{name}.identity").read_bytes() for name in SITES}
    members = {name: read_public(ceremony.root / name / f"{name}.public.json") for name in SITES}
    ceremony.run("hospital-e", "site init hospital-e --suite x25519")
    ceremony.send("hospital-e.public.json", "hospital-e", "hospital-a")
    ceremony.run("hospital-a", "roster next roster.json --add site=hospital-e.public.json --out roster-2.json")
    sign(ceremony, "roster-2.json", "--previous roster.json")
    for name in (*SITES, "hospital-e"):
        ceremony.send("roster-2.json", "hospital-a", name)
        # Who has a roster follows the signatures; who is new compares fingerprints.
        heard = ceremony.heard("hospital-a", "hospital-b") if name == "hospital-e" else ""
        ceremony.run(name, f"roster accept roster-2.json --out roster.json {heard}")
    ceremony.run(
        "hospital-a",
        "epoch rotate --keystore demo.keystore --roster roster-2.json --identity hospital-a.identity",
    )
    spread(ceremony, 2, (*SITES, "hospital-e"))
    assert {name: (ceremony.root / name / f"{name}.identity").read_bytes() for name in SITES} == identities
    roster = Signed.parse(Roster, (ceremony.root / "hospital-e" / "roster.json").read_bytes()).body
    assert {name: roster.members[name].fingerprint for name in SITES} == {
        name: member.fingerprint for name, member in members.items()
    }


def test_a_revoked_hospital_gets_no_new_key_and_old_sums_still_open(ceremony):
    found(ceremony)
    old_key = ceremony.key("hospital-b")
    old = fold_all(old_key.plan.public, submissions(old_key, 4))
    expected = opened(old_key, old, 4).tolist()
    steps = ceremony.json("hospital-a", "site revoke roster.json hospital-d --out roster-2.json")["steps"]
    for word, step in zip(("sign", "publish", "rotate", "accept", "keeps"), steps, strict=True):
        assert word in step
    sign(ceremony, "roster-2.json", "--previous roster.json")
    stay = SITES[:3]
    for name in SITES:
        ceremony.send("roster-2.json", "hospital-a", name)
        before = (ceremony.root / name / "roster.json").read_bytes()
        ceremony.run(name, "roster accept roster-2.json --out roster.json")
        # Records of rounds that are under way still name the version before.
        assert (ceremony.root / name / "roster.json.versions" / "1.json").read_bytes() == before
    ceremony.run(
        "hospital-a", "epoch rotate --keystore demo.keystore --roster roster-2.json --identity hospital-a.identity"
    )
    spread(ceremony, 2, stay)
    # The revoked one has the bundle as well: it is public. It gets nothing out of it.
    ceremony.send("demo.epoch-2.bundle.json", "hospital-a", "hospital-d")
    line = "epoch accept demo.epoch-2.bundle.json --identity hospital-d.identity --roster {} --keystore demo.keystore"
    assert "no role site in version 2" in ceremony.run("hospital-d", line.format("roster.json"), expect=1)
    assert "accept the newer roster first" in ceremony.run("hospital-d", line.format("roster-1.json"), expect=1)
    assert ceremony.key("hospital-d").epoch == 1
    new_key = ceremony.key("hospital-b")
    assert new_key.epoch == 2
    new = fold_all(new_key.plan.public, submissions(new_key, 3))
    assert opened(new_key, new, 3).tolist() == [1, 1, 1, *[0] * (new_key.plan.public.values - 3)]
    with pytest.raises(DecryptionError):
        opened(ceremony.key("hospital-d"), new, 3)
    # The kept keystore of epoch 1 opens what was summed in epoch 1.
    assert opened(ceremony.key("hospital-b", "demo.keystore.epoch-1"), old, 4).tolist() == expected


def test_rotation_alone_and_what_is_not_newer_is_refused(ceremony):
    found(ceremony)
    for epoch in (2, 3):
        ceremony.run(
            "hospital-a", "epoch rotate --keystore demo.keystore --roster roster-1.json --identity hospital-a.identity"
        )
        spread(ceremony, epoch, SITES)
    accept = "epoch accept demo.epoch-{}.bundle.json --identity hospital-d.identity --roster roster.json"
    err = ceremony.run("hospital-d", accept.format(2) + " --keystore demo.keystore", expect=4)
    assert "epochs only go forward" in err
    ceremony.run("hospital-d", accept.format(3) + " --keystore demo.keystore")
    kept = sorted(path.name for path in (ceremony.root / "hospital-d").glob("demo.keystore*"))
    assert kept == ["demo.keystore", "demo.keystore.epoch-1", "demo.keystore.epoch-2"]
    # Any coordinator who has signed the roster may deal; one who has not signs first.
    rotate = "epoch rotate --keystore demo.keystore --roster roster-1.json --identity hospital-c.identity"
    assert "has not signed" in ceremony.run("hospital-c", rotate, expect=1)
    ceremony.run("hospital-c", "roster sign roster-1.json --identity hospital-c.identity")
    ceremony.run("hospital-c", rotate)
    ceremony.send("demo.epoch-4.bundle.json", "hospital-c", "hospital-d")
    ceremony.run("hospital-d", accept.format(4) + " --keystore demo.keystore")
    assert ceremony.key("hospital-d").key_id == ceremony.key("hospital-c").key_id


def test_a_rotation_that_cannot_be_stored_leaves_no_bundle(ceremony, monkeypatch):
    found(ceremony)
    at = ceremony.root / "hospital-a"
    GroupKey.create(ceremony.key("hospital-a").plan, 1).save(at / "demo.keystore.epoch-1")
    rotate = "epoch rotate --keystore demo.keystore --roster roster.json --identity hospital-a.identity"
    before = {path.name: path.read_bytes() for path in at.iterdir()}
    assert "file-exists" in ceremony.run("hospital-a", rotate, expect=4)
    assert {path.name: path.read_bytes() for path in at.iterdir()} == before
    (at / "demo.keystore.epoch-1").unlink()
    ceremony.run("hospital-a", rotate)
    spread(ceremony, 2, SITES)


def test_a_roster_is_rolled_neither_back_nor_over(ceremony):
    found(ceremony)
    ceremony.run("hospital-a", "roster next roster.json --out roster-2.json")
    ceremony.send("roster-2.json", "hospital-a", "hospital-d")
    accept = "roster accept {} --out roster.json"
    assert "expected the signatures of 2" in ceremony.run("hospital-d", accept.format("roster-2.json"), expect=1)
    sign(ceremony, "roster-2.json", "--previous roster.json")
    ceremony.send("roster-2.json", "hospital-a", "hospital-d")
    ceremony.run("hospital-a", "roster next roster-2.json --min-sites 3 --out roster-3.json")
    sign(ceremony, "roster-3.json", "--previous roster-2.json")
    ceremony.send("roster-3.json", "hospital-a", "hospital-d")
    assert "those between" in ceremony.run("hospital-d", accept.format("roster-3.json"), expect=1)
    before = (ceremony.root / "hospital-d" / "roster.json").read_bytes()
    assert before == (ceremony.root / "hospital-d" / "roster-1.json").read_bytes()
    ceremony.run("hospital-d", accept.format("roster-3.json roster-2.json"))
    for old in ("roster-1.json", "roster-2.json"):
        err = ceremony.run("hospital-d", accept.format(old), expect=1)
        assert "older than version 3" in err
    assert (ceremony.root / "hospital-d" / "roster.json").read_bytes() == (
        ceremony.root / "hospital-d" / "roster-3.json"
    ).read_bytes()
    ceremony.run("hospital-d", accept.format("roster-3.json"))


def test_the_first_roster_needs_a_person_or_fingerprints(ceremony, monkeypatch):
    found(ceremony)
    at = ceremony.root / "hospital-d"
    accept = "roster accept roster-1.json --out pin.json"
    assert "there is no terminal" in ceremony.run("hospital-d", accept, expect=1)
    one = ceremony.heard("hospital-a")
    assert "fingerprints of 2 coordinators, got 1" in ceremony.run("hospital-d", f"{accept} {one}", expect=1)
    assert not (at / "pin.json").exists()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers = iter(["n", "y"])
    shown = []
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: shown.append(prompt) or next(answers))
    assert "interrupted" in ceremony.run("hospital-d", accept, expect=130)
    assert not (at / "pin.json").exists()
    ceremony.run("hospital-d", accept)
    assert (at / "pin.json").read_bytes() == (at / "roster-1.json").read_bytes()
    assert len(shown) == 2


def test_nobody_phones_himself(ceremony):
    """What a coordinator's own identity says need not be read to it; and a site finds its own line compared."""
    found(ceremony)
    at = ceremony.root / "hospital-a"
    accept = "roster accept roster-1.json --out pin.json --identity {}.identity"
    other = ceremony.heard("hospital-b")
    assert "there is no terminal" in ceremony.run("hospital-a", accept.format("hospital-a"), expect=1)
    ceremony.run("hospital-a", f"{accept.format('hospital-a')} {other}")
    assert (at / "pin.json").read_bytes() == (at / "roster-1.json").read_bytes()
    # A site that does not coordinate needs two all the same, and hears if the list has another key as its own.
    err = ceremony.run("hospital-d", f"{accept.format('hospital-d')} {other}", expect=1)
    assert "fingerprints of 2 coordinators, got 1" in err
    Identity.create("hospital-d").save(ceremony.root / "hospital-d" / "mine.identity")
    err = ceremony.run("hospital-d", accept.format("mine"), expect=1)
    assert "fingerprint of hospital-d: the roster has" in err


def test_keystores_and_identities_of_other_sites_are_of_no_use(ceremony):
    found(ceremony)
    ceremony.run(
        "hospital-a", "epoch rotate --keystore demo.keystore --roster roster-1.json --identity hospital-a.identity"
    )
    ceremony.send("demo.epoch-2.bundle.json", "hospital-a", "hospital-b", "hospital-d")
    accept = "epoch accept demo.epoch-2.bundle.json --identity {} --roster roster.json --keystore demo.keystore"
    # Another federation's keystore in the place of one's own: it is neither used nor replaced.
    other = ceremony.root / "hospital-d" / "demo.keystore"
    mine = other.read_bytes()
    other.write_bytes(mine.replace(b'"epoch":1', b'"epoch":7'))
    assert "key-mismatch" in ceremony.run("hospital-d", accept.format("hospital-d.identity"), expect=4)
    other.write_bytes(mine)
    # An identity under another name, with its header changed to fit.
    identity = (ceremony.root / "hospital-b" / "hospital-b.identity").read_bytes()
    stolen = ceremony.root / "hospital-d" / "stolen.identity"
    stolen.write_bytes(identity.replace(b"hospital-b", b"hospital-d"))
    stolen.chmod(0o600)
    assert "the roster has other keys" in ceremony.run("hospital-d", accept.format("stolen.identity"), expect=1)
    stolen.chmod(0o640)
    assert "mode 0600" in ceremony.run("hospital-d", accept.format("stolen.identity"), expect=4)
    ceremony.run("hospital-d", accept.format("hospital-d.identity"))
    assert ceremony.key("hospital-d").epoch == 2


def test_passphrases_of_the_identity_protect_the_keystore_too(ceremony, tmp_path):
    found(ceremony)
    root = ceremony.root / "hospital-d"
    (root / "word").write_text("correct horse\n")
    identity = Identity.load(root / "hospital-d.identity")
    (root / "hospital-d.identity").unlink()
    identity.save(root / "hospital-d.identity", "correct horse")
    (root / "demo.keystore").unlink()
    accept = (
        "epoch accept demo.epoch-1.bundle.json --identity hospital-d.identity --roster roster.json "
        "--keystore demo.keystore"
    )
    assert "no terminal" in ceremony.run("hospital-d", accept, expect=4)
    with (root / "word").open() as word:
        ceremony.run("hospital-d", f"{accept} --passphrase-fd {word.fileno()}")
    with pytest.raises(KeystoreError):
        GroupKey.load(root / "demo.keystore")
    assert GroupKey.load(root / "demo.keystore", "correct horse").key_id == ceremony.key("hospital-a").key_id


WRONG = [
    ("roster new demo --site x.json --coordinator x.json --aggregator x.json", 4, "x.json cannot be read"),
    ("roster verify hospital-d.identity", 4, "is or holds a secret key"),
    ("roster verify demo.keystore", 4, "is or holds a secret key"),
    ("roster accept demo.epoch-1.bundle.json --out p", 4, "is not a roster"),
    ("roster next roster.json --add hospital-d.public.json", 1, "--add site=hospital-e.public.json"),
    ("roster next roster.json --remove hospital-x", 1, "hospital-a, hospital-b"),
    ("roster sign roster.json --identity hospital-d.identity", 1, "is not a coordinator"),
    ("roster verify roster.json --fingerprint hospital-a", 1, "NAME="),
    ("site revoke roster.json hospital-x", 1, "has no member hospital-x"),
    (
        "epoch accept roster.json --identity hospital-d.identity --roster roster.json --keystore k",
        4,
        "not the bundle",
    ),
    (
        "epoch accept demo.epoch-1.bundle.json --identity hospital-d.identity --roster none --keystore k",
        4,
        "he-agg roster accept FILE --out none",
    ),
    (
        "epoch rotate --keystore demo.keystore --roster roster.json --identity hospital-d.identity",
        1,
        "hospital-d has no role coordinator",
    ),
    ("keys check-commitments roster.json --roster roster.json --keystore demo.keystore", 4, "not a commitment"),
    (
        "keys check-commitments hospital-d.epoch-1.commitment.json --roster roster.json --keystore demo.keystore",
        1,
        "no commitment of hospital-a, hospital-b, hospital-c yet",
    ),
]


def test_wrong_input_gets_a_sentence_and_changes_nothing(ceremony):
    found(ceremony)
    at = ceremony.root / "hospital-d"
    before = {path.name: path.read_bytes() for path in at.iterdir()}
    for line, code, words in WRONG:
        err = ceremony.run("hospital-d", line, expect=code)
        assert words in err
        assert err.startswith("he-agg: error: ")
        assert {path.name: path.read_bytes() for path in at.iterdir()} == before
