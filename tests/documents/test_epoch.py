"""Epoch documents: who may deal, and whose word a commitment is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from he_agg import canonical
from he_agg.documents.epoch import Commitment, EpochBundle
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from tests.support.documents import EXAMPLES, KEYS, encoded, parsed

BUNDLE, COMMITMENT = EXAMPLES["epoch"].body, EXAMPLES["commitment"].body
PUBLIC = {name: key.public_key for name, key in KEYS.items()}
COORDINATORS = {name: PUBLIC[name] for name in ("coordinator", "second")}


def test_the_dealer_has_to_be_a_coordinator_and_to_sign():
    bundle = Signed.parse(EpochBundle, Signed.make(BUNDLE, KEYS["coordinator"]).encode())
    bundle.check_signed(COORDINATORS)
    wrong = [
        Signed.make(BUNDLE, KEYS["second"]),  # another key than the dealer's
        Signed.make(replace(BUNDLE, dealer="hospital-a"), KEYS["hospital-a"]),  # no coordinator
        Signed.make(BUNDLE, KEYS["second"], "second"),
    ]
    for other in wrong:
        with pytest.raises(WireError, match="expected the signature of") as caught:
            other.check_signed(COORDINATORS)
        assert caught.value.reason == Reason.BAD_SIGNATURE
    with pytest.raises(WireError):
        bundle.check_signed({"second": PUBLIC["second"]})


def test_base64_has_one_form():
    value = canonical.parse(encoded(BUNDLE), 2**20)
    assert parsed(EpochBundle, canonical.encode(value)) == BUNDLE
    for payload in ("AAB=", "AA", "A===", "AA==\n", "AA== ", "-_==", "AAAA=", None, 1):
        with pytest.raises(WireError):
            parsed(EpochBundle, canonical.encode(value | {"payload": payload}))
        with pytest.raises(WireError):
            parsed(EpochBundle, canonical.encode(value | {"sealed": {"hospital-a": payload}}))
    assert parsed(EpochBundle, canonical.encode(value | {"payload": "AAA="})).payload == b"\0\0"


def test_at_least_one_site():
    value = canonical.parse(encoded(BUNDLE), 2**20)
    with pytest.raises(WireError, match="expected 1 to"):
        parsed(EpochBundle, canonical.encode(value | {"sealed": {}}))


def test_a_commitment_is_its_sites_own_word():
    signed = Signed.parse(Commitment, Signed.make(COMMITMENT, KEYS["hospital-a"]).encode())
    signed.check_signed(PUBLIC)
    with pytest.raises(
        WireError, match="commitment of site hospital-a: expected the signature of hospital-a"
    ) as caught:
        signed.check_signed({"hospital-a": PUBLIC["hospital-b"]})
    assert caught.value.reason == Reason.BAD_SIGNATURE
    with pytest.raises(WireError):
        Signed.make(COMMITMENT, KEYS["hospital-b"]).check_signed(PUBLIC)
