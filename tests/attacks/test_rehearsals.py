"""A member that spoils sums is found in at most five rehearsals of a second federation, in which nobody sends data."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from client_sdk import Site
from client_sdk._protocol import encrypt
from he_agg import DecryptionError, Layout, Plan
from he_agg.audit import audit
from he_agg.audit.suspects import suspects
from he_agg.codecs import codec_for
from he_agg.documents.verdict import OPENED, REJECTED
from he_agg.ids import RoundId
from service.domain.events import Phase
from tests.attacks.members import Member, WrongTags
from tests.support.peers import operator, pass_time
from tests.support.real import Hospitals, until
from tests.support.trust import AUDITOR
from tests.vectors.second_documents import check_transcript, parse, sha256

FIVE = tuple(f"hospital-{letter}" for letter in "abcde")
LEAST = 3
_numbers = itertools.count(1)


def integers(plan: Plan, value: int, count: int) -> np.ndarray:
    return np.array([value] * plan.layout.size + [10, count], dtype=np.int64)


def named_by(transcript: str) -> tuple[set[str], set[str]]:
    """What anybody makes of the exported lines: who is in all rejected sums, and who has said other than most.

    Shares nothing with the audit. The other reader has checked every signature and the chain.
    """
    check_transcript(transcript)
    sums: dict[str, set[str]] = {}
    said: dict[str, dict[str, str]] = {}
    for line in transcript.splitlines()[1:]:
        document = parse(line)
        body = document["body"]
        if document["kind"] == "record" and body["outcome"] == "published":
            sums[sha256(line.encode()).hex()] = set(body["members"])
        if document["kind"] == "verdict":
            said.setdefault(body["record"], {})[body["site"]] = body["verdict"]
    together, against = [], set()
    for record, members in sums.items():
        ((most, count),) = Counter(said[record].values()).most_common(1)
        if 2 * count > len(members):
            against |= {site for site, verdict in said[record].items() if verdict != most}
            if most == "rejected":
                together.append(members)
    return set.intersection(*together) if together else set(), against


class Rehearsal(Hospitals):
    """Five sites of which one spoils every sum that it is in."""

    def __init__(self, server, root, bad: str, kind: str, says: str | None = None) -> None:
        layout = Layout.of({"w": np.zeros(50)}, clip=1.0, weight_cap=10)
        terms: dict[str, Any] = {"codec": "ckks", "value_bits": 16, "rounds": 10, "part_bytes": 2**16}
        plan = Plan.create(f"rehearsal-{next(_numbers)}", layout, max_sites=5, min_sites=LEAST, **terms)
        super().__init__(server, root, plan, sites=FIVE)
        self.bad, self.number, self.says, self.kind = bad, 0, says, kind
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
                if name == self.bad and self.kind == "wrong tag":
                    patch.setattr(encrypt, "RoundMac", WrongTags)
                elif name == self.bad and self.spoilt is not None:
                    member = Member(self.plan, codec_for(self.plan.public), self.spoilt)
                    patch.setitem(vars(site._session), "codec", member)
                round.submit({"w": np.zeros(50)}, weight=10, may_repeat=True)
        if len(members) < len(FIVE):
            pass_time(self.server.data_dir, self.name)
        with operator(self.server.data_dir) as (store, _):

            def published() -> bool:
                with store.read() as tx:
                    row = tx.round(RoundId.parse(round_id))
                    return row is not None and row.phase is Phase.PUBLISHED

            until(published, 60)
        spoilt = self.bad in members and self.kind != "nothing"
        for name in members:
            if name == self.bad and self.says is not None:
                assert self.peers[name].judge(round_id, self.says).status_code == 201
                continue
            try:
                self.open[name].fetch(round_id)
            except DecryptionError:
                assert spoilt
            else:
                assert not spoilt

    def found(self):
        """What the audit says; whoever reads the same file comes to the same names."""
        transcript = self.peers[AUDITOR].document("transcript").content
        result = audit(io.BytesIO(transcript))
        assert result.findings == []
        found = suspects(result.rounds, frozenset(FIVE), LEAST)
        names = (set(), set()) if found is None else (set(found.together), set(found.against))
        assert named_by(transcript.decode()) == names
        return found


@pytest.mark.parametrize(
    ("kind", "bad", "says"),
    [("wrong tag", FIVE[0], None), ("count of 2", FIVE[3], None), ("values beyond M", FIVE[2], OPENED)],
)
def test_the_bad_member_among_five_is_found(aggregator, tmp_path, monkeypatch, kind, bad, says):
    """One of them says of every sum that it could open it: its own signature is against it as well."""
    rehearsal = Rehearsal(aggregator, tmp_path, bad, kind, says)
    try:
        members = FIVE
        while members:
            rehearsal.play(members, monkeypatch)
            found = rehearsal.found()
            members = () if found is None else found.next_set
        assert found is not None
        assert found.named == bad
        assert dict(found.against) == ({} if says is None else {bad: found.rejected})
        assert rehearsal.number <= 5
    finally:
        rehearsal.close()


def test_a_member_that_rejects_what_all_others_open_is_named(aggregator, tmp_path, monkeypatch):
    rehearsal = Rehearsal(aggregator, tmp_path, FIVE[1], "nothing", REJECTED)
    try:
        rehearsal.play(FIVE, monkeypatch)
        found = rehearsal.found()
        assert (found.named, found.rejected) == (None, ())
        assert list(found.against) == [FIVE[1]]
    finally:
        rehearsal.close()
