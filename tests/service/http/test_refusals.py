"""Whatever is refused leaves the store as it was, row by row and file by file."""

import base64
import hashlib
import json
import socket
from typing import Any

import pytest

from he_agg.documents.manifest import MAX_MANIFEST_BYTES
from he_agg.protocol.http_signatures import EMPTY_DIGEST, manifest_field
from tests.service.http.answers import assert_problem, raw_answer
from tests.support.peers import OCTETS, digest_header, make_plan, prepare
from tests.support.real import until
from tests.support.trust import identity_of

SEAL_HEADER = bytes.fromhex("5ea110") + bytes(200)


@pytest.fixture
def prepared(world):
    """A submission of site a, begun: part 0 is stored."""
    submission = prepare(world.plan, world.round_id, "a", 5)
    assert world.peer().put(submission, 0, submission.parts[0]).status_code == 204
    return submission


@pytest.fixture
def unchanged(world, prepared):
    """Compares the store before and after the test."""
    before = world.snapshot()
    yield
    assert world.snapshot() == before


def flip(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# manifests

OTHER_PLAN = make_plan("another", values=5001)
MANIFESTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "other plan": ({"plan_id": OTHER_PLAN.plan_id}, 422, "plan-mismatch"),
    "other key": ({"key_id": "6e" * 32}, 422, "key-mismatch"),
    "other epoch": ({"epoch": 2}, 422, "key-mismatch"),
    "signed by another": ({"signer": identity_of("a")}, 422, "bad-signature"),
    "no tags": ({"tags": ()}, 422, "bad-field"),
    "no tags of a section": ({"tags": ((),)}, 422, "bad-field"),
    "a tag too few": ({"tags": ((0, 0, 0, 0),)}, 422, "bad-field"),
    "a tag that is not below q": ({"tags": ((0, 0, 0, 0, 2**63),)}, 422, "bad-field"),
    "in another site's name": ({"named": "c"}, 403, "forbidden"),
    "unknown site": ({"named": "mallory"}, 403, "forbidden"),
    "one part too few": ({"part_digests": ("00" * 32,) * 2}, 422, "bad-field"),
    "one part too many": ({"part_digests": ("00" * 32,) * 4}, 422, "bad-field"),
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_for_something_else(world, name):
    changes, status, reason = MANIFESTS[name]
    changes = dict(changes)
    manifest = prepare(world.plan, world.round_id, changes.pop("named", "b"), 1, **changes).manifest
    assert_problem(world.peer("b").end(world.round_id, manifest), status, reason)


@pytest.mark.usefixtures("unchanged")
def test_manifest_for_another_round(world):
    round_id = world.round_id
    manifest = prepare(world.plan, f"{world.name}.2.1", "b", 1).manifest
    assert_problem(world.peer("b").end(round_id, manifest), 422, "bad-field")
    assert_problem(world.peer("b").end(f"{world.name}.2.1", manifest), 404, "unknown-round")
    assert_problem(world.peer("b").end("no-round-at-all", manifest), 404, "unknown-round")


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [({"roster": "ab" * 32}, 422, "roster-mismatch"), ({"previous": "ab" * 32}, 409, "chain-mismatch")],
)
def test_manifest_of_another_roster_or_history(world, changes, status, reason):
    """The parts stay, for another manifest of the same."""
    submission, peer = prepare(world.plan, world.round_id, "b", 1, **changes), world.peer("b")
    assert_problem(peer.submit(submission), status, reason)
    assert peer.status(submission).json()["missing"] == []
    assert peer.complete(prepare(world.plan, world.round_id, "b", 1)).status_code == 200


BODIES = {
    "empty": (b"", 422, "truncated"),
    "no JSON": (b"\xff\xfe\x00", 422, "bad-field"),
    "nothing in it": (b"{}", 422, "bad-field"),
    "spaces": (b'{"v": 1}', 422, "not-canonical"),
    "deep": (b"[" * 10000 + b"]" * 10000, 422, "bad-field"),
    "a SEAL object": (SEAL_HEADER, 422, "secret-refused"),
    "a TenSEAL context": (b"\x0a\x80\x01" + SEAL_HEADER * 4, 422, "secret-refused"),
    "a group key": (b'{"what":"he-agg-group-key"}', 422, "secret-refused"),
    "an identity": (b'{"what":"he-agg-identity"}', 422, "secret-refused"),
    "a PEM key": (b"-----BEGIN PRIVATE KEY-----\nMC4CAQAw", 422, "secret-refused"),
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", BODIES)
def test_manifest_that_is_none(world, name):
    body, status, reason = BODIES[name]
    assert_problem(world.peer("b").end(world.round_id, body), status, reason)


@pytest.mark.usefixtures("unchanged")
def test_a_truncated_manifest(world):
    manifest = prepare(world.plan, world.round_id, "b", 1).manifest
    for cut in (1, len(manifest) // 2, len(manifest) - 1):
        assert_problem(world.peer("b").end(world.round_id, manifest[:cut]), 422, "bad-field")


def test_a_second_submission_is_refused_and_the_first_stays(world, prepared):
    second = prepare(world.plan, world.round_id, "a", 6)
    assert world.peer().submit(prepared).status_code == 200
    before = world.snapshot()
    body = assert_problem(world.peer().put(second, 0, second.parts[0]), 409, "second-submission")
    assert body["submission_id"] == prepared.id
    assert body["round_id"] == world.round_id
    assert body["manifest"] == json.loads(prepared.manifest)
    assert world.snapshot() == before


@pytest.mark.usefixtures("unchanged")
def test_content_type_of_a_manifest(world):
    submission = prepare(world.plan, world.round_id, "b", 1)
    path = f"/v1/rounds/{world.round_id}/submissions/{submission.upload}"
    kinds = {"Content-Type": "application/json", "Content-Digest": manifest_field(submission.upload)}
    answer = world.peer("b").request("PUT", path, kinds, content=submission.manifest)
    assert_problem(answer, 400, "bad-request")


# parts


@pytest.mark.usefixtures("unchanged")
def test_digests_of_parts(world, prepared):
    peer, data = world.peer(), prepared.parts[1]
    good = manifest_field(prepared.upload)
    for field in (
        "sha-256=abc",
        "sha-256=::",
        good[:-1],
        good.replace("he-agg-manifest", "sha-256"),
        good + ", " + good,
        f"he-agg-manifest=:{base64.b64encode(bytes(31)).decode()}:",
        f"he-agg-manifest={prepared.upload}",
        manifest_field("00" * 16),
        digest_header(data)["Content-Digest"],
        EMPTY_DIGEST,
    ):
        assert_problem(peer.put(prepared, 1, data, {"Content-Digest": field}), 400, "bad-digest")
    # the head says the right thing, the bytes are no part of this place
    for other, reason in ((prepared.parts[2], "bad-field"), (flip(data, 9), "bad-magic")):
        assert_problem(peer.put(prepared, 1, other), 422, reason)
    # the bytes of a stored part, repeated wrongly
    assert_problem(peer.put(prepared, 0, flip(prepared.parts[0], 999)), 400, "bad-digest")
    for number in (0, 1):
        secret = SEAL_HEADER + bytes(len(data) - len(SEAL_HEADER))
        assert_problem(peer.put(prepared, number, secret), 422, "secret-refused")


@pytest.mark.usefixtures("unchanged")
def test_lengths_of_parts(world, prepared):
    peer, data = world.peer(), prepared.parts[1]
    header = OCTETS | {"Content-Digest": manifest_field(prepared.upload)}
    assert_problem(peer.put(prepared, 1, data[:-1]), 422, "truncated")
    assert_problem(peer.put(prepared, 1, b""), 422, "truncated")
    assert_problem(peer.put(prepared, 1, data + b"\0"), 422, "truncated")
    assert_problem(peer.put(prepared, 3, bytes(MAX_MANIFEST_BYTES + 1)), 413, "too-large")

    def chunked():
        yield data

    path = f"/v1/rounds/{world.round_id}/submissions/{prepared.upload}?from=1"
    assert_problem(peer.request("PUT", path, header, content=chunked()), 411, "length-required")
    answer = peer.put(prepared, 1, data, header | {"Content-Encoding": "gzip"})
    assert_problem(answer, 400, "bad-request")


def _with_residue(where, value):
    def change(part, place, others):
        size = place.section.modulus_bits // 8
        assert place.section.modulus_bits % 8 == 0
        at = 64 + where(place) * size
        return part[:at] + value(place).to_bytes(size, "little") + part[at + size :]

    return change


PARTS = {
    "magic": (lambda part, *_: b"X" + part[1:], "bad-magic"),
    "version": (lambda part, *_: part[:4] + b"\x02" + part[5:], "bad-version"),
    "bits": (lambda part, *_: part[:5] + b"\x29" + part[6:], "bad-field"),
    "section": (lambda part, *_: part[:6] + b"\x01\0" + part[8:], "bad-field"),
    "index": (lambda part, *_: part[:8] + b"\x09\0\0\0" + part[12:], "bad-field"),
    "other plan": (lambda part, *_: part[:24] + bytes(32) + part[56:], "plan-mismatch"),
    "reserved bytes": (lambda part, *_: part[:63] + b"\x01" + part[64:], "bad-padding"),
    "a SEAL object": (lambda part, *_: SEAL_HEADER + bytes(len(part) - len(SEAL_HEADER)), "secret-refused"),
    "another part": (lambda part, place, others: others[0], "bad-field"),
    "first residue is q": (
        _with_residue(lambda place: 0, lambda place: place.section.modulus), "residue-out-of-range",
    ),
    "last residue is q": (
        _with_residue(lambda place: place.residues - 1, lambda place: place.section.modulus), "residue-out-of-range",
    ),
    "a residue has all bits": (
        _with_residue(lambda place: 77, lambda place: 2**place.section.modulus_bits - 1), "residue-out-of-range",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_part_that_is_wrong_although_signed(world, name):
    """The digest is right, for the manifest was made of the wrong part."""
    change, reason = PARTS[name]
    base = prepare(world.plan, world.round_id, "a", 3)
    wrong = change(base.parts[1], world.plan.public.places[1], base.parts)
    digests = [hashlib.sha256(part).hexdigest() for part in (base.parts[0], wrong, base.parts[2])]
    bad = prepare(world.plan, world.round_id, "a", 3, part_digests=tuple(digests))
    before = world.snapshot()
    body = assert_problem(world.peer().put(bad, 1, wrong), 422, reason)
    assert "part 1" in body["detail"] or reason == "secret-refused"
    assert world.snapshot() == before


@pytest.mark.usefixtures("unchanged")
def test_part_numbers(world, prepared):
    peer = world.peer()
    for number in (4, 10**6, 10**17):
        assert_problem(peer.put(prepared, number, prepared.parts[0]), 404, "unknown-part")
    for text in ("x", "0x1", "1.5", "-1", 10**30):
        assert_problem(peer.put_raw(world.round_id, prepared.upload, text, b""), 400, "bad-request")


# who asks; how it is proved is test_signatures.py's


@pytest.mark.usefixtures("unchanged")
def test_another_sites_submission_does_not_exist(world, prepared):
    peer, path = world.peer("b"), f"/v1/rounds/{world.round_id}/submissions"
    for answer in (
        peer.status(prepared),
        peer.put(prepared, 1, prepared.parts[1]),
        peer.complete(prepared),
        peer.request("GET", f"{path}/{'00' * 16}"),
    ):
        assert_problem(answer, 404, "unknown-submission")
    for upload in ("nonsense", prepared.upload.upper(), prepared.upload + "0"):
        assert_problem(peer.request("GET", f"{path}/{upload}"), 400, "bad-request")


# rounds that are over


def test_a_closed_round_takes_nothing_and_answers_with_its_record(make_world):
    world = make_world(deadline_s=3600)
    round_id, late = world.round_id, prepare(world.plan, world.round_id, "c", 3)
    assert world.peer("c").put(late, 0, late.parts[0]).status_code == 204
    world.end()
    record = world.peer().record(round_id, wait=5)
    assert record.json()["manifests"] == []
    assert record.json()["record"]["body"]["outcome"] == "failed"
    assert record.json()["record"]["body"]["excluded"] == {"a": "absent", "b": "absent", "c": "incomplete"}
    assert not (world.server.data_dir / "rounds" / round_id).exists()
    before = world.snapshot()
    peer = world.peer("c")
    for answer in (
        peer.put(late, 1, late.parts[1]),
        peer.put(late, 0, late.parts[0]),
        peer.complete(late),
        world.peer("a").submit(prepare(world.plan, round_id, "a", 1)),
        peer.submit(prepare(world.plan, round_id, "c", 4)),
    ):
        body = assert_problem(answer, 409, "round-closed")
        assert body["record"] == record.json()["record"]
        assert body["round_id"] == round_id
    assert peer.status(late).json()["state"] == "excluded"
    assert_problem(peer.sum_from(round_id), 409, "round-failed")
    assert world.snapshot() == before


@pytest.mark.usefixtures("unchanged")
def test_a_sum_that_is_not_there(world):
    peer = world.peer()
    assert_problem(peer.sum_from(world.round_id), 409, "sum-not-ready")
    assert_problem(peer.sum_from(f"{world.name}.9.1"), 404, "unknown-round")
    assert_problem(peer.sum_from(world.round_id, 3), 404, "unknown-part")
    assert peer.record(world.round_id).status_code == 204
    assert_problem(peer.record(f"{world.name}.9.1"), 404, "unknown-round")


@pytest.mark.usefixtures("unchanged")
def test_arguments(world):
    for parameters in ({"wait": "long"}, {"wait": -1}, {"wait": "nan"}, {"wait": "inf"}, {"after": "x"}):
        assert_problem(world.peer().state(**parameters), 400, "bad-request")
    answer = world.client.get("/v1/nothing")
    assert (answer.status_code, answer.json()["reason"]) == (404, "bad-request")
    answer = world.client.delete("/healthz")
    assert (answer.status_code, answer.headers["content-type"]) == (405, "application/problem+json")


# bodies that are refused before they are read


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("what", "length", "signed", "status"),
    [
        ("manifest", MAX_MANIFEST_BYTES + 1, True, 413),
        ("manifest", 10**15, True, 413),
        ("part", 10**12, True, 413),
        ("part", 41024 + MAX_MANIFEST_BYTES + 1, True, 413),
        ("part", 41023, True, 422),
        ("part", None, True, 411),
        ("part", 41024, False, 401),
        ("part under another digest", 41024, True, 400),
        ("a body that is not wanted", 10, True, 400),
    ],
)
def test_refused_from_the_head_alone(world, prepared, what, length, signed, status):
    own = f"/v1/rounds/{world.round_id}/submissions/{prepared.upload}"
    method, path, query = {
        "manifest": ("PUT", own, "from=3"),
        "part": ("PUT", own, "from=2"),
        "part under another digest": ("PUT", own, "from=2"),
        "a body that is not wanted": ("GET", own, ""),
    }[what]
    head = [f"{method} {path}{'?' if query else ''}{query} HTTP/1.1", "Host: x"]
    head += [f"Content-Type: application/{'octet-stream' if method == 'PUT' else 'json'}"] * (method != "GET")
    head.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    digest = manifest_field(prepared.upload) if what in ("part", "manifest") else EMPTY_DIGEST
    if signed:
        head += [f"{name}: {value}" for name, value in world.peer().signature(method, path, digest, query).items()]
    # Not one byte of the body is ever sent: who waited for it would say this never.
    answer = raw_answer(world, head)
    assert answer.startswith(f"HTTP/1.1 {status} "), answer
    assert "connection: close" in answer.lower()
    assert "application/problem+json" in answer


@pytest.mark.usefixtures("unchanged")
def test_no_100_continue_for_a_body_that_is_refused(world, prepared):
    path = f"/v1/rounds/{world.round_id}/submissions/{prepared.upload}"
    fields = world.peer().signature("PUT", path, manifest_field(prepared.upload), "from=1")
    head = [
        f"PUT {path}?from=1 HTTP/1.1",
        "Host: x",
        "Content-Type: application/octet-stream",
        "Content-Length: 1000000000",
        "Expect: 100-continue",
        *(f"{name}: {value}" for name, value in fields.items()),
    ]
    answer = raw_answer(world, head)
    assert answer.startswith("HTTP/1.1 413 "), answer


@pytest.mark.usefixtures("unchanged")
def test_a_peer_that_goes_on_sending_still_gets_its_answer(world):
    # More than socket buffers hold, so that the peer is still sending when the answer comes.
    body = bytes(MAX_MANIFEST_BYTES + 4 * 2**20)
    for _ in range(3):
        assert_problem(world.peer("b").end(world.round_id, body), 413, "too-large")


@pytest.mark.usefixtures("unchanged")
def test_a_connection_that_breaks_in_the_middle_leaves_nothing(world, prepared):
    host, port = world.server.url.removeprefix("http://").split(":")
    data = prepared.parts[1]
    path = f"/v1/rounds/{world.round_id}/submissions/{prepared.upload}"
    fields = world.peer().signature("PUT", path, manifest_field(prepared.upload), "from=1")
    head = "\r\n".join(
        [
            f"PUT {path}?from=1 HTTP/1.1",
            "Host: x",
            "Content-Type: application/octet-stream",
            f"Content-Length: {len(data)}",
            *(f"{name}: {value}" for name, value in fields.items()),
        ]
    )
    for cut in (0, 1, len(data) // 2, len(data) - 1):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + data[:cut])

    def lines():
        return [line for line in world.server.log_lines if line.get("upload") == prepared.upload]

    until(lambda: sum(line.get("reason") == "disconnected" for line in lines()) == 4)
    assert not any("traceback" in line for line in lines())
