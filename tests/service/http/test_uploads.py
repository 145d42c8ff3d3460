"""Parts one after another in a request: from any one on, to any one, and at the end of the submission a receipt."""

from __future__ import annotations

import hashlib
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from he_agg.documents.manifest import MAX_MANIFEST_BYTES
from he_agg.ids import RoundId
from he_agg.protocol.http_signatures import manifest_field
from service.core.submissions import runs
from service.core.submissions.runs import ExpectedPart, Run
from service.domain.submissions import State
from service.store.rows import Basis, SubmissionRow
from service.store.statements import Prepared
from tests.support.peers import (
    OCTETS,
    digest_header,
    expected_sum,
    make_plan,
    prepare,
    read_receipt,
    read_sum,
    take_parts,
)
from tests.support.real import until
from tests.support.simulated import Clock, SimulatedFederation, snapshot

PLAN = make_plan("f", deadline_s=3600)
ONE = "f.1.1"


@pytest.fixture
def inside(tmp_path):
    """An aggregator whose time and background work are the test's."""
    made = SimulatedFederation(tmp_path / "data", PLAN, clock=Clock(1_800_000_000.5))
    yield made
    made.end()


def state(inside):
    return snapshot(inside.settings.data_dir)


def submission(site="a", seed=1):
    return prepare(PLAN, ONE, site, seed)


def refused(answer, status: int, reason: str):
    assert (answer.status_code, answer.json()["reason"]) == (status, reason), answer.text
    return answer.json()


def test_in_one_request_or_part_by_part_on_a_real_server(world):
    round_id = world.round_id
    prepared = {site: prepare(world.plan, round_id, site, seed) for seed, site in enumerate(world.sites)}
    for site, mine in prepared.items():
        peer = world.peer(site)
        if site == "b":
            *others, receipt = [peer.put(mine, number, part) for number, part in enumerate(mine.parts)]
            assert {answer.status_code for answer in others} == {204}
        else:
            receipt = peer.put(mine, 0, mine.whole)
        assert receipt.status_code == 200, receipt.text
        assert (read_receipt(receipt.content).id, read_receipt(receipt.content).site) == (mine.id, site)
    record = world.peer().record(round_id, wait=10).json()["record"]["body"]
    assert record["members"] == {s: p.id for s, p in prepared.items()}
    got = read_sum(world.plan, world.peer().sum_from(round_id).content)
    for one, expected in zip(got, expected_sum(world.plan, list(prepared.values())), strict=True):
        assert (one == expected).all()


def test_again_it_is_the_same_receipt_and_changes_nothing(inside):
    mine = submission()
    receipt = inside.at("a").put(mine, 0, mine.whole)
    before = state(inside)
    for again in (inside.at("a").put(mine, 0, mine.whole), inside.at("a").complete(mine)):
        assert (again.status_code, again.content) == (200, receipt.content)
    assert inside.at("a").put(mine, 1, mine.parts[1]).status_code == 204
    assert state(inside) == before


def test_after_some_of_its_parts(inside):
    mine = submission()
    refused(inside.at("a").put(mine, 2, mine.parts[2]), 409, "incomplete")
    assert inside.at("a").status(mine).json()["missing"] == [0, 1]
    assert inside.at("a").put(mine, 0, mine.whole).status_code == 200
    assert inside.at("a").status(mine).json()["missing"] == []


@pytest.mark.parametrize("number", range(3))
def test_a_part_that_is_not_the_one_in_the_manifest(inside, number):
    """It is missing then, whichever it is, and comes again; the others stay."""
    mine, peer = submission(), inside.at("a")
    other = prepare(PLAN, ONE, "a", 99)
    changed = [other.parts[n] if n == number else part for n, part in enumerate(mine.parts)]
    problem = refused(peer.put(mine, 0, b"".join(changed)), 400, "bad-digest")
    assert f"part {number}: expected SHA-256" in problem["detail"]
    assert peer.status(mine).json()["missing"] == [number]
    assert peer.put(mine, number, b"".join(mine.parts[number:])).status_code == 200


def test_a_part_that_is_here_comes_again_as_another_one(inside):
    mine, peer = submission(), inside.at("a")
    assert peer.put(mine, 0, mine.parts[0]).status_code == 204
    before = state(inside)
    problem = refused(peer.put(mine, 0, prepare(PLAN, ONE, "a", 99).parts[0]), 400, "bad-digest")
    assert "which it had before" in problem["detail"]
    assert state(inside) == before


def test_a_body_that_ends_without_its_manifest(inside):
    mine, before = submission(), state(inside)
    problem = refused(inside.at("a").put_raw(ONE, mine.upload, 3, b""), 422, "truncated")
    assert "the signed manifest behind the last part" in problem["detail"]
    assert state(inside) == before
    # It may come alone, when a part is as long as what a proxy lets through.
    assert inside.at("a").put_raw(ONE, mine.upload, 0, mine.whole).status_code == 204
    assert inside.at("a").status(mine).json()["missing"] == []
    assert inside.at("a").complete(mine).status_code == 200


def test_spaces_behind_a_manifest(inside):
    """Its length has to be announced before it is known."""
    mine = submission()
    for spaces in (b" ", b" " * 1000):
        answer = inside.at("a").put_raw(ONE, mine.upload, 0, mine.whole + mine.manifest + spaces)
        assert read_receipt(answer.content).id == mine.id
    refused(inside.at("a").put_raw(ONE, mine.upload, 3, mine.manifest + b" \n"), 422, "not-canonical")
    refused(inside.at("a").put_raw(ONE, mine.upload, 3, b" " + mine.manifest), 422, "not-canonical")


def test_another_upload_takes_the_place_of_one_without_a_manifest(inside):
    """So that a site which has lost its spool can begin again; what it left goes at once."""
    lost, mine, peer = submission(seed=1), submission(seed=2), inside.at("a")
    assert peer.put(lost, 0, b"".join(lost.parts[:2])).status_code == 204
    assert peer.put(mine, 0, mine.parts[0]).status_code == 204
    assert [path.parent.name for path in inside.settings.data_dir.rglob("*.part")] == [mine.upload]
    refused(peer.status(lost), 404, "unknown-submission")
    assert peer.put(mine, 1, b"".join(mine.parts[1:])).status_code == 200
    before = state(inside)
    problem = refused(peer.put(lost, 0, lost.whole), 409, "second-submission")
    assert problem["manifest"] == json.loads(mine.manifest)
    assert state(inside) == before


def test_what_an_upload_that_lost_its_place_was_sending_goes(inside, monkeypatch):
    """Two machines with one identity: what the slower one still puts is removed by its own request."""
    lost, mine, peer = submission(seed=1), submission(seed=2), inside.at("a")
    part_store = inside.aggregator.part_store
    put_all, others = part_store.put_all, [lambda: take_parts(inside.aggregator, "f", "a", mine, range(1))]
    assert peer.put(lost, 0, lost.parts[0]).status_code == 204

    def put_meanwhile(parts):
        put_all(parts)
        if others:
            assert others.pop()() is None

    monkeypatch.setattr(part_store, "put_all", put_meanwhile)
    refused(peer.put(lost, 1, lost.parts[1]), 404, "unknown-submission")
    assert [path.parent.name for path in inside.settings.data_dir.rglob("*.part")] == [mine.upload]
    assert peer.put(mine, 1, b"".join(mine.parts[1:])).status_code == 200


def test_a_manifest_of_another_upload(inside):
    mine, other, peer = submission(), submission(seed=2), inside.at("a")
    problem = refused(peer.put_raw(ONE, mine.upload, 0, mine.whole + other.manifest), 422, "bad-field")
    assert "manifest, nonce" in problem["detail"]
    assert peer.status(mine).json()["missing"] == []
    assert peer.complete(mine).status_code == 200


def test_another_manifest_of_the_same_parts(inside):
    """Until one is accepted any will do; then that one stays."""
    mine, peer = submission(), inside.at("a")
    stale = prepare(PLAN, ONE, "a", 1, previous="ab" * 32)
    refused(peer.put(stale, 0, stale.whole), 409, "chain-mismatch")
    assert peer.complete(mine).status_code == 200
    problem = refused(peer.complete(stale), 409, "second-submission")
    assert (problem["submission_id"], problem["manifest"]) == (mine.id, json.loads(mine.manifest))


@pytest.mark.parametrize("field", ["of the body", "of nothing", "of another manifest", "both"])
def test_content_digest_names_the_manifest(inside, field):
    mine, before = submission(), state(inside)
    value = {
        "of the body": digest_header(mine.whole)["Content-Digest"],
        "of nothing": digest_header(b"")["Content-Digest"],
        "of another manifest": manifest_field("00" * 16),
        "both": manifest_field(mine.upload) + ", " + digest_header(mine.whole)["Content-Digest"],
    }[field]
    problem = refused(inside.at("a").put(mine, 0, mine.whole, headers={"Content-Digest": value}), 400, "bad-digest")
    assert manifest_field(mine.upload) in problem["detail"]
    assert state(inside) == before


@pytest.mark.parametrize("first", [1, 2])
def test_from_a_part_on(inside, first):
    mine = submission()
    rest = b"".join(mine.parts[first:])
    problem = refused(inside.at("a").put(mine, first, rest), 409, "incomplete")
    assert problem["missing"] == list(range(first))
    assert inside.at("a").status(mine).json()["missing"] == list(range(first))
    for number in range(first):
        assert inside.at("a").put(mine, number, mine.parts[number]).status_code == 204
    assert inside.at("a").complete(mine).status_code == 200
    assert inside.at("a").put(mine, first, rest).status_code == 200


@pytest.mark.parametrize("first", [0, 1])
def test_a_body_may_end_with_any_part(inside, first):
    mine = submission()
    answer = inside.at("a").put(mine, first, mine.parts[first])
    assert (answer.status_code, answer.content) == (204, b"")
    assert inside.at("a").status(mine).json()["missing"] == [n for n in range(3) if n != first]
    assert inside.at("a").put(mine, 0, mine.whole).status_code == 200


@pytest.mark.parametrize(("first", "status"), [("4", 404), ("9" * 18, 404), ("9" * 20, 400), ("-1", 400)])
def test_from_a_part_that_is_none(inside, first, status):
    mine, before = submission(), state(inside)
    answer = inside.at("a").put_raw(ONE, mine.upload, first, mine.manifest)
    assert (answer.status_code, answer.json()["reason"]) == (status, {404: "unknown-part", 400: "bad-request"}[status])
    assert state(inside) == before


def test_each_group_is_stored_before_the_next_is_read(make_world):
    """On a real connection that breaks before the last byte: what was there by then stays, and is not sent again."""
    world = make_world(values=900_000)
    mine = prepare(world.plan, world.round_id, "a", 1)
    assert len(mine.whole) > 2 * runs._GROUP_BYTES
    peer, path = world.peer("a"), f"/v1/rounds/{world.round_id}/submissions/{mine.upload}"
    fields = OCTETS | {"Content-Digest": manifest_field(mine.upload)}
    request = peer.signed("PUT", path, fields)
    request.headers["Content-Length"] = str(len(mine.whole + mine.manifest))
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    url, first_group = peer.client.base_url, run_of(world.plan).groups()[0]
    begun = sum(first_group.lengths())
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(f"PUT {path} HTTP/1.1\r\n{head}\r\n".encode() + mine.whole[:begun])
        until(lambda: peer.status(mine).status_code == 200)  # with these it has begun, and is given its room
        here = len(first_group.parts)
        assert peer.status(mine).json()["missing"] == list(range(here, len(mine.parts)))
        connection.sendall(mine.whole[begun:-1])
        first = run_of(world.plan).groups()[-1].parts[0].place.number
        kept = Path(world.server.data_dir, "rounds", world.round_id, "submissions", mine.upload, f"{first - 1}.part")
        until(kept.exists)
    until(lambda: peer.status(mine).json().get("missing", [0])[0] == first)
    assert peer.status(mine).json()["missing"] == list(range(first, len(mine.parts)))
    assert peer.put(mine, first, b"".join(mine.parts[first:])).status_code == 200


def test_parts_that_are_none(inside):
    """The digests are right; the first part is good, the last one no part: the good one is not taken, either."""
    whole = prepare(PLAN, ONE, "a", 1).parts
    parts = [*whole[:2], b"XXXX" + whole[2][4:]]
    digests = tuple(hashlib.sha256(part).hexdigest() for part in parts)
    mine = replace(prepare(PLAN, ONE, "a", 1, part_digests=digests), parts=parts)
    before = state(inside)
    refused(inside.at("a").put(mine, 0, mine.whole), 422, "bad-magic")
    assert state(inside) == before


def test_the_head_of_what_begins_is_met_by_one_statement(inside, monkeypatch):
    mine, asked, run = submission(), [], Prepared.run
    monkeypatch.setattr(Prepared, "run", lambda self, *what: asked.append(self) or run(self, *what))
    expected = expect(inside, mine)
    assert (expected.begins, len(expected.parts), len(asked)) == (True, len(mine.parts), 1)


def expect(inside, mine):
    return inside.aggregator.uploads.expect("f", "a", ONE, mine.upload, 0, len(mine.whole))


def run_of(plan):
    row, basis = SubmissionRow("0" * 32, RoundId.parse(ONE), "a", State.OPEN), Basis(1, "5d" * 32, "c0" * 32, 1)
    return Run(row, plan.public, basis, tuple(ExpectedPart(place, "", False) for place in plan.public.places), 7, True)


def test_parts_in_memory_together(monkeypatch):
    run = run_of(make_plan(values=100_000))
    for limit, most in ((1, 1), (2**17, 3), (2**40, len(run.parts))):
        monkeypatch.setattr(runs, "_GROUP_BYTES", limit)
        groups = run.groups()
        assert [part for group in groups for part in group.parts] == list(run.parts)
        assert max(len(group.parts) for group in groups) == most
        assert all(len(group.parts) == 1 or sum(group.lengths()) - group.manifest_bytes <= limit for group in groups)
        assert [group.manifest_bytes for group in groups] == [0] * (len(groups) - 1) + [7]
        assert [group.begins for group in groups] == [True] + [False] * (len(groups) - 1)


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        (lambda data: data[:-1], 422, "truncated"),
        (lambda data: data + bytes(MAX_MANIFEST_BYTES + 1), 413, "too-large"),
        (lambda _: b"", 422, "truncated"),
    ],
    ids=["short", "long", "empty"],
)
def test_another_length(inside, change, status, reason):
    mine, before = submission(), state(inside)
    refused(inside.at("a").put_raw(ONE, mine.upload, 0, change(mine.whole)), status, reason)
    assert state(inside) == before


def test_only_of_the_site_that_began_it(inside):
    mine = submission()
    assert inside.at("a").put(mine, 0, mine.parts[0]).status_code == 204
    before = state(inside)
    refused(inside.at("b").put(mine, 0, mine.parts[0]), 404, "unknown-submission")
    refused(inside.at("b").status(mine), 404, "unknown-submission")
    assert state(inside) == before


def test_too_late(inside):
    mine, others = submission(), [submission(site, seed) for seed, site in ((2, "b"), (3, "c"))]
    for site, other in zip("bc", others, strict=True):
        assert inside.at(site).put(other, 0, other.whole).status_code == 200
    assert inside.at("a").put(mine, 0, mine.parts[0]).status_code == 204
    inside.clock.now += 3601
    refused(inside.at("a").put(mine, 0, mine.whole), 409, "round-closed")
    inside.fold()
    inside.look()
    problem = refused(inside.at("a").put(mine, 0, mine.whole), 409, "round-closed")
    assert problem["record"]["body"]["excluded"] == {"a": "incomplete"}
    receipt = read_receipt(inside.at("b").put(others[0], 0, others[0].whole).content)
    assert receipt.id == others[0].id


def test_the_round_closes_while_it_is_written(inside, monkeypatch):
    """Its files are on the disk by then: nobody will ever name them, so they go."""
    mine = submission()
    part_store = inside.aggregator.part_store
    put_all = part_store.put_all

    def put_and_wait(parts):
        put_all(parts)
        inside.clock.now += 3601

    monkeypatch.setattr(part_store, "put_all", put_and_wait)
    refused(inside.at("a").put(mine, 0, mine.whole), 409, "round-closed")
    assert not list(inside.settings.data_dir.rglob("*.part"))


def test_the_deadline_is_met_by_those_before_it(inside):
    for site, seed in (("a", 1), ("b", 2)):
        mine = submission(site, seed)
        assert inside.at(site).put(mine, 0, mine.whole).status_code == 200
    late = submission("c", 3)
    assert inside.at("c").put(late, 0, late.parts[0]).status_code == 204
    inside.clock.now += 3601
    refused(inside.at("c").put(late, 0, late.whole), 409, "round-closed")
    inside.fold()
    record = inside.at("a").record(ONE).json()["record"]["body"]
    assert (sorted(record["members"]), record["excluded"]) == (["a", "b"], {"c": "incomplete"})


def test_damaged_part_of_a_closed_round_comes_again(inside):
    mine = [submission(site, seed) for seed, site in enumerate("abc")]
    for site, one in zip("abc", mine, strict=True):
        assert inside.at(site).put(one, 0, one.whole).status_code == 200
    with inside.aggregator.store.write() as tx:
        tx.mark_damaged(mine[1].upload, 1, int(inside.clock.now))
    assert inside.at("b").status(mine[1]).json()["missing"] == [1]
    assert inside.at("b").put(mine[1], 0, mine[1].whole).status_code == 200
    assert inside.at("b").status(mine[1]).json()["missing"] == []
