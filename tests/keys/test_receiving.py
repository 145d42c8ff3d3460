"""HPKE to a site, both suites: what is sealed opens at one key, for one purpose, unchanged."""

from __future__ import annotations

import pytest

from he_agg.documents.roster import SUITE_BYTES
from he_agg.errors import KeystoreError
from keys.receiving import ReceivingKey, seal

SECRET, INFO = b"s" * 32, b'{"epoch":1}'
KEYS = {suite: ReceivingKey.generate(suite) for suite in SUITE_BYTES}
OTHERS = {suite: ReceivingKey.generate(suite) for suite in SUITE_BYTES}


@pytest.fixture(params=sorted(SUITE_BYTES))
def suite(request):
    return request.param


def test_round_trip_and_overhead(suite):
    sealed = seal(KEYS[suite].public, SECRET, INFO)
    assert KEYS[suite].open(sealed, INFO) == SECRET
    assert len(sealed) - len(SECRET) == {"x25519": 48, "mlkem768-x25519": 1136}[suite]
    assert ReceivingKey.from_bytes(suite, KEYS[suite].to_bytes()).open(sealed, INFO) == SECRET
    assert seal(KEYS[suite].public, SECRET, INFO) != sealed


@pytest.mark.parametrize("info", [b"", b'{"epoch":2}', INFO + b" ", INFO[:-1]])
def test_another_info_does_not_open(suite, info):
    sealed = seal(KEYS[suite].public, SECRET, INFO)
    with pytest.raises(KeystoreError):
        KEYS[suite].open(sealed, info)
    assert KEYS[suite].open(sealed, INFO) == SECRET


def test_another_key_or_suite_does_not_open(suite):
    sealed = seal(KEYS[suite].public, SECRET, INFO)
    for key in (OTHERS[suite], *(KEYS[name] for name in KEYS if name != suite)):
        with pytest.raises(KeystoreError) as caught:
            key.open(sealed, INFO)
        assert SECRET.hex() not in str(caught.value)
    assert KEYS[suite].open(sealed, INFO) == SECRET


def test_half_of_the_hybrid_is_not_enough():
    mine, other = KEYS["mlkem768-x25519"], OTHERS["mlkem768-x25519"]
    sealed = seal(mine.public, SECRET, INFO)
    for half in (
        ReceivingKey(mine.suite, mine.x25519, other.mlkem),
        ReceivingKey(mine.suite, other.x25519, mine.mlkem),
    ):
        with pytest.raises(KeystoreError):
            half.open(sealed, INFO)
    assert ReceivingKey(mine.suite, mine.x25519, mine.mlkem).open(sealed, INFO) == SECRET


def test_any_changed_bit_or_length_does_not_open(suite):
    sealed = seal(KEYS[suite].public, SECRET, INFO)
    positions = {0, 1, len(sealed) // 2, len(sealed) - 40, len(sealed) - 17, len(sealed) - 16, len(sealed) - 1}
    bad = [sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in sorted(positions)]
    for damaged in [*bad, b"", sealed[:-1], sealed + b"x", bytes(len(sealed))]:
        with pytest.raises(KeystoreError):
            KEYS[suite].open(damaged, INFO)
    assert KEYS[suite].open(sealed, INFO) == SECRET


def test_nothing_secret_is_in_a_repr(suite):
    secret = KEYS[suite].to_bytes()
    for shown in (repr(KEYS[suite]), str(KEYS[suite])):
        assert "PrivateKey" not in shown
        assert secret.hex()[:16] not in shown


def test_no_other_suite():
    with pytest.raises(ValueError, match="expected a suite"):
        ReceivingKey.generate("x448")
    with pytest.raises(ValueError, match="not a private key"):
        ReceivingKey.from_bytes("x25519", bytes(96))
