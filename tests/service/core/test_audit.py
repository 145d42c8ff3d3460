"""A real federation's transcript, from the real server: it holds, and what somebody changed in the store does not."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from he_agg.audit import audit
from he_agg.documents.roster import Role
from tests.support import peers
from tests.support.peers import make_plan, prepare, read_ended
from tests.support.real import RealFederation
from tests.support.server import QUICK, he_agg, start_server
from tests.support.trust import AUDITOR, COORDINATOR, identity_of


def _all_submit(world, sites):
    round_id = world.round_id
    for number, site in enumerate(sites):
        world.peer(site).submit(prepare(world.plan, round_id, site, number))
    return read_ended(world.peer().record(round_id, wait=20).content).record


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    """A sum of three; an attempt that fails since a site is removed; a sum of the two that are left. Then it ends."""
    data_dir = tmp_path_factory.mktemp("audit") / "data"
    with start_server(data_dir, environment=QUICK) as server:
        world = RealFederation(server, make_plan("audited", rounds=5, max_sites=5), ["a", "b", "c"])
        try:
            assert _all_submit(world, "abc").outcome == "published"
            failing = world.round_id
            people, _ = peers._known["audited"]
            members = {n: m for n, m in people.roster.body.members.items() if n != "c"}
            members["d"] = identity_of("d").member([Role.SITE])
            following = people.next_roster(members)
            assert world.peer(COORDINATOR).bring("rosters/2", following.encode()).status_code == 201
            peers.adopt(replace(people, roster=following))
            assert read_ended(world.peer().record(failing, wait=20).content).record.outcome == "failed"
            world.peers["d"] = peers.Peer(world.client, "audited", identity_of("d"))
            assert _all_submit(world, "abd").outcome == "published"
            transcript = world.peer(AUDITOR).document("transcript")
            assert transcript.status_code == 200
            assert transcript.headers["content-type"] == "application/jsonl"
            yield data_dir, transcript.content, people.identities[COORDINATOR].fingerprint
        finally:
            world.close()


def test_what_the_server_tells_an_auditor_holds(past, tmp_path):
    _, transcript, fingerprint = past
    (tmp_path / "t.jsonl").write_bytes(transcript)
    given = f"{COORDINATOR}={fingerprint}"
    said = he_agg("audit", tmp_path / "t.jsonl", "--coordinator-fingerprint", given, "--json")
    value = json.loads(said.stdout)
    assert (value["ok"], value["findings"]) == (True, [])
    assert [(r["round"], r["outcome"], r["roster_version"], r["members"], r["excluded"]) for r in value["rounds"]] == [
        ("audited.1.1", "published", 1, ["a", "b", "c"], {}),
        ("audited.2.1", "failed", 1, [], dict.fromkeys("abc", "absent")),
        ("audited.2.2", "published", 2, ["a", "b", "d"], {}),
    ]
    assert value["participation"] == {
        "a": {"in the sum": 2, "absent": 1},
        "b": {"in the sum": 2, "absent": 1},
        "c": {"in the sum": 1, "absent": 1},
        "d": {"in the sum": 1},
    }
    assert "verdict: everything holds, over 3 records" in he_agg("audit", tmp_path / "t.jsonl").stdout


def test_the_operators_export_is_the_same(past, tmp_path):
    data_dir, transcript, _ = past
    he_agg("federation", "export", "audited", "--out", tmp_path / "t.jsonl", "--data-dir", data_dir)
    assert (tmp_path / "t.jsonl").read_bytes() == transcript


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE submissions SET manifest = CAST(CAST(manifest AS TEXT) AS BLOB)", None),
        (
            "UPDATE rounds SET record = CAST(replace(CAST(record AS TEXT), 'absent', 'late') AS BLOB)"
            " WHERE number = 2 AND attempt = 1",
            "record-signature",
        ),
        ("DELETE FROM rounds WHERE number = 2 AND attempt = 1", "chain-index"),
        ("DELETE FROM submissions WHERE round_id = 'audited.1.1' AND site = 'b'", "missing-manifest"),
        ("DELETE FROM rosters WHERE version = 1", "roster-version"),
    ],
)
def test_what_somebody_changes_in_the_store_is_found(past, tmp_path, statement, kind):
    data_dir, transcript, fingerprint = past
    copy = tmp_path / "data"
    copy.mkdir(mode=0o700)
    with (
        closing(sqlite3.connect(data_dir / "aggregator.sqlite3")) as source,
        closing(sqlite3.connect(copy / "aggregator.sqlite3")) as target,
    ):
        source.backup(target)
    shutil.copy2(data_dir / "aggregator.key", copy)
    with closing(sqlite3.connect(copy / "aggregator.sqlite3")) as db, db:
        db.execute("PRAGMA foreign_keys = OFF")
        assert db.execute(statement).rowcount > 0
    he_agg("federation", "export", "audited", "--out", tmp_path / "t.jsonl", "--data-dir", copy)
    exported = (tmp_path / "t.jsonl").read_bytes()
    result = audit(io.BytesIO(exported), {COORDINATOR: fingerprint})
    if kind is None:
        assert result.ok
        assert exported == transcript
    else:
        assert kind in [finding.kind for finding in result.findings], result.findings
