"""Who asks is proved by a signature: over a real socket, every way to get it wrong, and nothing is changed by any."""

import socket
import time

import pytest

from he_agg.documents.federation import FederationDocument
from he_agg.documents.roster import Role
from he_agg.protocol.http_signatures import EMPTY_DIGEST, WINDOW_S, RequestHead, manifest_field, sign_request
from keys import Identity
from service.operator import operations
from tests.service.http.answers import assert_problem, raw_answer
from tests.support.peers import KEY_ID, OCTETS, Peer, digest_header, known, make_plan, operator, prepare
from tests.support.simulated import Clock, Inside, snapshot
from tests.support.trust import AUDITOR, COORDINATOR, consortium, identity_of

ROLES = {
    "GET state": {"a", AUDITOR, COORDINATOR},
    "GET record": {"a", AUDITOR, COORDINATOR},
    "GET sum": {"a"},
    "GET submission": {"a"},
    "PUT submission": {"a"},
    "GET records/1": {"a", AUDITOR, COORDINATOR},
    "GET rosters/newest": {"a", AUDITOR, COORDINATOR},
    "PUT rosters/2": {COORDINATOR},
    "GET epochs/newest": {"a", COORDINATOR},
    "PUT epochs/2": {COORDINATOR},
    "PUT epochs/1/commitments/a": {"a"},
    "GET epochs/1/commitments": {AUDITOR, COORDINATOR},
    "GET transcript": {AUDITOR},
}


@pytest.fixture
def prepared(world):
    """A submission of site a, begun."""
    submission = prepare(world.plan, world.round_id, "a", 5)
    assert world.peer().put(submission, 0, submission.parts[0]).status_code == 204
    return submission


@pytest.fixture
def unchanged(world, prepared):
    before = world.snapshot()
    yield
    assert world.snapshot() == before


class Put:
    """One honest PUT of a part, of which a test changes what it wants, before or after signing."""

    def __init__(self, world, prepared):
        self.world = world
        self.method, self.path = "PUT", f"/v1/rounds/{world.round_id}/submissions/{prepared.upload}"
        self.query, self.body = "from=1", prepared.parts[1]
        self.digest = manifest_field(prepared.upload)
        self.member, self.name = world.members["a"], "a"
        self.federation = world.name
        self.created = time.time()

    def fields(self):
        head = RequestHead(self.method, self.path, self.query, self.digest, self.federation)
        return sign_request(head, self.name, self.member.signing_key, self.created)

    def send(self, fields, **sent):
        what = {"method": self.method, "path": self.path, "query": self.query, "body": self.body} | sent
        url = what["path"] + (f"?{what['query']}" if what["query"] else "")
        headers = [*OCTETS.items(), *(fields.items() if isinstance(fields, dict) else fields)]
        return self.world.client.request(what["method"], url, headers=headers, content=what["body"])

    def passes(self):
        """The same code, nothing changed."""
        assert self.send(self.fields()).status_code == 204
        assert self.send(self.fields()).status_code == 204


@pytest.fixture
def put(world, prepared):
    return Put(world, prepared)


def check_untouched(world, act):
    world.rest()
    before = world.snapshot()
    answer = act()
    assert world.snapshot() == before
    return answer


@pytest.mark.parametrize("name", ["Content-Digest", "He-Agg-Federation", "Signature-Input", "Signature"])
def test_a_field_that_is_missing_empty_or_twice(world, put, name):
    good = put.fields()
    without = {key: value for key, value in good.items() if key != name}
    for fields in (without, good | {name: ""}, [*good.items(), (name, good[name])]):
        answer = check_untouched(world, lambda f=fields: put.send(f))
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == 'Signature realm="he-agg"'
    put.passes()


CHANGES = {
    "no label": ("Signature-Input", lambda value: value.removeprefix("he-agg=")),
    "another label": ("Signature-Input", lambda value: value.replace("he-agg=", "sig1=")),
    "a component less": ("Signature-Input", lambda value: value.replace(' "@query"', "")),
    "another order": ("Signature-Input", lambda value: value.replace('"@method" "@path"', '"@path" "@method"')),
    "another algorithm": ("Signature-Input", lambda value: value.replace("ed25519", "hmac-sha256")),
    "no nonce": ("Signature-Input", lambda value: value.replace(";nonce=", ";other=")),
    "no time": ("Signature-Input", lambda value: value.replace(";created=", ";expires=")),
    "a second signature": ("Signature-Input", lambda value: f"{value}, {value}"),
    "a parameter more": ("Signature-Input", lambda value: value + ';tag="x"'),
    "no signature": ("Signature", lambda value: "he-agg=::"),
    "half a signature": ("Signature", lambda value: value[:40] + ":"),
    "hex": ("Signature", lambda value: "he-agg=:" + "ab" * 43 + ":"),
    "a token": ("Signature", lambda value: "Bearer abc"),
    "no name of a federation": ("He-Agg-Federation", lambda value: "No Name"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_fields_of_another_form(world, put, name):
    field, change = CHANGES[name]
    good = put.fields()
    answer = check_untouched(world, lambda: put.send(good | {field: change(good[field])}))
    assert_problem(answer, 401, "unauthenticated")
    put.passes()


SENT_OTHERWISE = {
    "method": lambda put: {"method": "POST"},
    "path": lambda put: {"path": put.path[:-1] + ("3" if put.path.endswith("2") else "2")},
    "query": lambda put: {"query": "wait=1"},
    "double slash": lambda put: {"path": "/" + put.path},
    "percent": lambda put: {"path": put.path.replace("/v1/", "/v%31/")},
}


@pytest.mark.parametrize("name", SENT_OTHERWISE)
def test_what_is_signed_is_what_is_sent(world, put, name):
    answer = check_untouched(world, lambda: put.send(put.fields(), **SENT_OTHERWISE[name](put)))
    if name in ("method", "double slash"):  # there is no such address at all
        assert answer.status_code in (404, 405)
    else:
        assert_problem(answer, 401, "bad-signature")
    put.passes()


def test_another_body_or_digest(world, put, prepared):
    """Parts are held to their manifest, at its end, and to their form before."""
    fields, other = put.fields(), prepared.parts[2]
    assert_problem(check_untouched(world, lambda: put.send(fields, body=other)), 422, "bad-field")
    changed = fields | digest_header(other)
    assert_problem(check_untouched(world, lambda: put.send(changed, body=other)), 401, "bad-signature")
    assert_problem(check_untouched(world, lambda: put.send(changed)), 401, "bad-signature")
    put.passes()


def test_a_query_that_is_signed_counts(world):
    peer = world.peer()
    path, known = f"/v1/federations/{world.name}/state", "0" * 64
    fields = peer.signature("GET", path, EMPTY_DIGEST, f"wait=0&after={known}")
    for query, status in ((f"wait=0&after={known}", 200), (f"after={known}&wait=0", 401), ("wait=0", 401), ("", 401)):
        assert world.client.get(f"{path}?{query}" if query else path, headers=fields).status_code == status


def test_a_method_that_was_not_signed(world):
    """The same address takes two methods: a signature on one is none on the other."""
    peer, path = world.peers[COORDINATOR], f"/v1/federations/{world.name}/rosters/1"
    fields = peer.signature("GET", path, EMPTY_DIGEST)
    answer = check_untouched(world, lambda: world.client.put(path, headers=fields))
    assert_problem(answer, 401, "bad-signature")
    assert world.client.get(path, headers=fields).status_code == 200


def test_keys_and_names_of_others(world, put):
    for member, name, reason in (
        (world.members["b"], "a", "bad-signature"),
        (world.members["a"], "b", "bad-signature"),
        (identity_of("stranger"), "a", "bad-signature"),
        (identity_of("stranger"), "stranger", "unauthenticated"),
        (identity_of("aggregator"), "aggregator", "bad-signature"),
    ):
        put.member, put.name = member, name
        assert_problem(check_untouched(world, lambda: put.send(put.fields())), 401, reason)
    put.member, put.name = world.members["b"], "b"
    assert_problem(check_untouched(world, lambda: put.send(put.fields())), 404, "unknown-submission")
    put.member, put.name = world.members["a"], "a"
    put.passes()


def test_a_request_in_another_federation(world, put, make_world):
    other = make_world()  # with members of the same names and the same keys
    good = put.fields()
    answer = check_untouched(world, lambda: put.send(good | {"He-Agg-Federation": other.name}))
    assert_problem(answer, 401, "bad-signature")
    put.federation = other.name
    assert_problem(check_untouched(world, lambda: put.send(put.fields())), 404, "unknown-round")
    put.federation = "nowhere"
    assert_problem(check_untouched(world, lambda: put.send(put.fields())), 404, "unknown-federation")
    for what in ("rosters/newest", "epochs/newest", "state", "records/1"):
        path = f"/v1/federations/{other.name}/{what}"
        assert_problem(world.peer().request("GET", path), 404, "unknown-federation")
    put.federation = world.name
    put.passes()


@pytest.mark.parametrize("offset", [-WINDOW_S - 5, WINDOW_S + 5, -(10**6)])
def test_outside_of_the_window(world, put, offset):
    put.created += offset
    body = assert_problem(check_untouched(world, lambda: put.send(put.fields())), 401, "clock-skew")
    assert abs(body["server_time"] - time.time()) < 60
    put.created = body["server_time"]
    put.passes()


@pytest.mark.parametrize("offset", [-WINDOW_S + 5, WINDOW_S - 5])
def test_within_the_window(put, offset):
    put.created += offset
    put.passes()


def test_a_repeated_request_does_nothing_new(world, put):
    fields = put.fields()
    assert put.send(fields).status_code == 204
    for _ in range(3):
        assert check_untouched(world, lambda: put.send(fields)).status_code == 204


def test_not_one_byte_of_a_body_is_read_before(world, put, prepared):
    """The head of each is sent and nothing after it. An honest one is waited for, the others are answered."""
    good = put.fields()
    bad = good | {"Signature": put.fields()["Signature"]}  # of another nonce
    for fields, status in ((bad, 401), ({}, 401)):
        lines = [f"{name}: {value}" for name, value in (OCTETS | fields).items()]
        head = [f"PUT {put.path}?{put.query} HTTP/1.1", "Host: x", f"Content-Length: {len(put.body)}", *lines]
        answer = check_untouched(world, lambda h=head: raw_answer(world, h))
        assert answer.startswith(f"HTTP/1.1 {status} "), answer
    lines = [f"{name}: {value}" for name, value in (OCTETS | good).items()]
    head = [f"PUT {put.path}?{put.query} HTTP/1.1", "Host: x", f"Content-Length: {len(put.body)}", *lines]
    with pytest.raises(socket.timeout):
        raw_answer(world, head, timeout_s=1.0)
    assert raw_answer(world, head, put.body).startswith("HTTP/1.1 204 ")


@pytest.mark.usefixtures("unchanged")
def test_a_body_where_none_belongs(world, prepared):
    path = f"/v1/rounds/{world.round_id}/submissions/{prepared.upload}"
    answer = world.peer().request("GET", path, content=b"{}")
    assert_problem(answer, 400, "bad-request")
    # The digest of something, and nothing comes.
    answer = world.peer().request("GET", path, digest_header(b"{}"))
    assert_problem(answer, 400, "bad-digest")
    assert world.peer().request("GET", path).status_code == 200


@pytest.mark.parametrize("what", ROLES)
def test_roles(world, prepared, what):
    method, _, name = what.partition(" ")
    path = {
        "record": f"/v1/rounds/{world.round_id}/record",
        "sum": f"/v1/rounds/{world.round_id}/sum",
        "submission": f"/v1/rounds/{world.round_id}/submissions/{prepared.upload}",
    }.get(name, f"/v1/federations/{world.name}/{name}")
    for member in ("a", COORDINATOR, AUDITOR):
        before = world.snapshot()
        answer = world.peers[member].request(
            method, path, {} if method == "GET" else {"Content-Type": "application/json"}
        )
        if member in ROLES[what]:
            assert answer.status_code not in (401, 403), answer.text
        else:
            assert_problem(answer, 403, "forbidden")
        assert world.snapshot() == before


def test_an_operator_sees_records_and_whole_transcripts_but_asks_for_no_round(world):
    """Who runs the server needs the chain; the answer that sites wait for, with all manifests, it does not."""
    members = known(world.name)
    operated = dict(members.roster.body.members) | {"op": identity_of("op").member([Role.OPERATOR])}
    assert world.peers[COORDINATOR].bring("rosters/2", members.next_roster(operated).encode()).status_code == 201
    peer = Peer(world.client, world.name, identity_of("op"))
    before = world.snapshot()
    assert peer.state().status_code == peer.document("transcript").status_code == 200
    assert_problem(peer.record_at(9), 404, "unknown-round")
    assert_problem(peer.record(world.round_id), 403, "forbidden")
    assert_problem(peer.record(f"{world.name}.9.1"), 403, "forbidden")
    assert world.snapshot() == before


def test_a_removed_site_is_told_so_and_nothing_more(world, put):
    members = known(world.name)
    left = {name: one for name, one in members.roster.body.members.items() if name != "a"}
    assert put.send(put.fields()).status_code == 204
    assert world.peers[COORDINATOR].bring("rosters/2", members.next_roster(left).encode()).status_code == 201
    answer = check_untouched(world, lambda: put.send(put.fields()))
    assert_problem(answer, 403, "no-longer-member")
    assert "version 1 of the roster was the last that listed it" in answer.json()["detail"]
    assert_problem(world.peer("a").state(), 403, "no-longer-member")
    # Whoever cannot prove that it was that site learns nothing of former members.
    stranger = Peer(world.client, world.name, Identity.create("a"))
    assert_problem(stranger.state(), 401, "unauthenticated")
    assert world.peer("b").current()["roster_version"] == 2


def test_an_expired_roster_lets_nobody_in_until_there_is_a_new_one(tmp_path):
    clock = Clock()
    plan = make_plan("expiring")
    inside = Inside(tmp_path / "data", clock)
    try:
        with operator(tmp_path / "data") as (store, conductor):
            members = consortium("expiring", "abc", conductor.key.signing_key, valid_s=1000)
            document = FederationDocument(plan.public, 1, KEY_ID)
            operations.create_federation(store, conductor, document, members.roster.encode())
            operations.start(store, conductor, "expiring")
        peer = inside.peer("expiring", members.identities["a"])
        assert peer.state().status_code == 200
        clock.now = members.roster.body.expires_at - 0.5
        assert peer.state().status_code == 200
        clock.now += 1
        before = snapshot(tmp_path / "data")
        for name in ("a", COORDINATOR, AUDITOR):
            answer = Peer(inside.client, "expiring", members.identities[name], clock).document("rosters/newest")
            assert_problem(answer, 401, "roster-expired")
        assert snapshot(tmp_path / "data") == before
        longer = {"issued_at": int(clock.now), "expires_at": int(clock.now) + 1000}
        following = members.next_roster(dict(members.roster.body.members), **longer)
        operations.bring_roster(inside.aggregator.store, inside.aggregator.conductor, "expiring", following.encode())
        assert peer.current()["roster_version"] == 2
    finally:
        inside.end()
