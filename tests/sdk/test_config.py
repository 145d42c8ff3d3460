"""Settings: files, keyword arguments, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from client_sdk import ConfigError, KeystoreError, Reason, Settings, Site
from keys import GroupKey, SiteIdentity, write_secret_text
from tests.sdk.world import small_plan

GOOD = """
url = "http://127.0.0.1:1"
identity = "a.identity"
keystore = "keys/group.keystore"
token_file = "/secrets/token"
spool = "~/spool"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hospital-a.toml"
    path.write_text(text)
    return path


@pytest.fixture
def files(tmp_path):
    """Everything that a site needs, as keyword arguments."""
    SiteIdentity.create("a").save(tmp_path / "a.identity")
    GroupKey.create(small_plan()).save(tmp_path / "group.keystore")
    write_secret_text(tmp_path / "token", "secret-token")
    return {
        "url": "http://127.0.0.1:1",
        "identity": tmp_path / "a.identity",
        "keystore": tmp_path / "group.keystore",
        "token_file": tmp_path / "token",
        "spool": tmp_path / "spool",
    }


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/a")
    settings = Settings.load(write(tmp_path, GOOD + "patience_s = 5\n"), {})
    assert settings.identity == tmp_path / "a.identity"
    assert settings.keystore == tmp_path / "keys" / "group.keystore"
    assert settings.token_file == Path("/secrets/token")
    assert settings.spool == Path("/home/a/spool")
    assert (settings.patience_s, settings.result_s, settings.ca_file) == (5.0, 3600.0, None)


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
            "known settings: url, identity, keystore, token_file, spool",
        ),
        (GOOD + 'b = 1\na = "x"\n', "unknown settings a, b", "known settings"),
        (GOOD + "[site]\nurl = 1\n", "unknown setting site", "known settings"),
        (GOOD.replace("keystore", "# keystore"), "missing: keystore", 'url = "..."'),
        ("", "missing: url, identity, keystore, token_file", 'url = "..."'),
        (GOOD + "patience_s = -1\n", "patience_s: expected seconds from 0 to a year, got -1", ""),
        (GOOD + "patience_s = nan\n", "patience_s: expected seconds", ""),
        (GOOD + "patience_s = true\n", "patience_s: expected seconds", ""),
        (GOOD + 'result_s = "1h"\n', "result_s: expected seconds from 0 to a year, got '1h'", ""),
        (GOOD.replace('"a.identity"', "3"), "identity: expected a path, got int", ""),
        (GOOD.replace('"a.identity"', '""'), "identity: expected a path", ""),
        (GOOD.replace('"http://127.0.0.1:1"', "3"), "url: expected text, got int", ""),
        ("url: http://x", "expected a TOML file, got something else", 'url = "https://..."'),
    ],
)
def test_wrong_file(tmp_path, text, expected, hint):
    with pytest.raises(ConfigError) as caught:
        Settings.load(write(tmp_path, text), {})
    assert expected in caught.value.message
    assert hint in caught.value.hint
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
        Site.open(**files, tokenfile="x")


def test_open_sends_nothing_and_tells_who_it_is(files):
    with Site.open(**files) as site:
        assert (site.name, site.federation, site.plan.public.min_sites) == ("a", "test", 2)
        assert repr(site) == "Site('a', federation='test')"
        assert site.pending() == []


@pytest.mark.parametrize("which", ["identity", "keystore", "token_file"])
def test_secret_file_that_others_may_read(files, which):
    files[which].chmod(0o644)
    with pytest.raises(KeystoreError, match="expected mode 0600, got 0644") as caught:
        Site.open(**files)
    assert caught.value.reason == Reason.UNSAFE_PERMISSIONS
    assert caught.value.hint


@pytest.mark.parametrize("which", ["identity", "keystore", "token_file"])
def test_secret_file_that_is_missing(files, which):
    files[which].unlink()
    with pytest.raises(KeystoreError, match="got none") as caught:
        Site.open(**files)
    assert caught.value.reason == Reason.FILE_MISSING


def test_keystore_and_identity_mixed_up(files):
    files["identity"], files["keystore"] = files["keystore"], files["identity"]
    with pytest.raises(KeystoreError, match="expected an identity"):
        Site.open(**files)


def test_token_of_several_words(files, tmp_path):
    write_secret_text(tmp_path / "words", "Bearer abc")
    with pytest.raises(KeystoreError, match="expected one token, got several words"):
        Site.open(**files | {"token_file": tmp_path / "words"})


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
