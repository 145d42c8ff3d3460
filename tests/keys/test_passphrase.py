"""Where passphrases come from, and that they go nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pytest

from client_sdk import Site
from he_agg.errors import ConfigError, KeystoreError, Reason
from he_agg.host.commands import main
from keys import Identity
from keys.cli.options import PassphraseOptions, new_passphrase
from keys.passphrase import Once, from_descriptor, from_keyring
from tests.keys.dealing import site, world

SECRET = "correct horse battery"


@pytest.fixture
def pipe():
    """A descriptor that holds some bytes."""
    opened = []

    def make(data):
        reading, writing = os.pipe()
        opened.append(reading)
        os.write(writing, data)
        os.close(writing)
        return reading

    yield make
    for descriptor in opened:
        os.close(descriptor)


@pytest.fixture
def keyring(monkeypatch):
    """The operating system's keyring, with one entry."""
    module = ModuleType("keyring")
    vars(module)["get_password"] = lambda service, name: {("he-agg", "hospital-a"): SECRET}.get((service, name))
    monkeypatch.setitem(sys.modules, "keyring", module)
    return module


@pytest.mark.parametrize(
    "data", [b"correct horse battery\n", b"correct horse battery", b"correct horse battery\r\nmore"]
)
def test_the_first_line_of_a_descriptor(pipe, data):
    assert from_descriptor(pipe(data)) == SECRET


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\xfe\n", b"x" * 3000])
def test_a_descriptor_without_a_passphrase_is_refused_and_not_shown(pipe, data):
    with pytest.raises(KeystoreError) as caught:
        from_descriptor(pipe(data))
    assert caught.value.reason == Reason.WRONG_PASSPHRASE
    assert "xxx" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert from_descriptor(pipe(SECRET.encode())) == SECRET


def test_a_closed_descriptor_is_refused():
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with pytest.raises(KeystoreError, match="cannot be read"):
        from_descriptor(reading)


def test_the_keyring_of_the_operating_system(keyring):
    assert from_keyring("hospital-a") == SECRET
    with pytest.raises(KeystoreError) as caught:
        from_keyring("hospital-b")
    assert "keyring set he-agg hospital-b" in caught.value.hint

    def broken(service, name):
        raise RuntimeError(f"backend says {SECRET}")

    keyring.get_password = broken
    with pytest.raises(KeystoreError) as caught:
        from_keyring("hospital-a")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_the_extra_the_keyring_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        from_keyring("hospital-a")
    assert "he-agg[keyring]" in caught.value.hint


def test_it_is_asked_for_once_and_not_shown():
    asked = []
    source = Once(lambda: asked.append(1) or SECRET)
    assert source.answer is None
    assert [source(), source(), source.answer] == [SECRET] * 3
    assert len(asked) == 1
    assert SECRET not in repr(source)


def test_two_places_at_once_are_refused(pipe, keyring):
    with pytest.raises(ConfigError, match="got both"):
        PassphraseOptions(0, "hospital-a").source()
    with pytest.raises(ConfigError, match="got both"):
        new_passphrase(False, PassphraseOptions(None, "hospital-a"))
    assert PassphraseOptions(None, "hospital-a").source()() == SECRET


def test_a_new_file_gets_one_where_there_is_a_terminal_or_a_place(monkeypatch, keyring, pipe, capsys):
    assert new_passphrase(None, PassphraseOptions(None, "hospital-a")) == SECRET
    assert new_passphrase(None, PassphraseOptions(pipe(SECRET.encode()), None)) == SECRET
    # Unattended: nothing blocks, and it is said.
    assert new_passphrase(None, PassphraseOptions(None, None)) is None
    assert "whoever can read the file can use it" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda _: SECRET)
    assert new_passphrase(None, PassphraseOptions(None, None)) == SECRET
    assert new_passphrase(False, PassphraseOptions(None, None)) is None
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda _: "")
    assert new_passphrase(None, PassphraseOptions(None, None)) is None


def test_commands_take_it_from_a_descriptor_and_never_from_an_argument(tmp_path, pipe, capsys):
    path = tmp_path / "a.identity"
    line = ["site", "init", "hospital-a", "--out", str(path), "--public", str(tmp_path / "p")]
    with pytest.raises(SystemExit) as caught:
        main([*line, "--passphrase-fd", str(pipe(SECRET.encode()))])
    assert caught.value.code == 0
    assert Identity.load(path, SECRET).name == "hospital-a"
    with pytest.raises(KeystoreError) as refused:
        Identity.load(path, "wrong")
    assert refused.value.reason == Reason.WRONG_PASSPHRASE
    out, err = capsys.readouterr()
    assert SECRET not in out + err + path.read_text()
    with pytest.raises(SystemExit) as caught:
        main([*line, "--passphrase", SECRET])
    assert caught.value.code == 2


def test_a_site_s_settings_can_name_an_entry_of_the_keyring(tmp_path, keyring):
    settings = {name: tmp_path / name for name in ("identity", "keystore", "roster")}
    settings |= {"url": "https://aggregator.example.org", "passphrase_keyring": "hospital-a"}
    world().key.save(settings["keystore"], SECRET)
    site("hospital-a").save(settings["identity"], SECRET)
    settings["roster"].write_bytes(world().roster.encode())
    with Site.open(**settings, passphrase=lambda: pytest.fail("asked")) as opened:
        assert opened.name == "hospital-a"
    with pytest.raises(KeystoreError, match="no entry 'nobody'"):
        Site.open(**settings | {"passphrase_keyring": "nobody"})
    with pytest.raises(ConfigError, match="got both"):
        Site.open(**settings, passphrase_file=tmp_path / "word")


def test_loading_keys_does_not_load_a_keyring():
    code = "import sys, keys, keys.cli.identity, keys.cli.epoch; print('keyring' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
