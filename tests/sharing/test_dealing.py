"""The bytes of a dealing: strict, of the lengths that its holders say, sealed to each for one place."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.errors import Reason, WireError
from he_agg.sharing.dealer import deal
from he_agg.sharing.dealing import SEAL_BYTES, Dealing, Excerpt, Holders
from he_agg.sharing.field import P
from he_agg.sharing.shares import open_share
from keys.dealing import sealing_to
from keys.receiving import ReceivingKey
from tests.sharing.dealt import (
    MASK_KEY,
    context_of,
    dealing_of,
    holders_of,
    keys_of,
    stand_in_open,
    stand_in_seal,
)

HYBRID = "mlkem768-x25519"


@pytest.fixture
def dealing(rng):
    return dealing_of(keys_of(rng, 1)[0], context_of(), holders_of(5, 3, without_key=(4,)), rng)


def refused(data, holders, reason):
    with pytest.raises(WireError) as error:
        Dealing.parse(data, holders)
    assert error.value.reason == reason


def test_what_is_written_is_read(dealing):
    data = dealing.to_bytes()
    assert len(data) == dealing.holders.dealing_bytes
    again = Dealing.parse(data, dealing.holders)
    assert again == dealing
    assert again.digest == dealing.digest
    for name in dealing.holders.names:
        excerpt = dealing.excerpt(name)
        read = Excerpt.parse(excerpt.to_bytes(), dealing.holders, name)
        assert read == excerpt
        assert read.digest == dealing.digest
        assert read.holder == name
        assert len(excerpt.to_bytes()) == dealing.holders.excerpt_bytes(excerpt.index)


@pytest.mark.parametrize(
    ("holders", "threshold", "up"), [(3, 3, 7_868), (4, 2, 17_252), (5, 3, 18_508), (10, 4, 41_044), (31, 11, 124_316)]
)
def test_lengths_that_pages_name(holders, threshold, up):
    names = tuple(f"h{j}" for j in range(holders))
    assert Holders(names, (HYBRID,) * holders, threshold).dealing_bytes == up


@pytest.mark.parametrize("off", [-1, 1, -32, 24, -2])
def test_every_other_length_is_refused(dealing, off):
    data = dealing.to_bytes()
    wrong = data[:off] if off < 0 else data + bytes(off)
    refused(wrong, dealing.holders, Reason.TRUNCATED if off < 0 else Reason.TRAILING_BYTES)
    excerpt = dealing.excerpt("holder-1").to_bytes()
    with pytest.raises(WireError):
        Excerpt.parse(excerpt[:off] if off < 0 else excerpt + bytes(off), dealing.holders, "holder-1")


def test_a_dealing_for_others_is_refused(dealing):
    holders, data = dealing.holders, dealing.to_bytes()
    for other in (
        holders_of(5, 2, without_key=(4,)),
        holders_of(4, 3),
        holders_of(5, 3),
        replace(holders, suites=(HYBRID, *holders.suites[1:])),
    ):
        with pytest.raises(WireError):
            Dealing.parse(data, other)
    # m or t other than the length says
    for place in (8, 10):
        refused(data[:place] + b"\2" + data[place + 1 :], holders, Reason.BAD_FIELD)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (0, b"HEAP", Reason.BAD_MAGIC),
        (4, b"\2", Reason.BAD_VERSION),
        (5, b"\x0b", Reason.BAD_FIELD),
        (6, (2047).to_bytes(2, "little"), Reason.BAD_FIELD),
        (12 + 5 * 32, P.to_bytes(2, "little"), Reason.RESIDUE_OUT_OF_RANGE),
        (12 + 5 * 32 + 2 * 35, b"\xff\xff", Reason.RESIDUE_OUT_OF_RANGE),
    ],
)
def test_fields_of_the_public_part(dealing, place, value, reason):
    data = dealing.to_bytes()
    refused(data[:place] + value + data[place + len(value) :], dealing.holders, reason)


@given(st.binary(max_size=400), st.integers(0, 2**32))
def test_any_bytes_are_a_dealing_or_refused(noise, seed):
    """Noise over a dealing, at any place."""
    rng, holders = np.random.default_rng(seed), holders_of(3, 2)
    data = dealing_of(np.zeros(2048, dtype=np.int8), context_of(), holders, rng).to_bytes()
    place = int(rng.integers(0, 400))
    for changed in (noise, data[:place] + noise + data[place + len(noise) :], data[: place + 200]):
        with contextlib.suppress(WireError):
            assert Dealing.parse(changed, holders).to_bytes() == changed


def test_the_digest_is_of_every_byte(dealing, rng):
    data, digests = dealing.to_bytes(), {dealing.digest}
    places = [12, 12 + 5 * 32, *rng.integers(dealing.holders.public_bytes, len(data), 20).tolist(), len(data) - 1]
    for place in places:
        digests.add(Dealing.parse(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], dealing.holders).digest)
    assert len(digests) == 1 + len(set(places))


def test_an_excerpt_with_another_blob_is_refused(dealing):
    mine, other = (dealing.excerpt(name).to_bytes() for name in ("holder-1", "holder-2"))
    assert len(mine) == len(other)
    with pytest.raises(WireError, match="blob of holder-2"):
        Excerpt.parse(mine, dealing.holders, "holder-2")
    end = len(mine) - len(dealing.blobs[0])
    with pytest.raises(WireError) as error:
        Excerpt.parse(mine[:end] + other[end:], dealing.holders, "holder-1")
    assert error.value.reason == Reason.BAD_DIGEST


def test_a_holder_without_a_key_gets_nothing(dealing):
    assert dealing.blobs[3] == b""
    assert dealing.excerpt("holder-4").blob == b""
    assert len(dealing.commitments) == 5


@pytest.mark.parametrize(
    "arguments",
    [
        (("a", "b"), ("x25519",) * 2, 3),
        (("a", "b"), ("x25519",) * 2, 0),
        (("a", "a"), ("x25519",) * 2, 2),
        (("a", "b"), ("x25519",), 2),
        (("a", "b"), ("x25519", "p256"), 2),
        ((), (), 0),
    ],
)
def test_lists_that_are_none(arguments):
    with pytest.raises(ValueError, match="holder"):
        Holders(*arguments)


@pytest.mark.parametrize("suite", sorted(SEAL_BYTES))
def test_sealed_with_hpke(rng, suite):
    """Both suites: lengths are as said, each holder opens its own and no other, in this context and in no other."""
    private = {f"holder-{j}": ReceivingKey.generate(suite) for j in (1, 2, 3)}
    holders, context = Holders(tuple(private), (suite,) * 3, 2), context_of()
    seal = sealing_to({name: key.public for name, key in private.items()})
    dealing = deal(keys_of(rng, 1)[0], MASK_KEY, context, holders, seal)
    assert len(dealing.to_bytes()) == holders.dealing_bytes
    for name, key in private.items():
        excerpt = Excerpt.parse(dealing.excerpt(name).to_bytes(), holders, name)
        assert isinstance(open_share(excerpt, context, key.open), np.ndarray)
        assert not isinstance(open_share(excerpt, context_of(2), key.open), np.ndarray)
        for other in set(private.values()) - {key}:
            assert not isinstance(open_share(excerpt, context, other.open), np.ndarray)


def test_no_two_dealings_of_a_key_are_alike(rng):
    key, holders = keys_of(rng, 1)[0], holders_of(3, 2)
    one, two = (deal(key, MASK_KEY, context_of(), holders, stand_in_seal) for _ in range(2))
    assert one.digest != two.digest
    assert not set(one.blobs) & set(two.blobs)
    first, second = (open_share(d.excerpt("holder-3"), context_of(), stand_in_open("holder-3")) for d in (one, two))
    assert isinstance(first, np.ndarray)
    assert isinstance(second, np.ndarray)
    assert not np.array_equal(first, second)


def test_nothing_secret_is_shown(dealing):
    for text in (repr(dealing), repr(dealing.excerpt("holder-1"))):
        assert repr(dealing.blobs[0])[2:30] not in text


def test_sharing_loads_no_cipher_and_no_keys():
    """So that the aggregator can read a dealing: what seals and opens is handed in."""
    modules = ("dealer", "decoding", "masks", "shares", "thresholds")
    code = f"import sys; from he_agg.sharing import {', '.join(modules)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert "numpy" in loaded
    assert loaded & {"cryptography", "tenseal", "keys", "numba"} == set()
