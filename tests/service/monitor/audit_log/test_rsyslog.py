"""Events in a real rsyslog, as a hospital's: what its own parser reads is what was sent."""

import json
import random
import shutil
import subprocess

import pytest

from service.audit_events.catalogue import CATALOGUE
from service.audit_events.event import make_event
from service.monitor.audit_log.targets import Numbered, open_target
from tests.support.real import until
from tests.support.seeds import seed_of

CONF = """
global(workDirectory="{here}")
module(load="imtcp")
module(load="mmpstrucdata")
input(type="imtcp" address="127.0.0.1" port="0" listenPortFileName="{here}/port" ruleset="all")
template(name="line" type="list") {{
  constant(value="[\\"") property(name="app-name" format="json")
  constant(value="\\",\\"") property(name="msgid" format="json")
  constant(value="\\",") property(name="syslogfacility")
  constant(value=",") property(name="syslogseverity")
  constant(value=",\\"") property(name="msg" format="json")
  constant(value="\\",") property(name="$!") constant(value="]\\n")
}}
ruleset(name="all") {{
  action(type="mmpstrucdata") action(type="omfile" file="{here}/out" template="line")
}}
"""


@pytest.fixture
def rsyslog(tmp_path):
    """The directory of a running rsyslog: its port is in `port`, what it reads goes to `out`."""
    program = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no rsyslog here: apt-get install rsyslog")
    (tmp_path / "conf").write_text(CONF.format(here=tmp_path))
    process = subprocess.Popen([program, "-n", "-i", tmp_path / "pid", "-f", tmp_path / "conf"])
    try:
        until(lambda: (tmp_path / "port").exists() and (tmp_path / "port").read_text().strip())
        yield tmp_path
    finally:
        process.terminate()
        process.wait(20)


def test_rsyslog_reads_what_was_sent(rsyslog):
    rng = random.Random(seed_of("rsyslog"))
    signs = [*'"\\]=[ <>\r\n\x00\x1b%{}', "ü", "\u2028", "\u202e", "\U0001f3e5", "a", "b"]
    values = ["".join(rng.choices(signs, k=rng.randint(1, 30))) for _ in range(200)]
    events = [make_event("operator.sign-in-failed", by=one, reason="\\", count=i) for i, one in enumerate(values)]
    events += [make_event(name, **dict.fromkeys(kind.fields, "x")) for name, kind in CATALOGUE.items()]
    target = open_target(f"syslog+tcp://127.0.0.1:{(rsyslog / 'port').read_text().strip()}")
    for number, event in enumerate(events):
        target.send([Numbered(number + 1, event)])
    target.close()
    out = rsyslog / "out"
    until(lambda: out.exists() and len(out.read_bytes().splitlines()) == len(events))
    for number, (line, event) in enumerate(zip(out.read_text().split("\n"), events, strict=False)):
        app, name, facility, severity, said, tree = json.loads(line)
        assert (app, name, facility, severity) == ("he-agg", event.kind.name, 13, event.kind.severity)
        assert said.lstrip("\ufeff") == event.kind.meaning
        structured = tree["rfc5424-sd"]
        assert structured["meta"] == {"sequenceid": str(number + 1)}
        assert structured["he-agg@32473"] == {field: str(value) for field, value in event.fields.items()}
