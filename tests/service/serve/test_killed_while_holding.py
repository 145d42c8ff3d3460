"""kill -9 of the real server when holders have spoken, and have no answer yet: what was stored is there, once."""

from __future__ import annotations

import contextlib
import sqlite3

import httpx
import pytest

from service.failpoints import VARIABLE
from tests.support.holding import Held, deal_to, holders_of, put_dealing, put_sharing_key
from tests.support.peers import make_plan
from tests.support.real import RealFederation, until

HOLDERS = ("a", "b", "c", "trustee")
DEATHS = ("document.stored", "answer.before_head")


class Mortal:
    """Sends each request to a server that dies at it, and then again to the next one."""

    def __init__(self, server, death: str) -> None:
        self.server, self.death = server, death
        self.environment = server.environment

    def send(self, request) -> int:
        """The status code of the answer that came at last."""
        self.server.environment = self.environment | {VARIABLE: f"{self.death}:1"}
        self.server.start()
        with contextlib.suppress(httpx.TransportError):
            request()
        until(lambda: self.server.poll() is not None)
        self.server.environment = self.environment
        self.server.start()
        return request().status_code


def rows(world, table):
    with contextlib.closing(sqlite3.connect(world.server.data_dir / "aggregator.sqlite3")) as db:
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


@pytest.mark.parametrize("death", DEATHS)
def test_what_was_answered_is_stored_once(own_server, death):
    world = RealFederation(own_server, make_plan("f", split=True, min_sites=3, rounds=2), "abc", holders=HOLDERS)
    mortal = Mortal(own_server, death)
    for name in "ab":
        put_sharing_key(world.peers[name])
    # The one that makes enough opens the round in the same transaction.
    assert mortal.send(lambda: put_sharing_key(world.peers["c"])) == 200
    assert world.peer("a").current(wait=5)["round_id"] == "f.1.1"
    listed = holders_of(world.peer("a"), "f.1.1")
    for seed, site in enumerate("abc"):
        peer, dealt = world.peer(site), deal_to(world.plan, listed, "f.1.1", site, seed)
        if site == "a":
            assert mortal.send(lambda p=peer, d=dealt: put_dealing(p, d)) == 200
        put_dealing(peer, dealt)
        assert peer.put(dealt.prepared, 0, dealt.prepared.whole).status_code == 200
    assert world.peer("a").record("f.1.1", wait=20).status_code == 200
    a, b, c = (Held(world.peers[name], "f.1.1") for name in "abc")
    assert a.echo().status_code == b.echo().status_code == 201
    assert c.record.digest == a.record.digest  # asked for before the server is told to die
    shares = b.shares()
    assert mortal.send(c.echo) == 200
    assert a.answer().status_code == 201
    # The one that makes enough settles the round in the same transaction.
    assert mortal.send(lambda: b.answer(shares)) == 200
    assert world.peer("a").current(wait=5)["round_id"] == "f.2.1"
    counts = {table: rows(world, table) for table in ("sharing_keys", "dealings", "echoes", "answers", "rounds")}
    assert counts == {"sharing_keys": 3, "dealings": 3, "echoes": 3, "answers": 2, "rounds": 2}
    world.close()
