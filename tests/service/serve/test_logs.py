"""What is logged: one JSON line per request, with ids; and what is not."""

import base64
import json

import pytest

from tests.support.peers import KEY_ID, SECRET_TENSOR, make_plan, prepare
from tests.support.real import RealFederation
from tests.support.server import QUICK, start_server
from tests.support.trees import contents_of

SECRETS = (SECRET_TENSOR, "my-group-key-in-the-wrong-place", "Authorization", "Bearer", "keyid=", "ed25519", "sha-256=")


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    with start_server(tmp_path_factory.mktemp("logs") / "data", environment=QUICK) as server:
        yield server


@pytest.fixture(scope="module")
def talked(own_server):
    """A server that has seen a good round and all sorts of bad requests."""
    world = RealFederation(own_server, make_plan("logged"), ["a", "b", "c"])
    round_id, peer = world.round_id, world.peer()
    prepared = {site: prepare(world.plan, round_id, site, i) for i, site in enumerate("abc")}
    secret = b'{"he-agg-group-key":"my-group-key-in-the-wrong-place"}'
    peer.end(round_id, secret)
    peer.end(SECRET_TENSOR, secret)
    peer.end(round_id, json.dumps({SECRET_TENSOR: 1.5}).encode())
    peer.request("GET", f"/v1/rounds/{round_id}/submissions/{SECRET_TENSOR}")
    peer.status(prepared["b"])
    peer.state(after=SECRET_TENSOR)
    peer.state(wait=SECRET_TENSOR)
    world.client.get(f"/{SECRET_TENSOR}", headers={"Authorization": f"Bearer {SECRET_TENSOR}", "User-Agent": "Bearer"})
    world.client.request(SECRET_TENSOR.upper(), "/healthz")
    peer.put(prepared["a"], 0, secret)
    for site in "abc":
        world.peer(site).submit(prepared[site])
    peer.put(prepared["a"], 0, secret)
    peer.record(round_id, wait=20)
    peer.sum_from(round_id)
    own_server.stop()
    world.close()
    return world, round_id, prepared


def test_no_line_holds_a_secret(talked, own_server):
    _, _, prepared = talked
    log = own_server.log
    for secret in SECRETS:
        assert secret.lower() not in log.lower(), secret
    for submission in prepared.values():
        assert submission.manifest.decode() not in log
        document = json.loads(submission.manifest)
        assert not any(signature in log for signature in document["signatures"].values())
        for part in submission.parts:
            piece = part[100:118]
            assert piece.hex() not in log
            assert base64.b64encode(piece).decode() not in log
    assert KEY_ID not in log


def test_no_file_holds_a_tensor_name_or_a_key_of_a_member(talked, own_server):
    world, *_ = talked
    for path, content in contents_of(own_server.data_dir):
        for secret in (SECRET_TENSOR, "my-group-key"):
            assert secret.encode() not in content, path
        for member in world.members.values():
            private = member.signing_key.to_bytes()
            assert private not in content, path
            assert private.hex().encode() not in content, path


def test_one_line_per_request(talked, own_server):
    world, round_id, prepared = talked
    lines = [line for line in own_server.log_lines if line["message"] == "request"]
    for line in lines:
        assert {"time", "level", "method", "route", "status", "ms", "id"} <= line.keys()
    assert len({line["id"] for line in lines}) == len(lines)
    puts = [line for line in lines if line["method"] == "PUT" and line["status"] == 200]
    assert [(line["member"], line["upload"], line["federation"]) for line in puts] == [
        (site, prepared[site].upload, world.name) for site in "abc"
    ]
    refused = [line for line in lines if line.get("reason") == "secret-refused"]
    assert [(line["status"], line["round_id"]) for line in refused] == [(422, round_id)]
    assert {line["reason"] for line in lines if line["status"] == 404} >= {"unknown-round", "unknown-submission"}
    unknown = [line for line in lines if line["route"] == "-"]
    assert {line["status"] for line in unknown} == {404}
