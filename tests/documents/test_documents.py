"""All signed documents alike: one form, round trips, and nothing in one can be changed unnoticed."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg import canonical
from he_agg.documents.record import RoundRecord
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.errors import Reason, WireError
from he_agg.protocol.messages import Receipt
from he_agg.signing import SigningKey
from tests.support.documents import EXAMPLES, KEYS, bodies, encoded

KINDS = sorted(EXAMPLES)
OF_AGGREGATORS = [RoundRecord, Receipt, FederationState]
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@given(data=st.data())
def test_round_trip(kind, data):
    body = data.draw(bodies[kind])
    data = encoded(body)
    assert EXAMPLES[kind].parse_body(data) == body
    assert canonical.encode(json.loads(data)) == data


@kinds
@given(data=st.data())
def test_signed_round_trip(kind, data):
    body = data.draw(bodies[kind])
    name = body.author or "hospital-a"
    document = Signed.make(body, KEYS["hospital-a"], name)
    again = Signed.parse(type(body), document.encode())
    assert (again, again.digest, again.body_digest) == (document, document.digest, document.body_digest)
    assert again.signers({name: KEYS["hospital-a"].public_key}) == {name}
    assert again.digest == hashlib.sha256(document.encode()).hexdigest()
    assert again.body_digest == hashlib.sha256(encoded(body)).hexdigest()
    assert document.encode() == canonical.encode(json.loads(document.encode()))


@kinds
def test_the_example_holds(kind):
    example = EXAMPLES[kind]
    assert example.check(example.document.encode()) == example.body
    public = {name: key.public_key for name, key in KEYS.items()}
    assert example.document.signers(public) == set(example.signers)


@kinds
def test_every_changed_byte_is_noticed(kind, rng):
    """Each byte once, with some other value: it does not parse, or its signature does not hold."""
    example = EXAMPLES[kind]
    whole = example.document.encode()
    noticed = {"form": 0, "signature": 0}
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= int(rng.integers(1, 256))
        with pytest.raises(WireError) as caught:
            example.check(bytes(changed))
        noticed["signature" if caught.value.reason == Reason.BAD_SIGNATURE else "form"] += 1
    example.check(whole)
    assert min(noticed.values()) > 0, noticed


@kinds
@given(data=st.data())
def test_a_digit_or_letter_for_another_is_noticed(kind, data):
    """Changes that leave the form alone as often as they can."""
    example = EXAMPLES[kind]
    whole = example.document.encode().decode()
    at = data.draw(st.sampled_from([i for i, character in enumerate(whole) if character in "0123456789abcdef"]))
    new = data.draw(st.sampled_from("0123456789abcdef").filter(lambda character: character != whole[at]))
    with pytest.raises(WireError):
        example.check((whole[:at] + new + whole[at + 1 :]).encode())


@kinds
@given(data=st.data())
def test_nonsense_in_any_member_is_refused_or_another_document(kind, data):
    body = EXAMPLES[kind].body
    members = json.loads(encoded(body))
    name = data.draw(st.sampled_from(sorted(members)))
    before = members[name]
    members[name] = data.draw(
        st.sampled_from(
            [None, True, -1, 0, "", "x", "A A", [1], [[1]], {"a": 1}, {"hospital-a": "x"}, 2**53 - 1]
        ).filter(lambda value: (type(value), value) != (type(before), before))
    )
    try:
        parsed = EXAMPLES[kind].parse_body(canonical.encode(members))
    except WireError:
        return
    # "x" is a fine name of a site, and some lists may be empty: what parses is another document.
    assert parsed != body
    assert encoded(parsed) == canonical.encode(members)


@kinds
def test_members_are_all_needed_and_no_others_known(kind):
    parse = EXAMPLES[kind].parse_body
    members = json.loads(encoded(EXAMPLES[kind].body))
    parse(canonical.encode(members))
    for name in members:
        rest = {other: value for other, value in members.items() if other != name}
        with pytest.raises(WireError):
            parse(canonical.encode(rest))
    with pytest.raises(WireError, match="unknown member"):
        parse(canonical.encode(members | {"zzz": 1}))


@kinds
def test_other_versions_are_refused(kind):
    members = json.loads(encoded(EXAMPLES[kind].body))
    for version in (members["v"] - 1, members["v"] + 1):
        with pytest.raises(WireError):
            EXAMPLES[kind].parse_body(canonical.encode(members | {"v": version}))


@kinds
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(kind, data):
    for parse in (EXAMPLES[kind].parse_body, EXAMPLES[kind].check):
        with pytest.raises(WireError):
            parse(data)


@kinds
def test_another_form_of_the_same_value_is_refused(kind):
    example = EXAMPLES[kind]
    value = json.loads(example.document.encode())
    example.check(canonical.encode(value))
    for other in (
        json.dumps(value).encode(),
        json.dumps(value, separators=(",", ":")).encode() + b"\n",
        json.dumps(dict(reversed(value.items())), separators=(",", ":")).encode(),
        example.document.encode().replace(b'{"body"', b'{"body":{},"body"', 1),
        b"\xef\xbb\xbf" + example.document.encode(),
    ):
        with pytest.raises(WireError):
            example.check(other)


@pytest.mark.parametrize("kind", OF_AGGREGATORS, ids=lambda kind: kind.KIND)
@pytest.mark.parametrize("other", OF_AGGREGATORS, ids=lambda kind: kind.KIND)
def test_a_signature_is_good_for_one_kind_only(kind, other):
    """The aggregator signs them all: its signature on the one is none on the other."""
    document = EXAMPLES[kind.KIND].document
    moved = Signed(EXAMPLES[other.KIND].body, document.signatures)
    keys = {"aggregator": KEYS["aggregator"].public_key}
    assert moved.signers(keys) == (keys.keys() if kind == other else set())


@kinds
@pytest.mark.parametrize("other", KINDS)
def test_a_document_is_of_one_kind_only(kind, other):
    """The same bytes, read as another kind or said to be one."""
    data, reader = EXAMPLES[kind].document.encode(), EXAMPLES[other]
    if kind != other:
        with pytest.raises(WireError):
            reader.check(data)
        with pytest.raises(WireError):
            reader.check(data.replace(f'"kind":"{kind}"'.encode(), f'"kind":"{other}"'.encode()))


@kinds
def test_who_signed(kind):
    """Signatures count for those whose keys are asked for, and under their own names only."""
    example = EXAMPLES[kind]
    name = example.signers[0]
    own = {name: KEYS[name].public_key}
    assert example.document.signers(own) == {name}
    assert example.document.signers({}) == set()
    assert example.document.signers({"nobody": KEYS[name].public_key}) == set()
    assert example.document.signers({name: SigningKey.generate().public_key}) == set()
    moved = Signed(example.body, {"mallory": example.document.signatures[name]})
    assert moved.signers(own) == set()
    # Of two signatures one may be bad: the other one counts.
    both = Signed(example.body, {**example.document.signatures, "mallory": bytes(64)})
    assert both.signers(own | {"mallory": SigningKey.generate().public_key}) == {name}


def test_what_is_signed_written_out():
    """FORMAT.md, for whoever writes a second implementation."""
    receipt = Receipt("ab" * 32, "stroke.3.1", "hospital-a", 1_800_000_000)
    body = f'{{"accepted_at":1800000000,"id":"{"ab" * 32}","round_id":"stroke.3.1","site":"hospital-a","v":1}}'
    signature = KEYS["second"].sign(b"he-agg/receipt/v1\x00" + hashlib.sha256(body.encode()).digest())
    document = Signed.make(receipt, KEYS["second"], "second")
    assert document.signatures == {"second": signature}
    written = f'{{"body":{body},"kind":"receipt","signatures":{{"second":"{signature.hex()}"}},"v":1}}'
    assert document.encode() == written.encode()


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"kind": "Receipt"},
        {"body": []},
        {"body": None},
        {"signatures": []},
        {"signatures": {"No Name": "00" * 64}},
        {"signatures": {"a": "00" * 63}},
        {"signatures": {"a": "0A" * 64}},
        {"signatures": {"a": None}},
        {"signatures": {f"a{i}": "00" * 64 for i in range(65)}},
        {"more": 1},
    ],
    ids=str,
)
def test_envelopes_that_are_refused(change):
    body = EXAMPLES["receipt"].body.to_json()
    value = {"v": 1, "kind": "receipt", "body": body, "signatures": {f"a{i}": "00" * 64 for i in range(64)}}
    Signed.parse(Receipt, canonical.encode(value))
    with pytest.raises(WireError):
        Signed.parse(Receipt, canonical.encode(value | change))
    for missing in value:
        rest = {name: member for name, member in value.items() if name != missing}
        with pytest.raises(WireError):
            Signed.parse(Receipt, canonical.encode(rest))


@kinds
def test_length_is_bounded(kind, monkeypatch):
    document = EXAMPLES[kind].document
    monkeypatch.setattr(type(document.body), "MAX_BYTES", len(document.encode()))
    Signed.parse(type(document.body), document.encode())
    monkeypatch.setattr(type(document.body), "MAX_BYTES", len(document.encode()) - 1)
    with pytest.raises(WireError) as caught:
        Signed.parse(type(document.body), document.encode())
    assert caught.value.reason == Reason.TOO_LARGE
