"""Changed and untimely requests about split keys: refused with a reason, and nothing is stored of them.

Documents of holders about a published round are changed in test_fuzz.py.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from he_agg.documents.holding import Answer, Complaint, Echo
from he_agg.ids import RoundId
from he_agg.sharing.shares import ANSWER_BYTES, Fault
from tests.faults.fuzzing import MANY, bounded, kept, mutations
from tests.support.holding import Held, deal_to, holders_of, put_dealing, put_sharing_key, sharing_key
from tests.support.peers import OCTETS, make_plan
from tests.support.seeds import seed_of
from tests.support.simulated import Clock, SimulatedFederation, snapshot

SPLIT = make_plan("fuzz", split=True, min_sites=3, rounds=10**6)


@MANY
def test_mutated_sharing_keys_and_dealings(tmp_path, times):
    """What shares are sealed to, before it is stored; and what is sealed, of which a manifest was accepted."""
    inside = SimulatedFederation(tmp_path / "data", SPLIT, clock=Clock(1_800_000_000.5), holders="abct")
    for name in "abc":
        assert put_sharing_key(inside.at(name)).status_code == 201
    listed = holders_of(inside.at("a"), "fuzz.1.1")
    one = deal_to(SPLIT, listed, "fuzz.1.1", "a", 1)
    assert put_dealing(inside.at("a"), one).status_code == 201
    assert inside.at("a").submit(one.prepared).status_code == 200
    dealing, where = one.dealing.to_bytes(), f"{one.path}/dealing"
    key = sharing_key("fuzz", 1, inside.members.identities["t"])
    public, blobs = one.dealing.public, one.dealing.blobs
    whole_ones = st.sampled_from(
        [
            public + b"".join([blobs[1], blobs[0], *blobs[2:]]),  # shares of two holders, swapped
            public + b"".join(blobs[:-2]),
            public,
            dealing + blobs[0],
            b"",
        ]
    )
    refused: set[str] = set()
    before = kept(inside)

    @bounded(60 * times)
    @given(of_key=st.booleans(), data=st.data())
    def ask(of_key, data) -> None:
        original = key if of_key else dealing
        body = data.draw(mutations(original) if of_key else mutations(original) | whole_ones)
        if body == original:
            return
        if of_key:
            answer = put_sharing_key(inside.at("t"), 1, body)
        else:
            answer = inside.at("a").request("PUT", where, OCTETS, content=body)
        assert 400 <= answer.status_code < 500, "something else than what was signed was taken"
        refused.add(answer.json()["reason"])
        assert kept(inside) == before, answer.text

    ask()
    assert refused >= {"truncated", "bad-field"}, refused
    assert put_sharing_key(inside.at("t"), 1, key).status_code == 201
    assert put_dealing(inside.at("a"), one, dealing).status_code == 200
    inside.end()


def test_what_holders_and_sites_send_in_any_order(tmp_path):
    """Each is refused until its turn has come, and then said once: nothing is stored out of turn, or twice."""
    inside = SimulatedFederation(tmp_path / "data", SPLIT, clock=Clock(1_800_000_000.5), holders="abct")
    for name in "abct":
        assert put_sharing_key(inside.at(name)).status_code == 201
    listed = holders_of(inside.at("a"), "fuzz.1.1")
    dealt = {site: deal_to(SPLIT, listed, "fuzz.1.1", site, seed) for seed, site in enumerate("abc")}
    about: dict[str, Any] = {"round_id": RoundId("fuzz", 1, 1), "record": "ab" * 32}
    held = {name: Held(inside.at(name), "fuzz.1.1") for name in "abct"}
    steps = [(what, site) for what in ("deal", "put") for site in "abc"]
    steps += [(what, name) for what in ("shares", "echo") for name in "abct"]
    # The key of t came when the round was open: nothing is dealt to it.
    steps += [(what, name) for what in ("answer", "complain") for name in "abc"]
    done: set[tuple[str, str]] = set()

    def is_due(what, name):
        published = {("put", site) for site in "abc"} <= done
        return {
            "deal": True,
            "put": ("deal", name) in done,
            "shares": published,
            "echo": published,
            "complain": published,
            "answer": len([one for one in done if one[0] == "echo"]) >= listed.thresholds.quorum,
        }[what]

    def send(what, name):
        peer, fields = inside.at(name), about | {"holder": name}
        if (row := inside.row("fuzz.1.1")) is not None and row.record_digest:
            fields["record"] = row.record_digest
        match what:
            case "deal":
                return put_dealing(peer, dealt[name])
            case "put":
                return peer.submit(dealt[name].prepared)
            case "shares":
                return held[name].get("shares")
            case "echo":
                return held[name].put(f"echoes/{name}", Echo(**fields))
            case "answer":
                return held[name].put(f"answers/{name}", Answer(**fields, shares=bytes(ANSWER_BYTES)))
        complaint = Complaint(**fields, dealer="b", fault=Fault.SEALED, plaintext=None)
        return held[name].put(f"complaints/{name}.b", complaint)

    def rows():
        tables = snapshot(inside.settings.data_dir)["tables"]
        return {table: len(tables[table]) for table in ("dealings", "echoes", "answers", "complaints")}

    rng = random.Random(seed_of("any order"))
    while len(done) < len(steps):
        # What is not due yet, or was done, is as likely as what is.
        due = [step for step in steps if step not in done and is_due(*step)]
        what, name = rng.choice(rng.choice([due, steps]))
        before, answer = rows(), send(what, name)
        if is_due(what, name):
            assert answer.status_code in ({200} if (what, name) in done else {200, 201}), answer.text
            done.add((what, name))
        else:
            assert answer.status_code in (404, 409), answer.text
            assert answer.json()["reason"] in {"unknown-submission", "incomplete", "sum-not-ready"}, answer.text
            assert rows() == before
        inside.fold()
    assert rows() == {"dealings": 3, "echoes": 4, "answers": 3, "complaints": 3}
    assert inside.row("fuzz.2.1") is not None
    inside.end()
