"""Settings: files, keyword arguments, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from client_sdk import Settings, Site
from he_agg import ConfigError, KeystoreError, Reason
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from keys import GroupKey, Identity, write_secret_text
from tests.support.flows import AGGREGATOR_KEY, CONSORTIUM, small_plan
from tests.support.trust import COORDINATOR, consortium, identity_of

GOOD = """
url = "http://127.0.0.1:1"
identity = "a.identity"
keystore = "keys/group.keystore"
roster = "/pins/roster.json"
spool = "~/spool"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hospital-a.toml"
    path.write_text(text)
    return path


@pytest.fixture
def files(tmp_path):
    """Everything that a site needs, as keyword arguments."""
    identity_of("a").save(tmp_path / "a.identity")
    GroupKey.create(small_plan()).save(tmp_path / "group.keystore")
    (tmp_path / "roster.json").write_bytes(CONSORTIUM.roster.encode())
    return {
        "url": "http://127.0.0.1:1",
        "identity": tmp_path / "a.identity",
        "keystore": tmp_path / "group.keystore",
        "roster": tmp_path / "roster.json",
        "spool": tmp_path / "spool",
    }


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/a")
    settings = Settings.load(write(tmp_path, GOOD + "patience_s = 5\nleast_bytes_per_s = 1000\n"), {})
    assert settings.identity == tmp_path / "a.identity"
    assert settings.keystore == tmp_path / "keys" / "group.keystore"
    assert settings.roster == Path("/pins/roster.json")
    assert settings.security_log == tmp_path / "a.security.log"
    assert settings.min_sites == 1
    assert settings.spool == Path("/home/a/spool")
    assert (settings.patience_s, settings.result_s, settings.ca_file) == (5.0, 3600.0, None)
    assert (settings.request_s, settings.least_bytes_per_s, settings.pause_s) == (60.0, 1000, 7 * 86400.0)


def test_the_spool_lies_beside_the_identity_unless_told_otherwise(tmp_path):
    text = GOOD.replace('spool = "~/spool"', "")
    assert Settings.load(write(tmp_path, text), {}).spool == tmp_path / "a.spool"


def test_keyword_arguments_win_over_the_file(tmp_path):
    settings = Settings.load(write(tmp_path, GOOD), {"url": "https://other", "spool": "here", "ca_file": None})
    assert (settings.url, settings.spool) == ("https://other", Path("here"))


@pytest.mark.parametrize(
    ("text", "expected", "hint"),
    [
        (
            GOOD + 'uri = "x"\n',
            "unknown setting uri",
            "known settings: url, identity, keystore, roster, spool",
        ),
        (GOOD + 'b = 1\na = "x"\n', "unknown settings a, b", "known settings"),
        (GOOD + "[site]\nurl = 1\n", "unknown setting site", "known settings"),
        (GOOD.replace("keystore", "# keystore"), "missing: keystore", 'url = "..."'),
        ("", "missing: url, identity, keystore, roster", 'url = "..."'),
        (GOOD + "patience_s = -1\n", "patience_s: expected seconds from 0 to a year, got -1", ""),
        (GOOD + "patience_s = nan\n", "patience_s: expected seconds", ""),
        (GOOD + "patience_s = true\n", "patience_s: expected seconds", ""),
        (GOOD + 'result_s = "1h"\n', "result_s: expected seconds from 0 to a year, got '1h'", ""),
        (GOOD + "min_sites = 0\n", "min_sites: expected a number from 1 to 10000, got 0", ""),
        (GOOD + "min_sites = 2.5\n", "min_sites: expected a number from 1 to 10000, got 2.5", ""),
        (GOOD + "min_sites = true\n", "min_sites: expected a number", ""),
        (GOOD + 'token_file = "token"\n', "unknown setting token_file", "known settings"),
        (GOOD.replace('"a.identity"', "3"), "identity: expected a path, got int", ""),
        (GOOD.replace('"a.identity"', '""'), "identity: expected a path", ""),
        (GOOD.replace('"http://127.0.0.1:1"', "3"), "url: expected text, got int", ""),
        (GOOD + "min_sites = 1" + "0" * 400 + "\n", "min_sites: expected a number from 1 to 10000, got 1000", ""),
        (GOOD + "patience_s = 1" + "0" * 400 + "\n", "patience_s: expected seconds from 0 to a year, got 1000", ""),
        (GOOD + "patience_s = 1" + "0" * 9000 + "\n", "expected a TOML file", ""),
        (GOOD + "patience_s = " + "[" * 9000 + "]" * 9000 + "\n", "expected a TOML file", ""),
        (GOOD + "# " + "x" * 70_000 + "\n", "expected a TOML file, got something else: more than 65536 bytes", ""),
        (GOOD + "least_bytes_per_s = 0\n", "least_bytes_per_s: expected a number from 1 to", ""),
        (GOOD + "request_s = -1\n", "request_s: expected seconds", ""),
        ("url: http://x", "expected a TOML file, got something else", 'url = "https://..."'),
    ],
)
def test_wrong_file(tmp_path, text, expected, hint):
    with pytest.raises(ConfigError) as caught:
        Settings.load(write(tmp_path, text), {})
    assert expected in caught.value.message
    assert hint in caught.value.hint
    assert len(caught.value.message) < 1000
    assert "hospital-a.toml" in caught.value.message


def test_file_that_is_not_text(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="expected a TOML file"):
        Settings.load(path, {})


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_file_that_is_not_there(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        Settings.load(tmp_path / name, {})
    assert caught.value.reason == Reason.FILE_MISSING


def test_unknown_keyword_argument(files):
    with pytest.raises(ConfigError, match="keyword arguments: unknown setting tokenfile"):
        Site.open(**files, tokenfile="x")  # type: ignore[call-arg]


def test_open_sends_nothing_and_tells_who_it_is(files):
    with Site.open(**files) as site:
        assert (site.name, site.federation, site.plan.public.min_sites) == ("a", "test", 2)
        assert repr(site) == "Site('a', federation='test')"
        assert site.pending() == []


@pytest.mark.parametrize("which", ["identity", "keystore"])
def test_secret_file_that_others_may_read(files, which):
    files[which].chmod(0o644)
    with pytest.raises(KeystoreError, match="expected mode 0600, got 0644") as caught:
        Site.open(**files)
    assert caught.value.reason == Reason.UNSAFE_PERMISSIONS
    assert caught.value.hint


@pytest.mark.parametrize("which", ["identity", "keystore"])
def test_secret_file_that_is_missing(files, which):
    files[which].unlink()
    with pytest.raises(KeystoreError, match="got none") as caught:
        Site.open(**files)
    assert caught.value.reason == Reason.FILE_MISSING


def test_keystore_and_identity_mixed_up(files):
    files["identity"], files["keystore"] = files["keystore"], files["identity"]
    with pytest.raises(KeystoreError, match="expected an identity"):
        Site.open(**files)


def refuse(files, match, reason):
    with pytest.raises((ConfigError, KeystoreError), match=match) as caught:
        Site.open(**files)
    assert caught.value.reason == reason


def test_roster_that_is_none(files):
    Site.open(**files).close()
    files["roster"].write_bytes(CONSORTIUM.roster.encode()[:-9])
    refuse(files, r"roster\.json is not a roster: ", Reason.BAD_FIELD)
    files["roster"].unlink()
    refuse(files, "expected the accepted roster, got none", Reason.FILE_MISSING)


def test_roster_that_no_coordinator_has_signed(files):
    document = CONSORTIUM.roster
    key = identity_of("b").signing_key
    for signatures in ({}, {"b": key.sign(b"x")}, {COORDINATOR: key.sign(b"x")}):
        files["roster"].write_bytes(Signed(document.body, signatures).encode())
        refuse(files, "expected the signatures of 1 coordinator of", Reason.BAD_SIGNATURE)
    files["roster"].write_bytes(CONSORTIUM.roster.encode())
    Site.open(**files).close()


def test_roster_that_everybody_may_change(files):
    for mode in (0o646, 0o664):
        files["roster"].chmod(mode)
        refuse(files, f"that only this user and root may change, got mode 0{mode:o}", Reason.UNSAFE_PERMISSIONS)
    files["roster"].chmod(0o644)
    Site.open(**files).close()


def test_roster_of_another_federation(files):
    files["roster"].write_bytes(consortium("other", ("a", "b"), AGGREGATOR_KEY).roster.encode())
    refuse(files, "expected that of federation test, which the keystore is for, got that of other", "roster-mismatch")


def test_roster_without_this_site_or_with_another_key_for_it(files, tmp_path):
    Identity.create("a").save(tmp_path / "stranger")
    refuse(files | {"identity": tmp_path / "stranger"}, "lists the key with fingerprint", Reason.KEY_MISMATCH)
    Identity.create("d").save(tmp_path / "d")
    refuse(files | {"identity": tmp_path / "d"}, "site d is not among the sites of version 1", Reason.UNKNOWN_SITE)
    identity_of(COORDINATOR).save(tmp_path / "coordinator")
    assert CONSORTIUM.roster.body.members[COORDINATOR].roles == {Role.COORDINATOR}
    refuse(files | {"identity": tmp_path / "coordinator"}, "is not among the sites", Reason.UNKNOWN_SITE)


def test_security_log_that_cannot_be_written(files, tmp_path):
    refuse(files | {"security_log": tmp_path / "no" / "log"}, "security_log .* cannot be written", Reason.BAD_CONFIG)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    refuse(files | {"security_log": tmp_path / "link"}, "security_log .* cannot be written", Reason.BAD_CONFIG)


def test_security_log_is_for_its_owner_only(files, tmp_path):
    (tmp_path / "a.security.log").touch(0o644)
    Site.open(**files).close()
    assert (tmp_path / "a.security.log").stat().st_mode & 0o777 == 0o600


def test_nothing_secret_is_in_any_repr(files):
    with Site.open(**files) as site:
        session = site._session
        text = " ".join(map(repr, (site, session, session.identity, session.key, session.signer, session.rosters)))
    for secret in (
        session.identity.signing_key.to_bytes(),
        session.identity.receiving_key.to_bytes(),
        session.key.mac_seed,
        session.key.mac_key,
    ):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text
    assert "Ed25519" not in text


def test_passphrase_from_a_file_wins_over_a_prompt(files, tmp_path):
    GroupKey.create(small_plan()).save(tmp_path / "locked.keystore", "correct horse")
    write_secret_text(tmp_path / "pass", "correct horse")
    files["keystore"] = tmp_path / "locked.keystore"
    with Site.open(**files, passphrase_file=tmp_path / "pass", passphrase=lambda: pytest.fail("asked")) as site:
        assert site.federation == "test"
    with Site.open(**files, passphrase="correct horse") as site:
        assert site.federation == "test"
    with pytest.raises(KeystoreError) as caught:
        Site.open(**files, passphrase="wrong")
    assert caught.value.reason == Reason.WRONG_PASSPHRASE
