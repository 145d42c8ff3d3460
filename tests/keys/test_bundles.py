"""Dealing and accepting a group key: every bundle that must not be accepted, and beside it the one that must."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from he_agg import canonical
from he_agg.documents.epoch import Commitment, EpochBundle
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.errors import HeAggError, InputError, KeystoreError, Reason, WireError
from he_agg.mac import SumCheck
from he_agg.signing import SigningKey
from keys import GroupKey, Identity
from keys.ceremony import deal
from keys.commitments import agreement, commit
from keys.self_test import self_test
from tests.keys.dealing import SITES, after, first, reencoded, signed, site, world
from tests.support.federation import plan_of

WORLD = world()
OTHER_PLAN = plan_of(6)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "test.keystore"


def refused(path, bundle, **options):
    """The reason for which a bundle is refused; nothing is written, and the honest one then passes."""
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(HeAggError) as caught:
        WORLD.accept(bundle, path, **options)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before, "a refused bundle leaves no trace"
    if not before:
        with TemporaryDirectory() as honest:
            assert WORLD.accept(WORLD.bundle, Path(honest) / "k", plan_id=options.get("plan_id")) == WORLD.key
    return caught.value.reason


@pytest.mark.parametrize("name", SITES)
def test_every_site_gets_the_same_key_whichever_suite_it_has(path, name):
    assert WORLD.accept(Signed.parse(EpochBundle, WORLD.bundle.encode()), path, name) == WORLD.key
    assert GroupKey.load(path) == WORLD.key
    assert {site(name).receiving_key.suite for name in SITES} == {"x25519", "mlkem768-x25519"}


def test_a_plan_with_holders_goes_with_a_roster_that_names_them():
    split = GroupKey.create(plan_of(codec="hybrid", keys="split", min_sites=3))
    holding = after(WORLD.roster, add=[(Role.HOLDER, site(name).member()) for name in SITES])
    assert deal(split, holding, site("hospital-a"), time.time()).body.roster == holding.body_digest
    for key, roster in ((split, WORLD.roster), (WORLD.key, holding)):
        with pytest.raises(InputError) as caught:
            deal(key, roster, site("hospital-a"), time.time())
        assert caught.value.reason == Reason.PLAN_MISMATCH


def test_again_gives_the_same_and_writes_nothing(path):
    WORLD.accept(WORLD.bundle, path)
    before, content = path.stat(), path.read_bytes()
    assert WORLD.accept(WORLD.bundle, path) == WORLD.key
    # Not when it was read: systems note that now and then.
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_nothing_of_the_key_is_in_a_bundle():
    text = WORLD.bundle.encode()
    assert WORLD.key.mac_seed.hex().encode() not in text
    for part in (WORLD.bundle.body.payload, *WORLD.bundle.body.sealed.values()):
        assert WORLD.key.mac_seed not in part
        assert WORLD.key.key_material[100:200] not in part
    assert WORLD.bundle.encode() != deal(WORLD.key, WORLD.roster, site("hospital-a"), time.time()).encode()


BODY = WORLD.bundle.body.to_json()


def changed(value):
    """Another value of the same form."""
    if isinstance(value, int):
        return value + 1
    if isinstance(value, dict):
        name = "hospital-d"
        return value | {name: changed(value[name])}
    middle = len(value) // 2
    return value[:middle] + ("b" if value[middle] != "b" else "c") + value[middle + 1 :]


@pytest.mark.parametrize("field", sorted(set(BODY) - {"v"}))
def test_a_field_that_somebody_changed_breaks_the_signature(path, field):
    bundle = reencoded(WORLD.bundle, BODY | {field: changed(BODY[field])})
    expected = Reason.ROSTER_MISMATCH if field in ("federation", "roster", "roster_version") else Reason.BAD_SIGNATURE
    assert refused(path, bundle) == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epoch": 2}, Reason.KEY_MISMATCH),
        ({"plan_id": "0" * 64}, Reason.KEY_MISMATCH),
        ({"key_id": "0" * 64}, Reason.KEY_MISMATCH),
        ({"dealer": "hospital-b"}, Reason.KEY_MISMATCH),
        ({"payload": WORLD.bundle.body.payload[:-1]}, Reason.KEY_MISMATCH),
        ({"payload": b""}, Reason.KEY_MISMATCH),
        ({"payload": WORLD.deal(2).body.payload}, Reason.KEY_MISMATCH),
        ({"sealed": WORLD.deal(2).body.sealed}, Reason.KEY_MISMATCH),
    ],
)
def test_what_is_sealed_opens_in_its_own_context_only_even_when_the_dealer_signs(path, changes, reason):
    signer = changes.get("dealer", "hospital-a")
    assert refused(path, WORLD.resigned(signer, **changes)) == reason


CONTEXT = {
    "label": "he-agg/epoch-key/v1",
    **{name: BODY[name] for name in ("federation", "epoch", "plan_id", "key_id", "roster", "dealer")},
    "site": "hospital-d",
}


@pytest.mark.parametrize("name", ["hospital-c", "hospital-d"])
def test_every_member_of_the_context_is_bound(name):
    sealed, key = WORLD.bundle.body.sealed[name], site(name).receiving_key
    context = CONTEXT | {"site": name}
    assert len(key.open(sealed, canonical.encode(context))) == 32
    for member, value in context.items():
        others = [{**context, member: value + 1 if isinstance(value, int) else value[:-1]}]
        others.append({other: context[other] for other in context if other != member})
        for other in others:
            with pytest.raises(KeystoreError):
                key.open(sealed, canonical.encode(other))


def test_sealed_keys_swapped_between_sites_do_not_open(path):
    sealed = dict(WORLD.bundle.body.sealed)
    sealed["hospital-b"], sealed["hospital-d"] = sealed["hospital-d"], sealed["hospital-b"]
    assert refused(path, WORLD.resigned(sealed=sealed)) == Reason.KEY_MISMATCH


@pytest.mark.parametrize("left_out", ["hospital-d", "hospital-b"])
def test_a_bundle_that_leaves_a_site_out_is_refused_by_all(path, left_out):
    sealed = {name: data for name, data in WORLD.bundle.body.sealed.items() if name != left_out}
    assert refused(path, WORLD.resigned(sealed=sealed)) == Reason.ROSTER_MISMATCH


def test_any_changed_byte_is_refused(path):
    good = WORLD.bundle.encode()
    for position in range(0, len(good), len(good) // 97):
        bad = bytearray(good)
        bad[position] ^= 1
        with pytest.raises(HeAggError):
            WORLD.accept(Signed.parse(EpochBundle, bytes(bad)), path)
    assert not path.exists()
    assert WORLD.accept(Signed.parse(EpochBundle, good), path) == WORLD.key


@pytest.mark.parametrize("dealer", ["hospital-d", "mallory"])
def test_only_a_coordinator_of_the_roster_deals(path, dealer):
    bundle = WORLD.resigned(dealer, dealer=dealer)
    assert refused(path, bundle) == Reason.BAD_SIGNATURE
    with pytest.raises(InputError) as caught:
        deal(WORLD.key, WORLD.roster, site(dealer), time.time())
    assert caught.value.reason == Reason.FORBIDDEN
    assert refused(path, Signed.parse(EpochBundle, bundle.encode())) == Reason.BAD_SIGNATURE


def test_a_dealer_whose_name_another_signs_under_is_refused(path):
    document = WORLD.bundle
    forged = Signed(document.body, {"hospital-a": site("hospital-d").signing_key.sign(b"x")})
    assert refused(path, Signed.parse(EpochBundle, forged.encode())) == Reason.BAD_SIGNATURE


def test_a_dealer_deals_only_to_a_roster_that_it_has_signed():
    with pytest.raises(InputError, match="has not signed"):
        deal(WORLD.key, WORLD.roster, site("hospital-c"), time.time())
    roster = signed(WORLD.roster, "hospital-c")
    assert deal(WORLD.key, roster, site("hospital-c"), time.time()).body.roster == WORLD.roster.body_digest


def test_a_bundle_of_another_federation_or_roster_is_refused(path):
    elsewhere = first(federation="elsewhere")
    assert refused(path, WORLD.resigned(federation="elsewhere")) == Reason.ROSTER_MISMATCH
    assert refused(path, WORLD.bundle, roster=elsewhere) == Reason.ROSTER_MISMATCH
    renewed = after(WORLD.roster)
    # Newer than what this site has accepted, and older.
    assert refused(path, WORLD.deal(1, renewed)) == Reason.ROSTER_MISMATCH
    assert refused(path, WORLD.bundle, roster=renewed) == Reason.ROSTER_MISMATCH
    # Another roster of the very same version.
    assert refused(path, WORLD.deal(1, first(min_sites=4))) == Reason.ROSTER_MISMATCH
    assert WORLD.accept(WORLD.deal(1, renewed), path, roster=renewed).epoch == 1


def test_an_expired_roster_or_one_without_enough_signatures_is_refused(path):
    later = WORLD.roster.body.expires_at
    assert refused(path, WORLD.bundle, now=later) == Reason.ROSTER_EXPIRED
    assert WORLD.accept(WORLD.bundle, path, now=later - 1) == WORLD.key
    document = WORLD.roster
    lonely = Signed(document.body, {"hospital-a": document.signatures["hospital-a"]})
    assert refused(path, WORLD.bundle, roster=lonely) == Reason.BAD_SIGNATURE
    with pytest.raises(WireError):
        deal(WORLD.key, lonely, site("hospital-a"), time.time())
    with pytest.raises(WireError) as caught:
        deal(WORLD.key, WORLD.roster, site("hospital-a"), later)
    assert caught.value.reason == Reason.ROSTER_EXPIRED


def test_a_site_that_is_not_in_the_roster_or_has_other_keys_is_refused(path):
    assert refused(path, WORLD.bundle, identity=site("hospital-e")) == Reason.FORBIDDEN
    assert refused(path, WORLD.bundle, identity=Identity.create("hospital-d")) == Reason.KEY_MISMATCH
    # With one of the two keys right the bundle would even open, and the commitment be nobody's.
    half = replace(site("hospital-d"), signing_key=SigningKey.generate())
    assert refused(path, WORLD.bundle, identity=half) == Reason.KEY_MISMATCH


def test_another_plan_than_the_expected_is_refused(path):
    bundle = WORLD.deal(2, plan=OTHER_PLAN)
    assert refused(path, bundle, plan_id=WORLD.plan.plan_id) == Reason.PLAN_MISMATCH
    # With a keystore in place the plan is known.
    WORLD.accept(WORLD.bundle, path)
    assert refused(path, WORLD.bundle, plan_id=OTHER_PLAN.plan_id) == Reason.PLAN_MISMATCH
    assert refused(path, bundle) == Reason.PLAN_MISMATCH
    assert WORLD.accept(WORLD.deal(2), path).epoch == 2
    path.unlink()
    path.with_name("test.keystore.epoch-1").unlink()
    assert WORLD.accept(bundle, path, plan_id=OTHER_PLAN.plan_id).plan == OTHER_PLAN


def test_epochs_only_go_forward(path):
    second, third = WORLD.deal(2), WORLD.deal(3)
    WORLD.accept(WORLD.bundle, path)
    WORLD.accept(second, path)
    assert refused(path, WORLD.bundle) == Reason.KEY_MISMATCH
    # Another key of the present epoch.
    assert refused(path, WORLD.deal(2)) == Reason.KEY_MISMATCH
    newest = WORLD.accept(third, path)
    assert GroupKey.load(path) == newest
    kept = {file.name: GroupKey.load(file).epoch for file in path.parent.iterdir()}
    assert kept == {"test.keystore": 3, "test.keystore.epoch-1": 1, "test.keystore.epoch-2": 2}


def test_an_older_epoch_restored_goes_forward_again_and_not_back(path):
    second, third = WORLD.deal(2), WORLD.deal(3)
    for bundle in (WORLD.bundle, second, third):
        WORLD.accept(bundle, path)
    # A backup from the time of epoch 1 is put in place.
    backup = path.with_name("test.keystore.epoch-1").read_bytes()
    path.write_bytes(backup)
    assert refused(path, second) == Reason.KEY_MISMATCH
    assert WORLD.accept(third, path).epoch == 3
    # The keystore is lost altogether; what is kept still says where this site has been.
    path.unlink()
    assert refused(path, second) == Reason.KEY_MISMATCH
    assert WORLD.accept(third, path).epoch == 3


def test_a_kept_file_that_is_another_one_is_not_overwritten(path):
    WORLD.accept(WORLD.bundle, path)
    kept = path.with_name("test.keystore.epoch-1")
    GroupKey.create(WORLD.plan, 1).save(kept)
    bundle = WORLD.deal(2)
    assert refused(path, bundle) == Reason.FILE_EXISTS
    kept.unlink()
    assert WORLD.accept(bundle, path).epoch == 2


def test_a_crash_while_the_keystore_is_replaced_leaves_the_old_or_the_new(path, monkeypatch):
    WORLD.accept(WORLD.bundle, path)
    bundle = WORLD.deal(2)
    for step in ("os.link", "os.fsync", "pathlib.Path.replace"):
        with monkeypatch.context() as broken:

            def fail(*_, **__):
                raise OSError(28, "No space left on device")

            broken.setattr(step, fail)
            assert refused_anyhow(bundle, path) == Reason.STORAGE_FULL
        assert GroupKey.load(path) == WORLD.key
        assert not [file for file in path.parent.iterdir() if file.name.startswith(".")], "no temporary file is left"
    assert WORLD.accept(bundle, path).epoch == 2
    assert GroupKey.load(path.with_name("test.keystore.epoch-1")) == WORLD.key


def refused_anyhow(bundle, path):
    with pytest.raises(KeystoreError) as caught:
        WORLD.accept(bundle, path)
    return caught.value.reason


@pytest.mark.parametrize("damage", ["mode", "link", "truncated", "garbage"])
def test_a_keystore_that_must_not_be_used_is_neither_used_nor_replaced(path, damage):
    WORLD.accept(WORLD.bundle, path)
    good, bundle = path.read_bytes(), WORLD.deal(2)
    if damage == "mode":
        path.chmod(0o640)
    elif damage == "link":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))
    else:
        path.write_bytes(good[: len(good) // 2] if damage == "truncated" else b"{}")
    expected = Reason.UNSAFE_PERMISSIONS if damage in ("mode", "link") else Reason.KEYSTORE_CORRUPT
    assert refused(path, bundle) == expected
    path.unlink()
    path.write_bytes(good)
    path.chmod(0o600)
    assert WORLD.accept(bundle, path).epoch == 2


def test_a_dangling_link_is_not_written_through(path):
    path.symlink_to(path.with_name("nowhere"))
    with pytest.raises(KeystoreError):
        WORLD.accept(WORLD.bundle, path)
    assert not path.with_name("nowhere").exists()
    path.unlink()
    assert WORLD.accept(WORLD.bundle, path) == WORLD.key


def test_the_new_keystore_is_protected_as_was_asked(path):
    WORLD.accept(WORLD.bundle, path, protect="one")
    with pytest.raises(KeystoreError) as caught:
        GroupKey.load(path, "two")
    assert caught.value.reason == Reason.WRONG_PASSPHRASE
    bundle = WORLD.deal(2)
    assert refused(path, bundle, passphrase="two", protect="two") == Reason.WRONG_PASSPHRASE
    assert WORLD.accept(bundle, path, passphrase="one", protect="one") == GroupKey.load(path, "one")
    assert GroupKey.load(path.with_name("test.keystore.epoch-1"), "one") == WORLD.key


def test_a_key_that_does_not_work_is_not_stored(path, monkeypatch):
    # Right in every respect that can be read off it, but its context is none for the plan.
    other = GroupKey.create(plan_of(5, codec="hybrid"), 1)
    useless = GroupKey(WORLD.plan, 1, other.key_material[:-40], other.mac_seed)
    bundle = deal(useless, WORLD.roster, site("hospital-a"), time.time())
    with pytest.raises(KeystoreError) as caught:
        WORLD.accept(bundle, path)
    assert "self-test" in str(caught.value)
    assert not path.exists()
    assert WORLD.accept(WORLD.bundle, path) == WORLD.key


@pytest.mark.parametrize("codec", ["ckks", "hybrid"])
@pytest.mark.parametrize("bits", [2, 16, 24])
def test_the_self_test_passes_for_every_plan_whatever_its_size(codec, bits):
    self_test(GroupKey.create(plan_of(3_000_000, codec=codec, value_bits=bits, max_sites=40)))


def test_the_self_test_notices_a_wrong_sum_and_a_mac_that_lets_everything_pass(monkeypatch):
    self_test(WORLD.key)
    with monkeypatch.context() as broken:
        broken.setattr("keys.self_test._fold", lambda plan, number, submissions: submissions[0][number])
        with pytest.raises(KeystoreError, match="self-test"):
            self_test(WORLD.key)
    with monkeypatch.context() as broken:
        broken.setattr(SumCheck, "holds", lambda *_: True)
        with pytest.raises(KeystoreError, match="self-test"):
            self_test(WORLD.key)
    self_test(WORLD.key)


def commitments(key=WORLD.key, names=SITES):
    return [commit(key, site(name)) for name in names]


def test_commitments_of_all_sites_agree():
    found = agreement(commitments(), WORLD.roster, 1, WORLD.key.key_id)
    assert (found.key_id, found.sites, found.missing) == (WORLD.key.key_id, SITES, ())
    assert agreement(commitments(names=SITES[:2]), WORLD.roster, 1).missing == SITES[2:]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (commit(GroupKey.create(WORLD.plan), site("hospital-d")), Reason.KEY_MISMATCH),
        (commit(WORLD.key, site("hospital-e")), Reason.UNKNOWN_SITE),
        (
            Signed.make(Commitment("test", 1, WORLD.key.key_id, "hospital-d"), site("hospital-c").signing_key),
            Reason.BAD_SIGNATURE,
        ),
        (
            Signed.make(Commitment("test", 2, WORLD.key.key_id, "hospital-d"), site("hospital-d").signing_key),
            Reason.BAD_FIELD,
        ),
        (
            Signed.make(Commitment("else", 1, WORLD.key.key_id, "hospital-d"), site("hospital-d").signing_key),
            Reason.BAD_FIELD,
        ),
    ],
)
def test_a_commitment_that_does_not_agree_is_noticed(wrong, reason):
    with pytest.raises(HeAggError) as caught:
        agreement([*commitments(names=SITES[:3]), Signed.parse(Commitment, wrong.encode())], WORLD.roster, 1)
    assert caught.value.reason == reason
    assert agreement(commitments(), WORLD.roster, 1).missing == ()


def test_all_sites_with_one_key_and_oneself_with_another_is_noticed():
    other = GroupKey.create(WORLD.plan)
    with pytest.raises(KeystoreError, match="do not hold one and the same key"):
        agreement(commitments(), WORLD.roster, 1, other.key_id)


def test_nobody_deals_to_more_sites_than_the_plan_holds():
    few = plan_of(5, max_sites=3)
    with pytest.raises(InputError, match="2 to 3 sites, and the roster has 4"):
        deal(GroupKey.create(few), WORLD.roster, site("hospital-a"), time.time())
    assert len(WORLD.roster.body.having(Role.SITE)) == 4
