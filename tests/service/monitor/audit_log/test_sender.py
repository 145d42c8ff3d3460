"""A log that is slow or down: nobody waits for it, it is noticed, and what was lost is said."""

import json
import logging
import threading
import time

import pytest

from service.audit_events.event import make_event
from service.monitor.audit_log import sender as module
from service.monitor.audit_log.observer import Repeats
from service.monitor.audit_log.sender import Sender
from service.monitor.audit_log.targets import open_target
from tests.support.real import until
from tests.support.receivers import Collector, Syslog, parsed


@pytest.fixture
def lines():
    """What the aggregator's own log gets."""
    found = []

    class Handler(logging.Handler):
        def emit(self, record):
            found.append((record.levelname, record.getMessage(), record.__dict__["fields"]))

    handler = Handler()
    logger = logging.getLogger("he_agg.service")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr(module, "_RETRY_S", (0.05,))


def numbers(receiver):
    return [int(parsed(message).sd["meta"]["sequenceId"]) for message in receiver.messages]


def test_a_receiver_that_is_down_holds_up_nobody_and_gets_all_events_later(lines):
    with Syslog("tcp") as before:
        port = before.port
    sender = Sender(open_target(f"syslog+tcp://127.0.0.1:{port}"))
    for _ in range(50):
        sender.put(make_event("federation.paused", federation="stroke"))
    until(lambda: not sender.is_up)
    time.sleep(0.3)  # several more attempts, and no more lines
    assert [(level, message) for level, message, _ in lines] == [
        ("ERROR", "the audit log cannot be reached; events wait")
    ]
    with Syslog("tcp", port) as receiver:
        until(lambda: sender.sent == 50)
        assert sender.close() == 0
        until(lambda: len(receiver.messages) == 50)
    assert numbers(receiver) == list(range(1, 51))
    assert (sender.is_up, sender.lost, sender.waiting) == (True, 0, 0)
    assert lines[-1] == ("WARNING", "the audit log takes events again", {"lost": 0})


def test_what_does_not_fit_is_counted_and_said_in_the_log_itself(lines):
    with Syslog("tcp") as before:
        port = before.port
    sender = Sender(open_target(f"syslog+tcp://127.0.0.1:{port}"), waiting=10)
    for _ in range(25):
        sender.put(make_event("federation.paused", federation="stroke"))
    assert (sender.lost, sender.waiting) == (15, 10)
    until(lambda: not sender.is_up)
    with Syslog("tcp", port) as receiver:
        until(lambda: len(receiver.messages) == 11)
        sender.close()
    assert numbers(receiver) == [*range(1, 11), 26]
    gap = parsed(receiver.messages[-1])
    assert (gap.msgid, gap.sd["he-agg@32473"]) == ("audit-log.gap", {"lost": "15"})
    assert lines[-1][2] == {"lost": 15}


def test_a_collector_that_refuses_is_a_receiver_that_is_down(lines):
    collector = Collector()
    collector.status = 400
    sender = Sender(open_target(f"otlp:{collector.url}/v1/logs"))
    sender.put(make_event("federation.paused", federation="stroke"))
    until(lambda: not sender.is_up)
    collector.status = 200
    until(lambda: sender.sent == 1)
    assert sender.close() == 0
    collector.close()
    assert [level for level, *_ in lines] == ["ERROR", "WARNING"]


class Stuck:
    """A target that never comes back."""

    at_most = 1

    def __init__(self):
        self.entered, self.let_go = threading.Event(), threading.Event()

    def send(self, events):
        self.entered.set()
        self.let_go.wait(30)

    def close(self):
        pass


def test_a_target_that_hangs_keeps_neither_work_nor_the_end_waiting(lines):
    target = Stuck()
    sender = Sender(target, waiting=100)
    began = time.monotonic()
    for _ in range(1000):
        sender.put(make_event("federation.paused", federation="stroke"))
    assert target.entered.wait(10)
    assert sender.close(seconds=0.1) == 1000
    assert time.monotonic() - began < 15
    target.let_go.set()
    assert lines[-1][:2] == ("ERROR", "the audit log did not take events before the end; they are lost")


def test_the_end_sends_what_is_there(tmp_path):
    sender = Sender(open_target(f"file://{tmp_path}/audit.jsonl"))
    for _ in range(500):
        sender.put(make_event("federation.paused", federation="stroke"))
    assert sender.close() == 0
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["sequence"] for line in lines] == list(range(1, 501))


def test_repeats_are_one_event_a_minute_with_their_number():
    told, now = [], [0.0]
    repeats = Repeats(told.append, lambda: now[0])

    def refuse(times, claimed="stroke/x"):
        for _ in range(times):
            repeats.tell("request.refused", request="ab", reason="bad-signature", claimed=claimed)

    refuse(10)
    refuse(1, "stroke/y")
    assert [event.fields["count"] for event in told] == [1, 1]
    now[0] = 59
    repeats.tell_held()
    assert len(told) == 2
    now[0] = 61
    repeats.tell_held()
    assert (told[2].fields, len(told)) == ({"reason": "bad-signature", "claimed": "stroke/x", "count": 9}, 3)
    refuse(1)
    assert told[3].fields["request"] == "ab"


def test_many_strangers_are_told_of_together():
    told = []
    repeats = Repeats(told.append, lambda: 0.0)
    for number in range(5000):
        repeats.tell("request.refused", reason="unauthenticated", claimed=f"stroke/x{number}")
    assert len(told) == 501
    repeats.tell_held(all_of_it=True)
    assert sum(event.fields["count"] for event in told) == 5000
