"""Messages of RFC 5424, read by another author's parser, whatever is in their fields."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.audit_events.catalogue import CATALOGUE, FIELDS
from service.audit_events.event import make_event
from service.monitor.audit_log.syslog import framed, syslog_message
from tests.support.receivers import parsed

# This parser takes a backslash at the end of a value for part of it and more; rsyslog does not: see test_rsyslog.py.
HOSTILE = st.text() | st.text(alphabet='"\\]=[ <>1\r\n\x00\x1b\u2028\u202e\udcff{}%', max_size=40)
HOSTILE = HOSTILE.filter(lambda text: not text.endswith("\\"))


def message_of(event, host="aggregator.example", sequence=1):
    return syslog_message(event, host=host, process=4711, sequence=sequence)


@given(by=HOSTILE, reason=HOSTILE, count=st.integers(0, 2**63), sequence=st.integers(1, 2**40))
def test_hostile_fields_come_through_as_one_printable_message(by, reason, count, sequence):
    event = make_event("operator.sign-in-failed", by=by, reason=reason, count=count)
    message = message_of(event, sequence=sequence)
    assert len(message) <= 2048, "what every receiver takes (RFC 5424, 6.1)"
    assert message.decode().isprintable() or message.decode().replace("\ufeff", "").isprintable()
    read = parsed(message)
    fields = read.sd.get("he-agg@32473", {})
    assert fields == {name: str(value) for name, value in event.fields.items()}
    assert fields.get("count") == str(count)
    for name, given_ in (("by", by), ("reason", reason)):
        if given_ and len(given_) <= 255:
            assert fields[name] == "".join(each if each.isprintable() else "\ufffd" for each in given_)
    assert 1 <= int(read.sd["meta"]["sequenceId"]) <= 2**31 - 1


@given(host=st.text())
def test_the_name_of_a_machine_breaks_no_header(host):
    read = parsed(message_of(make_event("aggregator.started"), host=host))
    assert 1 <= len(read.hostname or "-") <= 255
    assert read.appname == "he-agg"


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_kind_is_a_message(name):
    kind = CATALOGUE[name]
    # The longest that a field can be, and all of them.
    event = make_event(name, **dict.fromkeys(kind.fields, "ü" * 300))
    message = message_of(event)
    read = parsed(message)
    assert (read.msgid, read.appname, read.procid) == (name, "he-agg", 4711)
    assert (read.facility.name, read.severity.value) == ("audit", kind.severity.value)
    assert read.sd["he-agg@32473"] == dict.fromkeys(kind.fields, "ü" * 254 + "…")
    assert read.msg.lstrip("\ufeff") == kind.meaning
    assert f" \ufeff{kind.meaning}".encode() in message
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", read.timestamp)


@pytest.mark.parametrize("name", CATALOGUE)
def test_names_are_such_as_syslog_takes(name):
    assert len(name) <= 32
    assert set(name) <= set(string.ascii_lowercase + ".-")
    assert set(CATALOGUE[name].fields) <= set(FIELDS)
    assert all(len(field) <= 32 and field.isascii() and field.isidentifier() for field in FIELDS)


def test_a_field_that_a_kind_has_not_is_refused():
    with pytest.raises(ValueError, match="part"):
        make_event("federation.paused", part=1)


def test_a_frame_says_how_long_a_message_is():
    assert framed("<110>1 ü".encode()) == b"9 <110>1 \xc3\xbc"
