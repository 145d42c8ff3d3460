"""Manifests and records: one canonical form, and each wrong binding refused with its reason."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg import canonical
from he_agg.errors import ProtocolError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.manifest import Manifest
from he_agg.messages import CurrentRound, Receipt, SubmissionStatus, read
from he_agg.record import RoundRecord
from tests.support.federation import plan_of

PLAN = plan_of(5000, part_bytes=2**16).public
ROUND = RoundId("test", 3, 1)
KEY = "ab" * 32
MANIFEST = Manifest(ROUND, 1, KEY, PLAN.plan_id, "hospital-a", "0f" * 16, ("11" * 32, "22" * 32, "33" * 32))
RECORD = RoundRecord(
    ROUND, 1, KEY, PLAN.plan_id, "published", {"hospital-a": "44" * 32}, {"hospital-b": "late"}, ("55" * 32,)
)


def test_round_trip():
    assert Manifest.parse(MANIFEST.encode()) == MANIFEST
    assert Manifest.parse(MANIFEST.encode()).submission_id == MANIFEST.submission_id
    assert RoundRecord.parse(RECORD.encode()) == RECORD


def test_every_field_is_in_the_id():
    ids = {
        MANIFEST.submission_id,
        replace(MANIFEST, nonce="10" * 16).submission_id,
        replace(MANIFEST, site="hospital-b").submission_id,
        replace(MANIFEST, round_id=RoundId("test", 3, 2)).submission_id,
        replace(MANIFEST, epoch=2).submission_id,
        replace(MANIFEST, part_digests=("11" * 32,)).submission_id,
    }
    assert len(ids) == 6


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
    members = json.loads(document.encode())
    name = data.draw(st.sampled_from(sorted(members)))
    value = data.draw(st.sampled_from([None, True, -1, "", "x", [1], {"a": 1}, {"hospital-a": "x"}, 2**53 - 1]))
    members[name] = value
    try:
        parsed = type(document).parse(canonical.encode(members))
    except WireError:
        return
    # "x" is a fine name of a site, and a record's lists may be empty: what parses is another document.
    assert parsed != document
    assert parsed.encode() == canonical.encode(members)


@pytest.mark.parametrize("document", [MANIFEST, RECORD], ids=["manifest", "record"])
@given(data=st.binary(max_size=300))
def test_any_bytes_give_a_document_or_a_wire_error(document, data):
    with pytest.raises(WireError):
        type(document).parse(data)


def test_a_record_names_each_site_once():
    with pytest.raises(WireError):
        RoundRecord.parse(replace(RECORD, excluded={"hospital-a": "late"}).encode())


def test_a_failed_record_has_no_sum_and_a_published_one_has():
    failed = replace(RECORD, outcome="failed", sum_digests=())
    assert RoundRecord.parse(failed.encode()) == failed
    for wrong in (replace(RECORD, sum_digests=()), replace(RECORD, outcome="failed")):
        with pytest.raises(WireError):
            RoundRecord.parse(wrong.encode())


@pytest.mark.parametrize(
    "text", ["", "a", "a.1", "a.0.1", "a.1.0", "A.1.1", "a.1.1.1", "a.01.1", "a.1.1\n", "a.9999999999.1"]
)
def test_round_ids_have_one_form(text):
    with pytest.raises(WireError):
        RoundId.parse(text)


def test_round_id_round_trip():
    assert RoundId.parse(str(ROUND)) == ROUND


def test_answers_are_read_tolerantly_but_typed():
    receipt = read(Receipt, b'{"id":"x","round_id":"a.1.1","site":"s","accepted_at":5,"new_member":1}')
    assert receipt == Receipt("x", "a.1.1", "s", 5)
    current = read(CurrentRound, b'{"federation":"a","state":"ended","epoch":1,"key_id":"k","plan_id":"p"}')
    assert current.round_id is None
    for body in (b"", b"[]", b"{}", b"\xff", b'{"id":1,"round_id":"a","site":"s","accepted_at":5}'):
        with pytest.raises(ProtocolError):
            read(Receipt, body)
    with pytest.raises(ProtocolError):
        read(SubmissionStatus, b'{"id":"x","round_id":"a","state":"open","parts":1,"missing":["0"]}')
