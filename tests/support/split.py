"""A federation in memory that splits keys: three sites and a trustee hold, and the aggregator can have them lie."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from client_sdk._effects import Request, Response
from client_sdk._protocol import verbs
from client_sdk._protocol.holding import context_of
from client_sdk._protocol.session import Session
from he_agg import Plan, canonical
from he_agg.documents.holding import Answer, Echo
from he_agg.documents.manifest import Manifest
from he_agg.documents.roster import Role, Roster
from he_agg.documents.sharing import HolderList, SharingKey
from he_agg.documents.signed import Signed
from he_agg.errors import WireError
from he_agg.protocol.messages import SubmissionStatus
from he_agg.sharing.dealing import Dealing
from he_agg.sharing.shares import BadShare, answer, open_share
from he_agg.sharing.thresholds import Thresholds
from keys.receiving import ReceivingKey
from tests.support.federation import plan_of
from tests.support.flows import (
    CONSORTIUM,
    N_VALUES,
    NOW,
    FakeAggregator,
    World,
    json_of,
    problem,
    session_for,
    update_of,
)
from tests.support.trust import AGGREGATOR, AUDITOR, COORDINATOR, identity_of, roster_of

TRUSTEE = "trustee"
HOLDERS = ("a", "b", "c", TRUSTEE)


def split_plan(**options: Any) -> Plan:
    """A plan that splits keys."""
    given = {"codec": "hybrid", "keys": "split", "min_sites": 3, "part_bytes": 2**16, "weight_cap": 10}
    return plan_of(N_VALUES, **given | options)


@cache
def sharing_key_of(holder: str, epoch: int = 1) -> ReceivingKey:
    """A holder's sharing key of an epoch, the same one each time. Of the quicker suite."""
    return ReceivingKey.generate("x25519")


def split_roster(
    holders: Iterable[str] = HOLDERS, version: int = 1, thresholds: Thresholds | None = None, **changed: Any
) -> Signed[Roster]:
    """A roster with these holders, signed by the coordinator."""
    named = sorted(holders)
    roles = {name: [Role.HOLDER] for name in named if name not in "abc"}
    roles |= {site: [Role.SITE, Role.HOLDER] if site in named else [Role.SITE] for site in "abc"}
    members = {name: identity_of(name).member(having) for name, having in roles.items()}
    before = CONSORTIUM.roster.body.members
    members |= {name: before[name] for name in (COORDINATOR, AUDITOR, AGGREGATOR)}
    given: dict[str, Any] = {"holders": thresholds or Thresholds.choose(len(named))}
    roster = roster_of("test", version, NOW - 60, NOW + 86400, 1, 3, members, **given | changed)
    return CONSORTIUM.signed(roster)


def list_of(roster: Signed[Roster], without: Iterable[str] = (), epoch: int = 1) -> HolderList:
    """The list of all holders of a roster, of whom some may have no sharing key."""
    keys = []
    for name in sorted(roster.body.having(Role.HOLDER).keys() - set(without)):
        body = SharingKey("test", epoch, name, sharing_key_of(name, epoch).public)
        keys.append(Signed.make(body, identity_of(name).signing_key))
    return HolderList.of(roster, epoch, keys)


class SplitAggregator(FakeAggregator):
    """One round at a time, under split keys. Holders answer when the test says so: see `hear` and `answer`.

    Attributes:
        holders: the list of the round.
        dealings: by submission; `dealt` by upload.
        echoes: what it shows, by holder.
        answers: what it shows, by holder.
    """

    def __init__(self, plan: Plan, roster: Signed[Roster] | None = None) -> None:
        super().__init__(plan, roster=roster or split_roster())

    holders: HolderList

    def open(self, *args: Any) -> None:
        """Open a round, with the list of holders as it is then."""
        super().open(*args)
        self.holders = list_of(self.rosters[-1], epoch=self.key.epoch)
        self.dealings: dict[str, bytes] = {}
        self.dealt: dict[str, bytes] = {}
        self.echoes: dict[str, Signed[Echo]] = {}
        self.answers: dict[str, Signed[Answer]] = {}

    def __call__(self, request: Request, body: bytes) -> Response:
        path, _, query = request.path.partition("?")
        _, _, what, named, *rest = path.split("/")
        if (what, rest) == ("rounds", ["holders"]) and named == str(self.round_id):
            return Response(200, {}, self.holders.encode())
        if rest[:1] == ["submissions"] and rest[2:] == ["dealing"]:
            return self._put_dealing(rest[1], body)
        if (what, rest) == ("rounds", ["answers"]) and named == str(self.round_id):
            more_than = int(query.partition("more_than=")[2])
            enough = len(self.answers) >= self.holders.thresholds.threshold and len(self.answers) > more_than
            return self._answers() if enough else Response(204)
        return super().__call__(request, body)

    def _put_dealing(self, upload: str, body: bytes) -> Response:
        accepted = [manifest for manifest in self.manifests.values() if manifest.body.nonce == upload]
        try:
            digest = Dealing.parse(body, self.holders.holders).digest
        except WireError:
            return problem(400, "bad-digest")
        if any(digest != signed.body.dealing for signed in accepted):
            return problem(400, "bad-digest")
        for signed in accepted:
            self.dealings[signed.digest] = body
        self.uploads.setdefault(upload, {})
        self.dealt[upload] = body
        return Response(201)

    def _answers(self) -> Response:
        shown = {
            "answers": [json.loads(signed.encode()) for _, signed in sorted(self.answers.items())],
            "echoes": [json.loads(signed.encode()) for _, signed in sorted(self.echoes.items())],
            "v": 1,
        }
        return Response(200, {}, canonical.encode(shown))

    def _status(self, upload: str) -> Response:
        answer = super()._status(upload)
        if answer.status != 200:
            return answer
        stated = SubmissionStatus(**json.loads(answer.body))
        accepted = [m.digest for m in self.manifests.values() if m.body.nonce == upload]
        lacks = accepted[0] not in self.dealings if accepted else upload not in self.dealt
        return json_of(dataclasses.replace(stated, dealing_missing=lacks))

    def _complete(self, upload: str, signed: Signed[Manifest]) -> Response:
        if upload not in self.dealt:
            return problem(409, "incomplete")
        if Dealing.parse(self.dealt[upload], self.holders.holders).digest != signed.body.dealing:
            del self.dealt[upload]
            return problem(400, "bad-digest")
        answer = super()._complete(upload, signed)
        if answer.status == 200:
            self.dealings.setdefault(signed.digest, self.dealt[upload])
        return answer

    def hear(self, *holders: str) -> None:
        """Have holders echo the record."""
        for name in holders:
            self.say(Echo(self.round_id, self.record.digest, name))

    def answer(self, *holders: str) -> None:
        """Have holders answer for the record, truly."""
        for name in holders:
            self.say(Answer(self.round_id, self.record.digest, name, self.share_of(name)))

    def say(self, body: Echo | Answer, signer: str | None = None) -> None:
        """Show what a holder says, or what somebody signs in its name."""
        signed = Signed.make(body, identity_of(signer or body.holder).signing_key, body.holder)
        kept: dict[str, Any] = self.echoes if isinstance(body, Echo) else self.answers
        kept[body.holder] = signed

    def share_of(self, name: str) -> bytes:
        """A holder's share of the sum of keys."""
        rows = []
        for site in sorted(self.record.body.members):
            signed = self.manifests[site]
            dealing = Dealing.parse(self.dealings[signed.digest], self.holders.holders)
            context = context_of(self.holders, signed.body)
            row = open_share(dealing.excerpt(name), context, sharing_key_of(name, self.holders.epoch).open)
            assert not isinstance(row, BadShare)
            rows.append(row)
        return answer(rows)

    def others_deal(self, root: Path, sites: str = "bc") -> None:
        """The other sites hand in, as the SDK does it: site number i (from 1) sets value i and weighs 1."""
        for site in sites:
            session = session_of(root, self.plan, site, self.rosters[0])
            World(self, site=site).run(verbs.submit(session, self.opened, update_of("abc".index(site))))


def session_of(
    root: Path, plan: Plan, site: str = "a", roster: Signed[Roster] | None = None, **policy: float
) -> Session:
    """A site with its files below `root`, that has pinned a roster with holders."""
    root.mkdir(exist_ok=True)
    pin = root / f"{site}.roster.json"
    if not pin.exists():
        pin.write_bytes((roster or split_roster()).encode())
    return session_for(root, plan, site, **policy)


Meddling = Callable[[Request, bytes], "Response | Exception | None"]


def answering(aggregator: SplitAggregator, *holders: str, heard: Iterable[str] = HOLDERS) -> Meddling:
    """Have holders echo and answer as soon as there is a record."""

    def meddle(request: Request, body: bytes) -> None:
        if "/answers" in request.path and aggregator.record is not None and not aggregator.answers:
            aggregator.hear(*heard)
            aggregator.answer(*holders)

    return meddle
