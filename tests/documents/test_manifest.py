"""Manifests and records: one canonical form, and each wrong binding refused with its reason."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from he_agg import canonical
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import NO_RECORD, RoundRecord
from he_agg.documents.signed import Signed
from he_agg.errors import ProtocolError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.mac import tag_count
from he_agg.protocol.messages import SubmissionStatus
from tests.support.documents import KEYS, encoded, parsed
from tests.support.federation import plan_of

PLAN = plan_of(5000, part_bytes=2**16).public
ROUND = RoundId("test", 3, 1)
KEY = "ab" * 32
MANIFEST = Manifest(
    round_id=ROUND,
    epoch=1,
    key_id=KEY,
    plan_id=PLAN.plan_id,
    site="hospital-a",
    nonce="0f" * 16,
    part_digests=("11" * 32, "22" * 32, "33" * 32),
    tags=tuple((*[0] * (tag_count(place.section) - 1), place.section.modulus - 1) for place in PLAN.places),
    roster="66" * 32,
    previous="77" * 32,
)
RECORD = RoundRecord(
    round_id=ROUND,
    index=5,
    previous="77" * 32,
    closed_at=1_800_000_000,
    roster="66" * 32,
    epoch=1,
    key_id=KEY,
    plan_id=PLAN.plan_id,
    outcome="published",
    members={"hospital-a": "44" * 32},
    excluded={"hospital-b": "late"},
    sum_digests=("55" * 32,),
)
SITE, AGGREGATOR = KEYS["hospital-a"], KEYS["aggregator"]


def id_of(manifest):
    return Signed.make(manifest, SITE).digest


def test_round_trip():
    assert parsed(Manifest, encoded(MANIFEST)) == MANIFEST
    assert parsed(RoundRecord, encoded(RECORD)) == RECORD
    signed = Signed.make(MANIFEST, SITE)
    assert Signed.parse(Manifest, signed.encode()) == signed
    assert signed.digest == hashlib.sha256(signed.encode()).hexdigest()


def test_every_field_is_in_the_id():
    changes: dict[str, Any] = {
        "round_id": RoundId("test", 3, 2),
        "epoch": 2,
        "key_id": "cd" * 32,
        "plan_id": "00" * 32,
        "site": "hospital-b",
        "nonce": "10" * 16,
        "part_digests": ("11" * 32,),
        "tags": ((1,),),
        "roster": "00" * 32,
        "previous": "00" * 32,
        "holders": "00" * 32,
        "dealing": "00" * 32,
    }
    assert set(changes) == {field.name for field in fields(Manifest)}
    ids = {id_of(MANIFEST), *(id_of(replace(MANIFEST, **{name: value})) for name, value in changes.items())}
    assert len(ids) == 1 + len(changes)
    # ... and so is who signed: another key makes another submission of the same manifest.
    assert Signed.make(MANIFEST, AGGREGATOR).digest not in ids


def test_a_manifest_has_one_signature_its_sites():
    signed = Signed.make(MANIFEST, SITE)
    keys = {name: key.public_key for name, key in KEYS.items()}
    signed.check_signed(keys)
    with pytest.raises(WireError, match="expected the signature of hospital-a") as caught:
        Signed.make(MANIFEST, AGGREGATOR).check_signed(keys)
    assert caught.value.reason == Reason.BAD_SIGNATURE
    for document in (
        signed.signed_by("hospital-b", KEYS["hospital-b"]),
        Signed(MANIFEST),
        Signed.make(MANIFEST, KEYS["hospital-b"], "hospital-b"),
    ):
        with pytest.raises(WireError, match="expected one signature") as caught:
            Signed.parse(Manifest, document.encode())
        assert caught.value.reason == Reason.BAD_SIGNATURE


def test_a_record_is_signed_by_an_aggregator_of_the_roster():
    signed = Signed.parse(RoundRecord, Signed.make(RECORD, AGGREGATOR, "aggregator").encode())
    signed.check_signed({"aggregator": AGGREGATOR.public_key})
    signed.check_signed({"aggregator": AGGREGATOR.public_key, "second": KEYS["second"].public_key})
    for keys in ({}, {"aggregator": SITE.public_key}, {"other": AGGREGATOR.public_key}):
        with pytest.raises(WireError, match=r"record 5 of round .*: expected the signature of") as caught:
            signed.check_signed(keys)
        assert caught.value.reason == Reason.BAD_SIGNATURE


def test_the_first_record_and_no_other_follows_nothing():
    first = replace(RECORD, index=1, previous=NO_RECORD)
    assert parsed(RoundRecord, encoded(first)) == first
    for wrong in (replace(first, index=2), replace(first, previous="77" * 32), replace(first, index=0)):
        with pytest.raises(WireError):
            parsed(RoundRecord, encoded(wrong))


@pytest.mark.parametrize(
    "tags",
    [
        "1",
        [["0"] * 129],
        [[1]],
        [["-1"]],
        [["01"]],
        [["+1"]],
        [[" 1"]],
        [["1e3"]],
        [["9" * 21]],
        [[""]],
        [["\u0661"]],
        [None],
        [["0x1"]],
    ],
    ids=str,
)
def test_tags_that_are_none(tags):
    members = json.loads(encoded(MANIFEST))
    assert parsed(Manifest, canonical.encode(members | {"tags": [["0", "9" * 20], []]})).tags == ((0, 10**20 - 1), ())
    with pytest.raises(WireError):
        parsed(Manifest, canonical.encode(members | {"tags": tags}))


def test_tags_of_more_parts_than_there_can_be():
    with pytest.raises(WireError):
        parsed(Manifest, canonical.encode(json.loads(encoded(MANIFEST)) | {"tags": [[]] * 50_001}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"plan_id": "00" * 32}, Reason.PLAN_MISMATCH),
        ({"round_id": RoundId("test", 3, 2)}, Reason.BAD_FIELD),
        ({"round_id": RoundId("other", 3, 1)}, Reason.BAD_FIELD),
        ({"epoch": 2}, Reason.KEY_MISMATCH),
        ({"key_id": "cd" * 32}, Reason.KEY_MISMATCH),
        ({"site": "hospital-b"}, Reason.FORBIDDEN),
        ({"part_digests": ("11" * 32,)}, Reason.BAD_FIELD),
        ({"tags": ()}, Reason.BAD_FIELD),
        ({"tags": ((),)}, Reason.BAD_FIELD),
        ({"tags": MANIFEST.tags[:-1]}, Reason.BAD_FIELD),
        ({"tags": (*MANIFEST.tags, MANIFEST.tags[0])}, Reason.BAD_FIELD),
        ({"tags": (*MANIFEST.tags[:-1], (*MANIFEST.tags[0], 0))}, Reason.BAD_FIELD),
        ({"tags": (*MANIFEST.tags[:-1], (PLAN.sections[0].modulus, *MANIFEST.tags[0][1:]))}, Reason.BAD_FIELD),
    ],
)
def test_a_manifest_for_something_else_is_refused(change, reason):
    MANIFEST.check(PLAN, ROUND, 1, KEY, "hospital-a")
    with pytest.raises(WireError) as caught:
        replace(MANIFEST, **change).check(PLAN, ROUND, 1, KEY, "hospital-a")
    assert caught.value.reason == reason


@pytest.mark.parametrize("document", [MANIFEST, RECORD], ids=["manifest", "record"])
@given(data=st.data())
def test_nonsense_in_any_member_is_refused_or_another_document(document, data):
    members = json.loads(encoded(document))
    name = data.draw(st.sampled_from(sorted(members)))
    value = data.draw(st.sampled_from([None, True, -1, "", "x", [1], {"a": 1}, {"hospital-a": "x"}, 2**53 - 1]))
    assume(members[name] != value)  # a record without a seed has null there
    members[name] = value
    try:
        other = parsed(type(document), canonical.encode(members))
    except WireError:
        return
    # "x" is a fine name of a site, and a record's lists may be empty: what parses is another document.
    assert other != document
    assert encoded(other) == canonical.encode(members)


@pytest.mark.parametrize("document", [MANIFEST, RECORD], ids=["manifest", "record"])
@given(data=st.binary(max_size=300))
def test_any_bytes_give_a_document_or_a_wire_error(document, data):
    with pytest.raises(WireError):
        parsed(type(document), data)


def test_a_record_names_each_site_once():
    with pytest.raises(WireError):
        parsed(RoundRecord, encoded(replace(RECORD, excluded={"hospital-a": "late"})))


def test_a_failed_record_has_no_sum_and_a_published_one_has():
    failed = replace(RECORD, outcome="failed", sum_digests=())
    assert parsed(RoundRecord, encoded(failed)) == failed
    for wrong in (replace(RECORD, sum_digests=()), replace(RECORD, outcome="failed")):
        with pytest.raises(WireError):
            parsed(RoundRecord, encoded(wrong))


@pytest.mark.parametrize(
    "text", ["", "a", "a.1", "a.0.1", "a.1.0", "A.1.1", "a.1.1.1", "a.01.1", "a.1.1\n", "a.9999999999.1"]
)
def test_round_ids_have_one_form(text):
    with pytest.raises(WireError):
        RoundId.parse(text)


def test_round_id_round_trip():
    assert RoundId.parse(str(ROUND)) == ROUND


def test_answers_are_read_tolerantly_but_typed():
    status = b'{"upload":"x","round_id":"a.1.1","state":"open","parts":2,"missing":[0],"dealing_missing":true,"new":1}'
    assert SubmissionStatus.parse(status) == SubmissionStatus("x", "a.1.1", "open", 2, [0], dealing_missing=True)
    for body in (b"", b"[]", b"{}", b"\xff", status.replace(b'"x"', b"1"), status.replace(b"true", b"1")):
        with pytest.raises(ProtocolError):
            SubmissionStatus.parse(body)
    with pytest.raises(ProtocolError):
        SubmissionStatus.parse(
            b'{"upload":"x","round_id":"a","state":"open","parts":1,"missing":["0"],"dealing_missing":false}'
        )
