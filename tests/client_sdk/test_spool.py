"""The spool: modes, crashes, damage, locks."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from client_sdk._disk.ledger import Fate, Ledger
from client_sdk._disk.spool import Spool
from client_sdk._disk.stored import Stored
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import NO_RECORD
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, InputError, Reason, WireError
from he_agg.ids import RoundId
from tests.support.flows import CONSORTIUM, ROUND, small_plan
from tests.support.trust import identity_of

PLACES = small_plan().public.places[:1]
MANIFEST = Signed.make(
    Manifest(
        ROUND, 1, "ab" * 32, "cd" * 32, "a", "00" * 16, ("ef" * 32,), ((1,),), CONSORTIUM.roster.body_digest, NO_RECORD
    ),
    identity_of("a").signing_key,
)


def filled(tmp_path: Path):
    entry = Spool(tmp_path / "spool", "a").entry(ROUND)
    entry.begin(10)
    digest = entry.write_part(0, b"part zero")
    entry.seal(Stored(MANIFEST, "f" * 64))
    return entry, digest


def test_stored_submission_is_found_again(tmp_path):
    filled(tmp_path)
    stored = Spool(tmp_path / "spool", "a").entry(ROUND).stored(ledger_of(tmp_path), PLACES)
    assert stored is not None
    assert (stored.signed, stored.encoded, stored.fingerprint) == (MANIFEST, MANIFEST.encode(), "f" * 64)
    assert Spool(tmp_path / "spool", "a").pending("test", ledger_of(tmp_path), PLACES) == [ROUND]
    assert Spool(tmp_path / "spool", "a").pending("other", ledger_of(tmp_path), PLACES) == []
    assert Spool(tmp_path / "spool", "b").pending("test", ledger_of(tmp_path), PLACES) == []


def test_nobody_else_may_look(tmp_path):
    old = os.umask(0)
    try:
        entry, _ = filled(tmp_path)
        entry.sum_parts().keep(0, memoryview(b"sum"))
        with entry.locked():
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "spool", *tmp_path.rglob("*")]}
    finally:
        os.umask(old)
    assert len(modes) == 8
    for path, mode in modes.items():
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_without_a_manifest_it_is_garbage(tmp_path):
    entry = Spool(tmp_path / "spool", "a").entry(ROUND)
    entry.begin(10)
    entry.write_part(0, b"old")
    assert entry.stored(ledger_of(tmp_path), PLACES) is None
    assert not entry.is_stored(ledger_of(tmp_path), PLACES)
    entry.begin(10)
    assert list(entry.path.iterdir()) == []


def test_submission_is_written_last_and_after_everything_is_durable(tmp_path, monkeypatch):
    """Records the order of writes: parts are synced before the submission gets its name, all names at the end."""
    log = []
    fsync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (log.append(Path(f"/proc/self/fd/{fd}").readlink().name), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (log.append(f"-> {target.name}"), rename(self, target)))
    filled(tmp_path)
    directory = str(ROUND)
    assert log[:2] == [tmp_path.name, "spool"], "the folders that all of it is in are not durable"
    assert log[2:] == [
        "a",
        ".part-00000.new",
        "-> part-00000",
        ".submission.json.new",
        "-> submission.json",
        directory,
    ]


def test_removal_takes_the_manifest_first(tmp_path, monkeypatch):
    entry, _ = filled(tmp_path)
    monkeypatch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(ConfigError):
        entry.remove()
    assert entry.stored(ledger_of(tmp_path), PLACES) is None


@pytest.mark.parametrize("damage", [b"", b"part zerO", b"part zero+", None])
def test_damaged_part_is_noticed(tmp_path, damage):
    entry, digest = filled(tmp_path)
    entry.check_part(0, 9, digest)
    if damage is None:
        entry.part_path(0).unlink()
    else:
        entry.part_path(0).write_bytes(damage)
    with pytest.raises(WireError, match="part-00000 is damaged") as caught:
        entry.check_part(0, 9, digest)
    assert caught.value.reason == Reason.BAD_DIGEST


def test_damaged_manifest_is_named(tmp_path):
    entry, _ = filled(tmp_path)
    (entry.path / "submission.json").write_bytes(Stored(MANIFEST, "f" * 64).to_bytes()[:-5])
    with pytest.raises(WireError, match=r"submission\.json is damaged"):
        Spool(tmp_path / "spool", "a").entry(ROUND).stored(ledger_of(tmp_path), PLACES)


def test_one_worker_per_round(tmp_path):
    spool = Spool(tmp_path / "spool", "a")
    with spool.entry(ROUND).locked():
        with pytest.raises(InputError, match="another process or thread"), spool.entry(ROUND).locked():
            pass
        with spool.entry(RoundId("test", 2, 1)).locked():
            pass
    with spool.entry(ROUND).locked():
        pass
    assert list((tmp_path / "spool" / "a").iterdir()) == []


def ledger_of(tmp_path):
    return Ledger(tmp_path / "spool" / "a" / "test.ledger")


@pytest.fixture
def five(tmp_path):
    """Submissions to five attempts, and a ledger: two settled rounds, a failed attempt, one under way, one unsent."""
    spool, ledger = Spool(tmp_path / "spool", "a"), ledger_of(tmp_path)
    rounds = [RoundId("test", 1, 1), RoundId("test", 2, 1), RoundId("test", 2, 2), RoundId("test", 3, 1)]
    fates = [Fate.COUNTED, Fate.LEFT_OUT, Fate.COUNTED, Fate.SENT]
    for round_id, fate in zip(rounds, fates, strict=True):
        ledger.enter(round_id, MANIFEST.body.nonce, "cd" * 32)
        if fate is not Fate.SENT:
            ledger.settle(round_id, fate, "9" * 64)
    for round_id in [*rounds, RoundId("test", 3, 2), RoundId("other", 1, 1)]:
        entry = spool.entry(round_id)
        entry.begin(1)
        entry.write_part(0, b"part")
        entry.seal(Stored(MANIFEST, "f" * 64))
    return spool, ledger, rounds


@pytest.mark.parametrize("number", [1, 3, 10**9 - 1])
def test_what_was_sent_stays_until_a_record_has_settled_it(tmp_path, five, number):
    """Whatever number the aggregator says is open: the newest mean may be wanted, and of round 3 nothing is known."""
    spool, ledger, rounds = five
    (tmp_path / "spool" / "a" / "notes.txt").write_text("mine")
    spool.prune(RoundId("test", number, 1), ledger)
    unsent = [RoundId("test", 3, 2)] if number < 5 else []
    assert spool.pending("test", ledger, PLACES) == [*rounds[2:], *unsent]
    assert spool.pending("other", ledger, PLACES) == [RoundId("other", 1, 1)]
    assert (tmp_path / "spool" / "a" / "notes.txt").exists()
    ledger.settle(rounds[3], Fate.COUNTED, "9" * 64)
    spool.prune(RoundId("test", number, 1), ledger)
    assert spool.pending("test", ledger, PLACES) == [rounds[3], *unsent]


def test_pruning_leaves_alone_what_somebody_works_on(tmp_path):
    entry, _ = filled(tmp_path)
    spool = Spool(tmp_path / "spool", "a")
    with entry.locked():
        spool.prune(RoundId("test", 5, 1), ledger_of(tmp_path))
    assert spool.pending("test", ledger_of(tmp_path), PLACES) == [ROUND]


def test_no_room(tmp_path):
    entry = Spool(tmp_path / "spool", "a").entry(ROUND)
    with pytest.raises(ConfigError, match="expected 4611686018427387904 free bytes") as caught:
        entry.begin(2**62)
    assert caught.value.hint
    assert not entry.path.exists()


def test_full_disk_is_an_error_with_a_hint(tmp_path, monkeypatch):
    entry = Spool(tmp_path / "spool", "a").entry(ROUND)
    entry.begin(1)
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ConfigError, match="No space left on device") as caught:
        entry.write_part(0, b"x")
    assert (caught.value.reason, caught.value.hint) == (Reason.STORAGE_FULL, "make room and run it again")


def test_spool_that_is_a_file(tmp_path):
    (tmp_path / "spool").write_text("")
    with pytest.raises(ConfigError, match="spool"):
        Spool(tmp_path / "spool", "a")


def test_part_is_not_written_through_a_symbolic_link(tmp_path):
    entry = Spool(tmp_path / "spool", "a").entry(ROUND)
    entry.begin(1)
    entry.part_path(0).symlink_to(tmp_path / "elsewhere")
    entry.write_part(0, b"x")
    assert not entry.part_path(0).is_symlink()
    assert not (tmp_path / "elsewhere").exists()
