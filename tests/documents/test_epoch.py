"""Epoch documents: who may deal, and whose word a commitment is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from he_agg import canonical
from he_agg.documents.epoch import EpochBundle, SignedBundle, SignedCommitment
from he_agg.errors import Reason, WireError
from tests.support.documents import EXAMPLES, KEYS

BUNDLE, COMMITMENT = EXAMPLES["epoch"].body, EXAMPLES["commitment"].body
PUBLIC = {name: key.public_key for name, key in KEYS.items()}
COORDINATORS = {name: PUBLIC[name] for name in ("coordinator", "second")}


def test_the_dealer_has_to_be_a_coordinator_and_to_sign():
    bundle = SignedBundle.parse(SignedBundle.make(BUNDLE, KEYS["coordinator"]).encode())
    bundle.check_signed(COORDINATORS)
    wrong = [
        SignedBundle.make(BUNDLE, KEYS["second"]),  # another key than the dealer's
        SignedBundle.make(replace(BUNDLE, dealer="hospital-a"), KEYS["hospital-a"]),  # no coordinator
        SignedBundle(BUNDLE, SignedBundle.make(replace(BUNDLE, dealer="second"), KEYS["second"]).document),
    ]
    for other in wrong:
        with pytest.raises(WireError, match="no coordinator") as caught:
            other.check_signed(COORDINATORS)
        assert caught.value.reason == Reason.BAD_SIGNATURE
    with pytest.raises(WireError):
        bundle.check_signed({"second": PUBLIC["second"]})


def test_base64_has_one_form():
    value = canonical.parse(BUNDLE.encode(), 2**20)
    assert EpochBundle.parse(canonical.encode(value)) == BUNDLE
    for payload in ("AAB=", "AA", "A===", "AA==\n", "AA== ", "-_==", "AAAA=", None, 1):
        with pytest.raises(WireError):
            EpochBundle.parse(canonical.encode(value | {"payload": payload}))
        with pytest.raises(WireError):
            EpochBundle.parse(canonical.encode(value | {"sealed": {"hospital-a": payload}}))
    assert EpochBundle.parse(canonical.encode(value | {"payload": "AAA="})).payload == b"\0\0"


def test_at_least_one_site():
    value = canonical.parse(BUNDLE.encode(), 2**20)
    with pytest.raises(WireError, match="expected 1 to"):
        EpochBundle.parse(canonical.encode(value | {"sealed": {}}))


def test_a_commitment_is_its_sites_own_word():
    signed = SignedCommitment.parse(SignedCommitment.make(COMMITMENT, KEYS["hospital-a"]).encode())
    signed.check_signed(PUBLIC["hospital-a"])
    assert SignedCommitment.from_document(signed.document) == signed
    with pytest.raises(WireError, match="not that of site hospital-a") as caught:
        signed.check_signed(PUBLIC["hospital-b"])
    assert caught.value.reason == Reason.BAD_SIGNATURE
    with pytest.raises(WireError):
        SignedCommitment.make(COMMITMENT, KEYS["hospital-b"]).check_signed(PUBLIC["hospital-a"])
