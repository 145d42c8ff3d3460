"""Signed requests: the RFC's own vector, one strict form, and nothing that is covered can be changed."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.errors import Reason, WireError
from he_agg.protocol.http_signatures import (
    COMPONENTS,
    EMPTY_DIGEST,
    RequestHead,
    digest_field,
    parse_claim,
    sign_request,
    signature_base,
    verify_request,
)
from he_agg.signing import SigningKey, verify

KEY = SigningKey.from_bytes(bytes(range(32)))
HEAD = RequestHead("GET", "/v1/rounds/stroke.1.1/record", "wait=30", EMPTY_DIGEST, "stroke")
SIGNED = sign_request(HEAD, "hospital-a", KEY, 1_800_000_000.9)
INPUT, SIGNATURE = SIGNED["Signature-Input"], SIGNED["Signature"]


def test_vector_of_rfc_9421_b_2_6():
    public_key = base64.b64decode("MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")[-32:]
    signature = base64.b64decode(
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    )
    components = [
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("@method", "POST"),
        ("@path", "/foo"),
        ("@authority", "example.com"),
        ("content-type", "application/json"),
        ("content-length", "18"),
    ]
    params = (
        '("date" "@method" "@path" "@authority" "content-type" "content-length")'
        ';created=1618884473;keyid="test-key-ed25519"'
    )
    assert verify(public_key, signature, signature_base(components, params))
    assert not verify(public_key, signature, signature_base(components[::-1], params))
    assert not verify(public_key, signature, signature_base(components, params.replace("1618884473", "1618884474")))


def test_digests_are_those_of_rfc_9530():
    # RFC 9530, appendix D: the digest of {"hello": "world"} and a line feed
    assert digest_field(b'{"hello": "world"}\n') == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    assert base64.b64encode(hashlib.sha256(b"").digest()).decode() == EMPTY_DIGEST[9:-1]


def test_our_own_base_written_out():
    """What PROTOCOL.md promises to whoever writes another client."""
    claim = parse_claim(INPUT, SIGNATURE)
    lines = HEAD.base(claim.params).decode().split("\n")
    assert lines == [
        '"@method": GET',
        '"@path": /v1/rounds/stroke.1.1/record',
        '"@query": ?wait=30',
        '"content-digest": sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:',
        '"he-agg-federation": stroke',
        '"@signature-params": ("@method" "@path" "@query" "content-digest" "he-agg-federation")'
        f';created=1800000000;nonce="{claim.nonce}";keyid="hospital-a";alg="ed25519"',
    ]
    assert replace(HEAD, query="").base(claim.params).decode().split("\n")[2] == '"@query": ?'


def test_who_signed_and_when():
    claim = parse_claim(INPUT, SIGNATURE)
    assert (claim.name, claim.created, len(claim.signature)) == ("hospital-a", 1_800_000_000, 64)
    assert verify_request(HEAD, claim, KEY.public_key)
    assert not verify_request(HEAD, claim, SigningKey.generate().public_key)
    assert (SIGNED["Content-Digest"], SIGNED["He-Agg-Federation"]) == (EMPTY_DIGEST, "stroke")
    assert parse_claim(*_again()).nonce != claim.nonce


def _again():
    signed = sign_request(HEAD, "hospital-a", KEY, 1_800_000_000)
    return signed["Signature-Input"], signed["Signature"]


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"},
        {"method": "get"},
        {"path": "/v1/rounds/stroke.1.2/record"},
        {"path": "/v1/rounds/stroke.1.1/record/"},
        {"path": "/V1/rounds/stroke.1.1/record"},
        {"path": "/v1/rounds/stroke%2E1.1/record"},
        {"path": "/prefix/v1/rounds/stroke.1.1/record"},
        {"path": '/v1/rounds/stroke.1.1/record\n"@query": ?wait=30'},
        {"query": ""},
        {"query": "wait=31"},
        {"query": "wait=30&after=x"},
        {"content_digest": digest_field(b"x")},
        {"federation": "stroke2"},
        {"federation": ""},
    ],
    ids=str,
)
def test_whatever_is_covered_cannot_be_changed(changed):
    claim = parse_claim(INPUT, SIGNATURE)
    assert verify_request(HEAD, claim, KEY.public_key)
    assert not verify_request(replace(HEAD, **changed), claim, KEY.public_key)


def test_every_field_of_the_head_is_covered():
    assert len(COMPONENTS) == len(fields(RequestHead)) == 5


@given(st.sampled_from([field.name for field in fields(RequestHead)]), st.text(max_size=30))
def test_no_other_text_in_any_field(name, text):
    claim = parse_claim(INPUT, SIGNATURE)
    changed = replace(HEAD, **{name: text})
    assert verify_request(changed, claim, KEY.public_key) is (changed == HEAD)


@pytest.mark.parametrize(
    ("field", "text"), [("path", "/v1/\u20ac"), ("path", "/v1/\xe9"), ("query", "a\nb"), ("query", "\x7f")]
)
def test_what_has_no_one_form_is_signed_by_nobody(field, text):
    """A signature over '?' must not become one over whatever is written as '?'."""
    for signed in (text, text.encode("ascii", "replace").decode()):
        head = replace(HEAD, **{field: signed})
        stated = sign_request(head, "hospital-a", KEY, 1)
        claim = parse_claim(stated["Signature-Input"], stated["Signature"])
        assert not verify_request(replace(HEAD, **{field: text}), claim, KEY.public_key)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("created=1800000000", "created=1800000001"),
        ('keyid="hospital-a"', 'keyid="hospital-b"'),
        (parse_claim(INPUT, SIGNATURE).nonce, "A" * 22),
    ],
    ids=["created", "keyid", "nonce"],
)
def test_parameters_are_covered_too(old, new):
    assert INPUT.count(old) == 1
    claim = parse_claim(INPUT.replace(old, new), SIGNATURE)
    assert not verify_request(HEAD, claim, KEY.public_key)
    assert verify_request(HEAD, parse_claim(INPUT, SIGNATURE), KEY.public_key)


NONCE = parse_claim(INPUT, SIGNATURE).nonce
OTHER_FORMS = {
    "components in another order": INPUT.replace('"@method" "@path"', '"@path" "@method"'),
    "a component less": INPUT.replace(' "content-digest"', ""),
    "a component more": INPUT.replace('"he-agg-federation")', '"he-agg-federation" "date")'),
    "a component twice": INPUT.replace('("@method"', '("@method" "@method"'),
    "no components": INPUT.replace(INPUT[INPUT.index("(") : INPUT.index(")") + 1], "()"),
    "a component with a parameter": INPUT.replace('"@query"', '"@query";req'),
    "another component name": INPUT.replace('"@path"', '"@target-uri"'),
    "capitals": INPUT.replace('"@method"', '"@METHOD"'),
    "white space": INPUT.replace(";created", "; created"),
    "more white space": INPUT.replace('"@method" ', '"@method"  '),
    "a space before": " " + INPUT,
    "a space after": INPUT + " ",
    "a line feed after": INPUT + "\n",
    "another parameter": INPUT + ';tag="x"',
    "expires": INPUT.replace(";nonce", ";expires=1900000000;nonce"),
    "parameters in another order": INPUT.replace(
        f';nonce="{NONCE}";keyid="hospital-a"', f';keyid="hospital-a";nonce="{NONCE}"'
    ),
    "no nonce": INPUT.replace(f';nonce="{NONCE}"', ""),
    "no algorithm": INPUT.replace(';alg="ed25519"', ""),
    "another algorithm": INPUT.replace("ed25519", "hmac-sha256"),
    "an algorithm in capitals": INPUT.replace("ed25519", "Ed25519"),
    "another label": INPUT.replace("he-agg=", "sig1=", 1),
    "no label": INPUT.removeprefix("he-agg="),
    "two signatures": f"{INPUT}, sig1=();created=1",
    "the same label twice": f"{INPUT}, {INPUT}",
    "created with a fraction": INPUT.replace("1800000000", "1800000000.5"),
    "created in quotes": INPUT.replace("1800000000", '"1800000000"'),
    "created negative": INPUT.replace("1800000000", "-1800000000"),
    "created with a zero in front": INPUT.replace("1800000000", "01800000000"),
    "created far too long": INPUT.replace("1800000000", "1" * 13),
    "created in other digits": INPUT.replace("1800000000", "\u0661800000000"),
    "a short nonce": INPUT.replace(NONCE, NONCE[:-1]),
    "a long nonce": INPUT.replace(NONCE, NONCE + "A"),
    "a nonce of other characters": INPUT.replace(NONCE, NONCE[:-1] + "="),
    "a name that is none": INPUT.replace("hospital-a", "Hospital A"),
    "a name with an escape": INPUT.replace("hospital-a", 'hospital-a\\"'),
    "an empty name": INPUT.replace("hospital-a", ""),
    "a name in another alphabet": INPUT.replace("hospital-a", "hospital-\u0430"),
    "nothing": "",
}


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_another_form_of_signature_input_is_refused(name):
    assert OTHER_FORMS[name] != INPUT
    parse_claim(INPUT, SIGNATURE)
    with pytest.raises(WireError) as caught:
        parse_claim(OTHER_FORMS[name], SIGNATURE)
    assert caught.value.reason == Reason.BAD_SIGNATURE


BASE64 = SIGNATURE[8:-1]


@pytest.mark.parametrize(
    "other",
    [
        "",
        BASE64,
        f":{BASE64}:",
        f"sig1=:{BASE64}:",
        f"he-agg={BASE64}",
        f"he-agg=:{BASE64}:\n",
        f" he-agg=:{BASE64}:",
        f"he-agg=:{BASE64}:;x",
        f"he-agg=:{BASE64}:, he-agg=:{BASE64}:",
        f"he-agg=:{BASE64[:-2]}:",
        f"he-agg=:{BASE64[:-3]}==:",
        f"he-agg=:AAAA{BASE64}:",
        f"he-agg=:-{BASE64[1:]}:",
        f"he-agg=: {BASE64[1:]}:",
        f"he-agg=:\u0430{BASE64[1:]}:",
    ],
    ids=lambda other: f"length {len(other)}",  # signatures differ from run to run
)
def test_another_form_of_signature_is_refused(other):
    assert f"he-agg=:{BASE64}:" == SIGNATURE
    parse_claim(INPUT, SIGNATURE)
    with pytest.raises(WireError) as caught:
        parse_claim(INPUT, other)
    assert caught.value.reason == Reason.BAD_SIGNATURE


@given(st.text(max_size=300), st.text(max_size=120))
def test_any_text_is_refused(stated, signed):
    for pair in ((stated, SIGNATURE), (INPUT, signed), (stated, signed)):
        with pytest.raises(WireError):
            parse_claim(*pair)


@given(st.data())
def test_any_change_of_a_character_is_refused_or_no_signature(data):
    which = data.draw(st.sampled_from([INPUT, SIGNATURE]))
    at = data.draw(st.integers(0, len(which) - 1))
    changed = which[:at] + data.draw(st.characters(max_codepoint=255)) + which[at + 1 :]
    try:
        claim = parse_claim(*((changed, SIGNATURE) if which == INPUT else (INPUT, changed)))
    except WireError:
        return
    same = changed == which or base64.b64decode(claim_bytes(changed, which)) == base64.b64decode(BASE64)
    assert verify_request(HEAD, claim, KEY.public_key) is same


def claim_bytes(changed, which):
    """What is compared: a signature's last character has four bits that say nothing."""
    return changed[8:-1] if which == SIGNATURE else b""


_NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
_PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)


@given(
    head=st.builds(RequestHead, st.sampled_from(["GET", "PUT", "POST"]), _PRINTABLE, _PRINTABLE, _PRINTABLE, _NAMES),
    name=_NAMES,
    now=st.integers(1, 10**11),
)
def test_what_is_signed_verifies(head, name, now):
    signed = sign_request(head, name, KEY, now)
    claim = parse_claim(signed["Signature-Input"], signed["Signature"])
    assert (claim.name, claim.created) == (name, now)
    assert verify_request(head, claim, KEY.public_key)
