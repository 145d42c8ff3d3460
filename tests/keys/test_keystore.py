"""Keystore and identity files: who may read them, what changes them, and what they give away."""

from __future__ import annotations

import json
import os
import pickle

import pytest

from he_agg.errors import HeAggError, KeystoreError, Reason
from keys import GroupKey, Identity, read_secret_text, write_secret_text
from tests.support.federation import key_of, plan_of
from tests.support.owners import somebody_elses

PLAN = plan_of(5)
KEY = key_of(PLAN)
IDENTITY = Identity.create("hospital-a")

FILES = {
    "group key": (KEY.save, GroupKey.load),
    "identity": (IDENTITY.save, Identity.load),
    "token": (lambda path: write_secret_text(path, "token-of-hospital-a"), read_secret_text),
}


@pytest.fixture(params=FILES)
def file(request, tmp_path):
    save, load = FILES[request.param]
    path = tmp_path / "secret"
    save(path)
    return path, save, load


def refused(load, *arguments):
    with pytest.raises(KeystoreError) as caught:
        load(*arguments)
    return caught.value.reason


def test_round_trip(tmp_path):
    KEY.save(tmp_path / "k")
    again = GroupKey.load(tmp_path / "k")
    assert again == KEY
    assert (again.key_id, again.plan_id) == (KEY.key_id, PLAN.plan_id)
    IDENTITY.save(tmp_path / "i")
    assert Identity.load(tmp_path / "i").signing_key.public_key == IDENTITY.signing_key.public_key
    assert Identity.load(tmp_path / "i").fingerprint == IDENTITY.fingerprint


def test_written_for_the_owner_only_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        KEY.save(tmp_path / "k")
    finally:
        os.umask(old)
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["k"], "no temporary file is left"


def test_never_written_over_another(file):
    path, save, _ = file
    before = path.read_bytes()
    assert refused(save, path) == Reason.FILE_EXISTS
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666, 0o777, 0o610])
def test_looser_permissions_are_refused(file, mode):
    path, _, load = file
    path.chmod(mode)
    assert refused(load, path) == Reason.UNSAFE_PERMISSIONS


def test_a_symbolic_link_to_a_safe_file_is_followed(file):
    """As Kubernetes mounts secrets: a link to a file over a link to a directory. What it leads to is what counts."""
    path, _, load = file
    mount = path.parent / "mount"
    (mount / "..2026_11_28").mkdir(parents=True)
    target = path.rename(mount / "..2026_11_28" / "secret")
    (mount / "..data").symlink_to("..2026_11_28")
    link = mount / "secret"
    link.symlink_to("..data/secret")
    load(link)
    target.chmod(0o640)
    assert refused(load, link) == Reason.UNSAFE_PERMISSIONS
    link.unlink()
    link.symlink_to("secret")
    assert refused(load, link) == Reason.UNSAFE_PERMISSIONS  # round in a circle
    link.unlink()
    link.symlink_to("nowhere")
    assert refused(load, link) == Reason.FILE_MISSING


def test_another_owner_is_refused(file, monkeypatch):
    path, _, load = file
    somebody_elses(path, monkeypatch)
    assert refused(load, path) == Reason.UNSAFE_PERMISSIONS


def test_a_missing_file_and_a_directory_are_refused(file, tmp_path):
    _, _, load = file
    assert refused(load, tmp_path / "nothing") == Reason.FILE_MISSING
    (tmp_path / "dir").mkdir(mode=0o700)
    with pytest.raises(KeystoreError):
        load(tmp_path / "dir")


@pytest.mark.parametrize("kind", ["group key", "identity"])
def test_any_truncation_and_any_other_file_is_refused(kind, tmp_path):
    save, load = FILES[kind]
    save(tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    contents = [good[:n] for n in {0, 1, 10, len(good) // 2, len(good) - 1}] + [good + b" ", b"\xff" * 50, b"{}", b"[]"]
    contents += [b"[" * 10**5, b'{"v":' * 10**5, good.replace(b'"v":', b'"v":1' + b"0" * 9000), b"1" * 9000]
    for i, content in enumerate(contents):
        path = tmp_path / f"bad-{i}"
        path.write_bytes(content)
        path.chmod(0o600)
        assert refused(load, path) == Reason.KEYSTORE_CORRUPT


def test_an_identity_is_no_group_key_and_the_reverse(tmp_path):
    KEY.save(tmp_path / "k")
    IDENTITY.save(tmp_path / "i")
    assert refused(GroupKey.load, tmp_path / "i") == Reason.KEYSTORE_CORRUPT
    assert refused(Identity.load, tmp_path / "k") == Reason.KEYSTORE_CORRUPT


@pytest.mark.parametrize("name", ["key_id", "plan_id", "federation", "epoch"])
def test_a_header_that_names_another_key_or_plan_is_refused(name, tmp_path):
    KEY.save(tmp_path / "k")
    document = json.loads((tmp_path / "k").read_bytes())
    value = document["header"][name]
    document["header"][name] = value + 1 if isinstance(value, int) else ("0" if value[0] != "0" else "1") + value[1:]
    (tmp_path / "k").write_text(json.dumps(document, sort_keys=True, separators=(",", ":")))
    assert refused(GroupKey.load, tmp_path / "k") == Reason.KEY_MISMATCH


def test_key_ids_differ_by_key_epoch_and_plan():
    other = plan_of(6)
    same_secret = GroupKey(other, 1, KEY.key_material, KEY.mac_seed)
    later = GroupKey(PLAN, 2, KEY.key_material, KEY.mac_seed)
    assert len({KEY.key_id, GroupKey.create(PLAN).key_id, same_secret.key_id, later.key_id}) == 4


def test_a_passphrase_protects_the_file(tmp_path):
    path = tmp_path / "k"
    KEY.save(path, "correct horse")
    assert GroupKey.load(path, "correct horse") == KEY
    assert GroupKey.load(path, lambda: "correct horse") == KEY
    assert refused(GroupKey.load, path) == Reason.WRONG_PASSPHRASE
    assert refused(GroupKey.load, path, "wrong") == Reason.WRONG_PASSPHRASE
    assert KEY.mac_seed.hex().encode() not in path.read_bytes()
    # The header is bound to the body: a changed one is not merely noticed, it does not open.
    path.write_bytes(path.read_bytes().replace(b'"epoch":1', b'"epoch":2'))
    assert refused(GroupKey.load, path, "correct horse") == Reason.WRONG_PASSPHRASE


def test_a_passphrase_is_not_asked_for_without_need(tmp_path):
    KEY.save(tmp_path / "k")
    assert GroupKey.load(tmp_path / "k", lambda: pytest.fail("asked")) == KEY


def test_nothing_secret_is_in_a_repr_or_an_error(tmp_path):
    for text in (repr(KEY), str(KEY), repr(IDENTITY)):
        assert KEY.mac_seed.hex() not in text
        assert repr(KEY.key_material[:8])[2:-1] not in text
        assert IDENTITY.signing_key.to_bytes().hex() not in text
    (tmp_path / "t").write_text("two\nlines-of-secret")
    (tmp_path / "t").chmod(0o600)
    with pytest.raises(KeystoreError) as caught:
        read_secret_text(tmp_path / "t")
    assert "secret" not in str(caught.value).replace(str(tmp_path), "")


def test_errors_survive_pickling():
    error = KeystoreError(Reason.KEY_MISMATCH, "message", "hint")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.reason, again.message, again.hint) == (
        KeystoreError,
        Reason.KEY_MISMATCH,
        "message",
        "hint",
    )
    assert isinstance(again, HeAggError)
