"""A member that spoils sums is found in at most five rehearsals of a second federation, in which nobody sends data."""

from __future__ import annotations

import io
import itertools
import time
from typing import Any

import numpy as np
import pytest

from client_sdk import Site
from client_sdk._protocol import prepare
from he_agg import DecryptionError, Layout, Plan
from he_agg.audit import audit
from he_agg.audit.suspects import suspects
from he_agg.codecs import codec_for
from he_agg.ids import RoundId
from service.domain.events import Phase
from tests.attacks.members import Member, WrongTags
from tests.support.peers import operator
from tests.support.real import Hospitals, until
from tests.support.trust import AUDITOR

FIVE = tuple(f"hospital-{letter}" for letter in "abcde")
LEAST = 3
_numbers = itertools.count(1)


def integers(plan: Plan, value: int, count: int) -> np.ndarray:
    return np.array([value] * plan.layout.size + [10, count], dtype=np.int64)


class Rehearsal(Hospitals):
    """Five sites of which one spoils every sum that it is in."""

    def __init__(self, server, root, bad: str, kind: str) -> None:
        layout = Layout.of({"w": np.zeros(50)}, clip=1.0, weight_cap=10)
        terms: dict[str, Any] = {"codec": "ckks", "value_bits": 16, "rounds": 10, "part_bytes": 2**16}
        plan = Plan.create(f"rehearsal-{next(_numbers)}", layout, max_sites=5, min_sites=LEAST, **terms)
        super().__init__(server, root, plan, sites=FIVE)
        self.bad, self.number = bad, 0
        self.open = {name: Site.open(self.config(name)) for name in FIVE}
        spoilt = {"count of 2": integers(plan, 0, 2), "values beyond M": integers(plan, 6 * plan.public.magnitude, 1)}
        self.spoilt = spoilt.get(kind)

    def close(self) -> None:
        for site in self.open.values():
            site.close()
        super().close()

    def play(self, members, monkeypatch) -> None:
        """One rehearsal: these send zeros, the others stay away, and all who were in it look at the sum."""
        self.number += 1
        round_id = f"{self.name}.{self.number}.1"
        for name in members:
            site = self.open[name]
            round = until(site.current)
            assert round.id == round_id
            with monkeypatch.context() as patch:
                if name == self.bad and self.spoilt is None:
                    patch.setattr(prepare, "RoundMac", WrongTags)
                elif name == self.bad and self.spoilt is not None:
                    member = Member(self.plan, codec_for(self.plan.public), self.spoilt, np.zeros(len(self.spoilt)))
                    patch.setitem(vars(site._session), "codec", member)
                round.submit({"w": np.zeros(50)}, weight=10, may_repeat=True)
        if len(members) < len(FIVE):
            with operator(self.server.data_dir) as (_, conductor):  # its deadline has come
                conductor._clock = lambda: time.time() + 3601
                conductor.tick_all()
        with operator(self.server.data_dir) as (store, _):

            def published() -> bool:
                with store.read() as tx:
                    row = tx.round(RoundId.parse(round_id))
                    return row is not None and row.phase is Phase.PUBLISHED

            until(published, 60)
        for name in members:
            try:
                self.open[name].fetch(round_id)
            except DecryptionError:
                assert self.bad in members
            else:
                assert self.bad not in members

    def found(self):
        result = audit(io.BytesIO(self.peers[AUDITOR].document("transcript").content))
        assert result.findings == []
        return suspects(result.rounds, frozenset(FIVE), LEAST)


@pytest.mark.parametrize(
    ("kind", "bad"), [("wrong tag", FIVE[0]), ("count of 2", FIVE[3]), ("values beyond M", FIVE[2])]
)
def test_the_bad_member_among_five_is_found(aggregator, tmp_path, monkeypatch, kind, bad):
    rehearsal = Rehearsal(aggregator, tmp_path, bad, kind)
    try:
        members = FIVE
        while members:
            rehearsal.play(members, monkeypatch)
            found = rehearsal.found()
            members = () if found is None else found.next_set
        assert found is not None
        assert (found.named, found.against) == (bad, {})
        assert rehearsal.number <= 5
    finally:
        rehearsal.close()
