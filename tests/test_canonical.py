"""Canonical JSON: whatever parses encodes to the very same bytes."""

from __future__ import annotations

import contextlib

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from he_agg import canonical
from he_agg.errors import WireError

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(values)
def test_round_trip(value):
    try:
        data = canonical.encode(value)
    except WireError:
        return  # deeper than we ever nest
    assert canonical.parse(data, 10**6) == value
    assert canonical.encode(canonical.parse(data, 10**6)) == data


everything = st.text(st.characters(), max_size=8)  # surrogates and astral characters, too


@given(st.dictionaries(everything, st.lists(everything, max_size=3), max_size=5))
def test_any_text_is_written_as_another_library_writes_rfc_8785(value):
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        with pytest.raises(WireError):
            canonical.encode(value)
        return
    assert canonical.encode(value) == expected


@given(values)
def test_documents_are_written_as_another_library_writes_rfc_8785(value):
    with contextlib.suppress(WireError):
        assert canonical.encode(value) == rfc8785.dumps(value)


@given(st.binary(max_size=100) | values.map(lambda v: repr(v).encode()))
def test_any_bytes_give_a_value_or_a_wire_error(data):
    try:
        value = canonical.parse(data, 80)
    except WireError:
        return
    assert canonical.encode(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b"1.0",
        b"1e3",
        b"NaN",
        b"Infinity",
        b"-0",
        b"9007199254740992",
        b'"\\u00e4"',
        b'"\\u00E4"',
        b'"\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\xc3"',
        b'"\\/"',
        b'"\\u000a"',
        b'{"\xee\x80\x80":1,"\xf0\x9f\x98\x80":1}',
        b"[1]\n",
        b"[" * 5000 + b"]" * 5000,
        b"[" * 20 + b"]" * 20,
        b"1" * 5000,
        b'"' + b"x" * 10**6 + b'"',
    ],
)
def test_other_forms_are_refused(data):
    with pytest.raises(WireError):
        canonical.parse(data, 10**5)


@given(st.binary(max_size=100) | values.map(lambda v: repr(v).encode()))
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(WireError):
        canonical.loads(data)


def test_json_of_any_form_is_read():
    assert canonical.loads(b' {"b": [1, -2.5e3, "\xc3\xa4]{[\\"["], "a": null}\n') == {
        "b": [1, -2500.0, 'ä]{["['],
        "a": None,
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b'{"a": 1, "a": 1}',
        b'{"x": {"a": 1, "b": 2, "a": 3}}',
        b"[" * 10 + b"]" * 10,
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b'"' + b'\\"' * 10**6,
        b'"[' * 10**6,
        b"1" + b"0" * 400,
        b"-1" + b"0" * 10**6,
        b"9007199254740992",
        b"1e400",
        b"NaN",
        b"-Infinity",
    ],
    ids=lambda data: data[:12].decode("latin-1"),
)
def test_json_of_any_form_has_bounds(data):
    with pytest.raises(WireError):
        canonical.loads(data)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimals_read_back_to_the_same_float(number):
    assert canonical.parse_decimal(canonical.decimal(number)) == number


@pytest.mark.parametrize("text", ["", "nan", "inf", "-inf", "1", "01.0", "1.00", "1e0", " 1.0", "x", "1_0.0"])
def test_other_decimals_are_refused(text):
    with pytest.raises(WireError):
        canonical.parse_decimal(text)


@given(st.text(st.sampled_from('[]{}",\\a'), max_size=60).map(str.encode))
def test_depth_is_counted_outside_of_strings_alone(data):
    """The quick way, where there is no backslash, finds what the one for all documents finds."""
    outside, inside, escaped = 0, False, False
    deepest = 0
    for character in data.decode():
        if inside:
            inside, escaped = character != '"' or escaped, character == "\\" and not escaped
        elif character == '"':
            inside = True
        elif character in "[]{}":
            outside += 1 if character in "[{" else -1
            deepest = max(deepest, outside)
    refused = deepest > canonical.MAX_DEPTH + 1
    with pytest.raises(WireError, match="levels") if refused else contextlib.nullcontext():
        canonical._check_nesting(data)
