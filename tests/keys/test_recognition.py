"""The keyed fingerprint of an update: the same for the same update, another for any other, nothing without the key."""

from __future__ import annotations

import hmac
import json

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keys import Identity
from keys.recognition import recognise

IDENTITY = Identity.create("a")
ARRAYS: list[np.ndarray] = [np.arange(5, dtype=np.float32), np.zeros(0), np.ones(1)]


def test_same_update_has_the_same_fingerprint():
    first = IDENTITY.recognise(3, ARRAYS)
    assert len(bytes.fromhex(first)) == 32
    assert IDENTITY.recognise(3, [array.copy() for array in ARRAYS]) == first
    assert Identity.create("a").recognise(3, ARRAYS) != first


@pytest.mark.parametrize(
    ("weight", "arrays"),
    [
        (4, [np.arange(5, dtype=np.float32), np.zeros(2)]),
        (3, [np.arange(5, dtype=np.float32) + np.float32(1e-6), np.zeros(2)]),
        (3, [np.arange(5, dtype=np.float32), np.zeros(3)]),
        (3, [np.arange(5, dtype=np.float32), np.zeros(1), np.zeros(1)]),
        (3, [np.arange(5, dtype=np.float32), np.zeros(4, np.float32)]),
    ],
)
def test_another_update_has_another_fingerprint(weight, arrays):
    assert IDENTITY.recognise(weight, arrays) != IDENTITY.recognise(3, [np.arange(5, dtype=np.float32), np.zeros(2)])


def test_long_updates_are_hashed_in_pieces(monkeypatch):
    array = np.arange(1000.0)
    first = IDENTITY.recognise(1, [array])
    monkeypatch.setattr("keys.recognition._PIECE_BYTES", 48)
    assert IDENTITY.recognise(1, [array]) == first


def test_computed_in_another_way():
    secret, key = bytes(range(32)), hmac.digest(bytes(range(32)), b"he-agg/recognise/hash/v1", "sha256")
    shapes = [[array.dtype.str, array.size] for array in ARRAYS]
    head = json.dumps({"arrays": shapes, "weight": 7}, separators=(",", ":")).encode()
    tag = AESGCM(key).encrypt(bytes(12), b"", head + b"".join(array.tobytes() for array in ARRAYS))
    outer = hmac.digest(secret, b"he-agg/recognise/tag/v1", "sha256")
    assert recognise(secret, 7, ARRAYS) == hmac.digest(outer, tag, "sha256").hex()
