"""Events at real receivers: datagrams, streams, TLS, files, and a collector."""

import json
import ssl

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from he_agg.errors import ConfigError, Reason
from service.audit_events.event import make_event
from service.monitor.audit_log.targets import Numbered, open_target
from tests.support.certificates import Authority
from tests.support.real import until
from tests.support.receivers import Collector, Syslog, parsed

PAUSED = make_event("federation.paused", federation="stroke", by='eve"] ]\n', via="command")


def send(target, count=1, first=1):
    target.send([Numbered(first + i, PAUSED) for i in range(count)])


def check(message, sequence):
    read = parsed(message)
    assert read.msgid == "federation.paused"
    assert read.sd == {
        "meta": {"sequenceId": str(sequence)},
        "he-agg@32473": {"federation": "stroke", "by": 'eve"] ]\ufffd', "via": "command"},
    }


@pytest.mark.parametrize("kind", ["udp", "tcp", "unix"])
def test_syslog(tmp_path, kind):
    with Syslog(kind, tmp_path / "log" if kind == "unix" else 0) as receiver:
        schemes = {"udp": "syslog", "tcp": "syslog+tcp", "unix": "syslog+unix"}
        where = str(tmp_path / "log") if kind == "unix" else f"127.0.0.1:{receiver.port}"
        target = open_target(f"{schemes[kind]}://{where}")
        send(target, 3)
        until(lambda: len(receiver.messages) == 3)
        target.close()
    for number, message in enumerate(receiver.messages):
        check(message, number + 1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


def server_context(authority):
    issued = authority.issue("log.example", "localhost", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    context.load_verify_locations(authority.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_syslog_by_tls_with_certificates_of_both(authority):
    client = authority.issue("aggregator")
    with Syslog("tls", tls=server_context(authority)) as receiver:
        files = f"ca_file={authority.ca_file}&cert_file={client.cert}&key_file={client.key}"
        target = open_target(f"syslog+tls://localhost:{receiver.port}?{files}")
        for first in (1, 2, 3):  # a ticket for the next session, which the server sends, is no end of this one
            send(target, first=first)
        until(lambda: len(receiver.messages) == 3)
        target.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            send(open_target(f"syslog+tls://localhost:{receiver.port}"))
    for number, message in enumerate(receiver.messages):
        check(message, number + 1)


def test_a_stream_whose_receiver_was_restarted_is_opened_again():
    first = Syslog("tcp")
    target = open_target(f"syslog+tcp://127.0.0.1:{first.port}")
    send(target)
    until(lambda: first.messages)
    first.close()
    with pytest.raises(OSError, match=r"refused|closed|reset"):
        send(target, first=2)
    with Syslog("tcp", first.port) as second:
        send(target, first=2)
        until(lambda: second.messages)
        target.close()
    check(second.messages[0], 2)


def test_a_file_has_a_json_object_a_line_and_may_be_moved_away(tmp_path):
    log = tmp_path / "audit.jsonl"
    target, other = open_target(f"file://{log}"), open_target(f"file://{log}")
    send(target, 2)
    log.rename(tmp_path / "audit.1")
    send(other, first=3)
    send(target, first=4)
    assert log.stat().st_mode & 0o777 == 0o640
    texts = [(tmp_path / name).read_text() for name in ("audit.1", "audit.jsonl")]
    lines = [json.loads(line) for line in "".join(texts).splitlines()]
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert line.keys() == {"v", "time", "severity", "event", "message", "host", "process", "sequence", "fields"}
        assert (line["v"], line["severity"], line["event"]) == (1, "notice", "federation.paused")
        assert line["fields"] == {"federation": "stroke", "by": 'eve"] ]\ufffd', "via": "command"}


def test_a_file_on_a_full_disk_gets_all_lines_later(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        send(open_target("file:///dev/full"))


def test_otlp():
    collector = Collector()
    target = open_target(f"otlp:{collector.url}/v1/logs")
    send(target, 2)
    target.close()
    collector.close()
    request = ExportLogsServiceRequest.FromString(collector.bodies[0])
    (resource,) = request.resource_logs
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "he-agg"
    records = resource.scope_logs[0].log_records
    assert len(records) == 2
    for number, record in enumerate(records):
        attributes = {each.key: each.value for each in record.attributes}
        assert record.event_name == "federation.paused"
        assert record.body.string_value == "A federation was paused"
        assert (record.severity_number, record.severity_text) == (10, "NOTICE")
        assert record.time_unix_nano == pytest.approx(PAUSED.at * 1e9, abs=1e4)
        assert attributes["he_agg.sequence"].int_value == number + 1
        assert attributes["he_agg.by"].string_value == 'eve"] ]\ufffd'


@pytest.mark.parametrize(
    "setting",
    [
        "stdout",
        "syslog://",
        "syslog://host:99999",
        "syslog://user:password@host",
        "syslog://host/path",
        "syslog://host?ca_file=x",
        "syslog+tls://host?certificate=x",
        "syslog+tls://host?ca_file=/nonexistent",
        "file:relative.jsonl",
        "file:///nonexistent/audit.jsonl",
        "otlp:host:4318",
        "otlp:http://user:password@host/v1/logs",
    ],
)
def test_what_is_no_target_is_refused_at_the_start(setting):
    with pytest.raises(ConfigError) as refused:
        open_target(setting)
    assert refused.value.reason in (Reason.BAD_CONFIG, Reason.FILE_MISSING)
    assert "password" not in str(refused.value)
