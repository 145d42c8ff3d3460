"""What a holder keeps on disk: promises that no crash doubles, answers, and sharing keys that nobody else opens."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from client_sdk._disk.promises import Promise, Promises
from client_sdk._disk.sharing_keys import SharingKeys
from he_agg.errors import ConfigError, KeystoreError, Reason, WireError
from he_agg.ids import RoundId
from keys.receiving import seal
from tests.support.trust import identity_of

A, B = "aa" * 32, "bb" * 32


def journal_in(folder, sits_out=0):
    promises = Promises(folder / "test.promises", folder / "test.answers")
    promises.begin(sits_out)
    return promises


def at(number, attempt=1):
    return RoundId("test", number, attempt)


def refused(promises, round_id, record):
    with pytest.raises(WireError) as caught:
        promises.make(round_id, record)
    assert caught.value.reason == Reason.CHAIN_MISMATCH


def test_a_number_has_one_record_and_older_ones_have_none(tmp_path):
    for promises in (journal_in(tmp_path), journal_in(tmp_path)):  # then once more, after a restart
        promises.make(at(2), A)
        promises.make(at(2), A)
        refused(promises, at(2), B)
        refused(promises, at(2, 2), A)
        refused(promises, at(1), B)
        assert promises.of(2) == Promise(1, A)
        assert promises.of(1) is None
        assert promises.newest == 2
    assert len((tmp_path / "test.promises").read_bytes().splitlines()) == 2
    promises.make(at(4, 3), B)
    refused(promises, at(3), A)
    promises.make(at(2), A)  # said before: it adds nothing


def test_without_a_journal_nothing_is_promised(tmp_path):
    promises = Promises(tmp_path / "test.promises", tmp_path / "test.answers")
    assert not promises.begun
    refused(promises, at(1), A)
    promises.begin(0)
    promises.make(at(1), A)
    (tmp_path / "test.promises").unlink()
    again = Promises(tmp_path / "test.promises", tmp_path / "test.answers")
    assert not again.begun
    refused(again, at(2), A)


def test_a_new_journal_sits_out_what_was_open(tmp_path):
    promises = journal_in(tmp_path, sits_out=3)
    refused(promises, at(3), A)
    refused(promises, at(3, 2), A)
    promises.make(at(4), A)
    promises.begin(9)  # it has begun already
    promises.make(at(5), A)


def test_a_line_that_a_crash_cut_short_is_no_promise(tmp_path):
    path = tmp_path / "test.promises"
    promises = journal_in(tmp_path)
    promises.make(at(1), A)
    whole = path.read_bytes()
    promises.make(at(2), A)
    longer = path.read_bytes()
    for length in range(len(whole), len(longer)):
        path.write_bytes(longer[:length])
        after = journal_in(tmp_path)
        assert (after.of(1), after.of(2)) == (Promise(1, A), None)
        after.make(at(2), B)
        assert journal_in(tmp_path).of(2) == Promise(1, B)
    path.write_bytes(longer)
    refused(journal_in(tmp_path), at(2), B)


@pytest.mark.parametrize("line", [b'{"attempt":1,"record":null,"round":2}', b"{}", b"\x00" * 20])
def test_a_damaged_journal_is_refused_and_never_to_be_restored(tmp_path, line):
    path = tmp_path / "test.promises"
    journal_in(tmp_path).make(at(1), A)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ConfigError) as caught:
        journal_in(tmp_path)
    assert "never restore it" in caught.value.hint


@pytest.mark.parametrize("again", [1, 2])
def test_a_journal_with_a_number_twice_is_damaged(tmp_path, again):
    path = tmp_path / "test.promises"
    promises = journal_in(tmp_path)
    promises.make(at(1), A)
    promises.make(at(2), A)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[again]]))
    with pytest.raises(ConfigError):
        journal_in(tmp_path)


def test_two_threads_that_hold_promise_one_record(tmp_path):
    def promise(record):
        try:
            journal_in(tmp_path).make(at(1), record)
        except WireError:
            return None
        return record

    with ThreadPoolExecutor(8) as pool:
        made = {record for record in pool.map(promise, [A, B] * 4) if record is not None}
    assert made == {journal_in(tmp_path).of(1).record}


def test_what_was_promised_before_a_kill_is_there_after_it(tmp_path):
    code = f"""
        from pathlib import Path
        from client_sdk._disk.promises import Promises
        from he_agg.ids import RoundId
        promises = Promises(Path({str(tmp_path)!r}) / "test.promises", Path({str(tmp_path)!r}) / "test.answers")
        promises.begin(0)
        for number in range(1, 10**6):
            promises.make(RoundId("test", number, 1), f"{{number:064x}}")
            print(number, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        heard = [holder.stdout.readline() for _ in range(20)]
        os.kill(holder.pid, signal.SIGKILL)
        heard += holder.stdout.readlines()
    last = int([line for line in heard if line.endswith("\n")][-1])
    promises = journal_in(tmp_path)
    assert promises.newest - last in (0, 1)
    assert all(promises.of(number) == Promise(1, f"{number:064x}") for number in range(1, last + 1))
    refused(promises, at(last), A)


def test_answers_are_kept_until_a_later_one(tmp_path):
    promises = journal_in(tmp_path)
    assert promises.answer(at(1)) is None
    promises.keep_answer(at(1), b"one")
    promises.keep_answer(at(1), b"one")
    assert journal_in(tmp_path).answer(at(1)) == b"one"
    promises.keep_answer(at(2), b"two")
    assert (promises.answer(at(1)), promises.answer(at(2))) == (None, b"two")
    assert [path.name for path in (tmp_path / "test.answers").iterdir()] == ["2.1"]


def keys_in(folder, name="a"):
    return SharingKeys(folder / "test.sharing-keys", "test", identity_of(name))


def test_a_sharing_key_is_made_once_and_private(tmp_path):
    keys = keys_in(tmp_path)
    assert keys.of(1) is None
    made = keys.make(1)
    for again in (keys.make(1), keys_in(tmp_path).of(1), keys_in(tmp_path).make(1)):
        assert again.to_bytes() == made.to_bytes()
    assert keys.make(2).to_bytes() != made.to_bytes()
    sealed = seal(made.public, b"a share", b"for this")
    assert keys_in(tmp_path).of(1).open(sealed, b"for this") == b"a share"
    path = tmp_path / "test.sharing-keys" / "1"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.to_bytes().hex().encode() not in path.read_bytes()
    path.chmod(0o640)
    with pytest.raises(KeystoreError) as caught:
        keys_in(tmp_path).of(1)
    assert caught.value.reason == Reason.UNSAFE_PERMISSIONS


def test_a_sharing_key_opens_for_its_own_identity_and_epoch_only(tmp_path):
    keys_in(tmp_path).make(1)
    folder = tmp_path / "test.sharing-keys"
    (folder / "2").write_bytes((folder / "1").read_bytes())
    (folder / "2").chmod(0o600)
    (folder / "3").write_bytes(b"")
    (folder / "3").chmod(0o600)
    for keys, epoch in ((keys_in(tmp_path, "b"), 1), (keys_in(tmp_path), 2), (keys_in(tmp_path), 3)):
        with pytest.raises(KeystoreError) as caught:
            keys.make(epoch)
        assert caught.value.reason == Reason.KEYSTORE_CORRUPT


def test_the_keys_of_old_epochs_go(tmp_path):
    keys = keys_in(tmp_path)
    keys.forget_before(3)  # none yet
    for epoch in (1, 2, 9, 10):
        keys.make(epoch)
    keys.forget_before(9)
    assert [keys.of(epoch) is None for epoch in (1, 2, 9, 10)] == [True, True, False, False]
