"""A federation in memory that splits keys, as its holders see it: real sharing keys, real dealings, good or bad.

Three sites and a trustee hold. The aggregator here keeps what holders say, and settles a round by enough answers; no
sum is made, for no holder looks at one.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk._disk.chain import Chain
from client_sdk._disk.ledger import Ledger
from client_sdk._disk.rosters import Rosters
from client_sdk._disk.security_log import SecurityLog
from client_sdk._disk.spool import Spool
from client_sdk._effects import Request, Response
from client_sdk._protocol.exchange import Retries
from client_sdk._protocol.hold import hold_awaited
from client_sdk._protocol.retry import RetryPolicy
from client_sdk._protocol.session import MemberSession, Session, Trustee
from client_sdk._protocol.sharing_key import ensure_sharing_key
from client_sdk._protocol.state import federation_state
from client_sdk.progress import Notice
from he_agg import Plan, canonical
from he_agg.documents.holding import Answer, Complaint, Echo
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import PUBLISHED, RoundRecord
from he_agg.documents.roster import Role, Roster
from he_agg.documents.sharing import HolderList, SharingKey
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.ids import RoundId
from he_agg.mac import tag_count
from he_agg.sharing.context import Context
from he_agg.sharing.dealing import Dealing
from he_agg.sharing.thresholds import Thresholds
from keys.receiving import seal
from tests.sharing.dealt import halves_of, keys_of
from tests.support.federation import key_of, plan_of
from tests.support.flows import CONSORTIUM, NOW, FakeAggregator, World, keystores_of, problem
from tests.support.trust import AGGREGATOR, AUDITOR, COORDINATOR, identity_of, roster_of

__all__ = [
    "HOLDERS",
    "SITES",
    "Halves",
    "HeldFederation",
    "HolderWorld",
    "begin",
    "held_roster",
    "holder_in",
    "look",
    "notices",
    "split_plan",
]

SITES = ("a", "b", "c")
TRUSTEE = "trustee"
HOLDERS = (*SITES, TRUSTEE)

Halves = tuple[bytes, list[bytes]]
"""The public part of a dealing, and what is sealed to each holder."""


def split_plan() -> Plan:
    """A plan that splits keys."""
    return plan_of(codec="hybrid", keys="split", min_sites=3)


def held_roster(version: int = 1, holders: tuple[str, ...] = HOLDERS, **changed: Any) -> Signed[Roster]:
    """A version of the roster, with these holders."""
    members = {name: identity_of(name).member([Role.HOLDER]) for name in holders}
    for site in SITES:
        roles = [Role.SITE, Role.HOLDER] if site in holders else [Role.SITE]
        members[site] = identity_of(site).member(roles)
    members |= {name: CONSORTIUM.roster.body.members[name] for name in (COORDINATOR, AUDITOR, AGGREGATOR)}
    given: dict[str, Any] = {"holders": Thresholds.choose(len(holders))}
    return CONSORTIUM.signed(roster_of("test", version, NOW - 60, NOW + 86400, 1, 3, members, **given | changed))


class HeldFederation(FakeAggregator):
    """What holders send, and what they are shown. `lies` of the state and `shown` of other answers are for tests.

    Attributes:
        caller: who asks now.
        sharing: signed sharing keys, by epoch and holder.
        lists: of holders, by round.
        dealings: what is served to holders, by round and site.
        said: echoes, answers and complaints as they came, by path.
        shown: instead of an answer, by the end of its path.
    """

    caller = ""

    def __init__(self, plan: Plan) -> None:
        self.sharing: dict[tuple[int, str], Signed[SharingKey]] = {}
        self.lists: dict[str, HolderList] = {}
        self.dealings: dict[tuple[str, str], Dealing] = {}
        self.said: dict[str, bytes] = {}
        self.shown: dict[str, Response] = {}
        super().__init__(plan)
        self.rosters = [held_roster()]
        self.roster = self.rosters[-1].body_digest

    @property
    def state(self) -> FederationState:
        """Where it stands: a published sum is awaited until enough holders have answered."""
        honest = super().state
        if "awaited" in self.lies or self.record is None or self.record.body.outcome != PUBLISHED:
            return honest
        answered = sum(f"rounds/{self.round_id}/answers/" in path for path in self.said)
        settled = answered >= self.listed.thresholds.threshold
        return honest if settled else dataclasses.replace(honest, awaited=self.round_id)

    @property
    def listed(self) -> HolderList:
        """The list of this round: what it is when it is asked for first."""
        if str(self.round_id) not in self.lists:
            keys = [signed for (epoch, _), signed in sorted(self.sharing.items()) if epoch == self.key.epoch]
            (roster,) = [signed for signed in self.rosters if signed.body_digest == self.roster]
            self.lists[str(self.round_id)] = HolderList.of(roster, self.key.epoch, keys)
        return self.lists[str(self.round_id)]

    def context(self, site: str, **changed: Any) -> Context:
        """What a site's dealing of this round is of."""
        facts: dict[str, Any] = {
            "round_id": self.round_id,
            "epoch": self.key.epoch,
            "plan_id": self.plan.plan_id,
            "key_id": self.key.key_id,
            "roster": self.roster,
            "holders": self.listed.digest,
            "dealer": site,
            "nonce": f"{SITES.index(site):02x}" * 16,
        }
        return Context(**facts | changed)

    def deal(
        self,
        rng: np.random.Generator,
        site: str,
        cheat: Callable[[Halves], Halves] = lambda halves: halves,
        resealed: Callable[[Dealing], Dealing] = lambda dealing: dealing,
        **changed: Any,
    ) -> Any:
        """Have a site submit: a dealing, and a manifest that names it.

        Args:
            cheat: changes what is dealt before it is sealed.
            resealed: changes what was sealed.
            changed: facts of the context that the dealer goes by.

        Returns:
            Its one-time key.
        """
        context, holders = self.context(site, **changed), self.listed.holders
        key = keys_of(rng, 1)[0]
        public, plaintexts = cheat(halves_of(key, context, holders, rng, self.key.mask_key))
        blobs = []
        for index, (name, plaintext) in enumerate(zip(holders.names, plaintexts, strict=True), start=1):
            to = self.listed.receiving.get(name)
            blobs.append(b"" if to is None else seal(to, plaintext, context.sealing_info(index, name)))
        self.hand_in(site, resealed(Dealing(holders, public, tuple(blobs))))
        return key

    def hand_in(self, site: str, dealing: Dealing) -> None:
        """Submit a dealing as a site."""
        self.dealings[str(self.round_id), site] = dealing
        public, honest = self.plan.public, self.context(site)
        manifest = Manifest(
            self.round_id, self.key.epoch, self.key.key_id, self.plan.plan_id, site, honest.nonce,
            tuple("00" * 32 for _ in public.places),
            tuple((0,) * tag_count(place.section) for place in public.places),
            self.roster, self.previous, self.listed.digest, dealing.digest,
        )  # fmt: skip
        signed = Signed.make(manifest, identity_of(site).signing_key)
        self.manifests[site] = signed
        self.complete[site] = signed.digest

    def publish(self, **changed: Any) -> None:
        """Publish the record of what is complete."""
        honest = RoundRecord(
            round_id=self.round_id,
            index=len(self.chain) + 1,
            previous=self.previous,
            closed_at=1,
            roster=self.roster,
            epoch=self.key.epoch,
            key_id=self.key.key_id,
            plan_id=self.plan.plan_id,
            outcome=PUBLISHED,
            members=dict(self.complete),
            excluded={site: "late" for site in self.invited if site not in self.complete},
            sum_digests=tuple("00" * 32 for _ in self.plan.public.places),
        )
        self.write(dataclasses.replace(honest, **changed))

    def of(self, what: str) -> dict[str, bytes]:
        """What holders have said of this round, by who said it."""
        start = f"rounds/{self.round_id}/{what}/"
        return {path.removeprefix(start): body for path, body in self.said.items() if path.startswith(start)}

    def __call__(self, request: Request, body: bytes) -> Response:
        path = request.path.partition("?")[0].removeprefix("/v1/")
        parts = path.split("/")
        for end, instead in self.shown.items():
            if path.endswith(end) and request.method == "GET":
                return instead
        match (request.method, *parts):
            case ("PUT", "federations", _, "epochs", epoch, "sharing-keys", _):
                return self._take_key(int(epoch), Signed.parse(SharingKey, body))
            case ("PUT", "rounds", _, "echoes" | "answers" | "complaints" as what, _):
                return self._hear(path, what, body)
            case ("GET", "rounds", number, "holders") if number in self.lists:
                return Response(200, {}, self.lists[number].encode())
            case ("GET", "rounds", number, "shares"):
                found = [dealing for (dealt, _), dealing in sorted(self.dealings.items()) if dealt == number]
                return Response(200, {}, b"".join(one.excerpt(self.caller).to_bytes() for one in found))
            case ("GET", "rounds", _, "echoes"):
                found = [json.loads(echo) for _, echo in sorted(self.of("echoes").items())]
                if len(found) < self.listed.thresholds.quorum:
                    return Response(204)
                return Response(200, {}, canonical.encode({"v": 1, "echoes": found}))
        return super().__call__(request, body)

    def _take_key(self, epoch: int, signed: Signed[SharingKey]) -> Response:
        assert signed.body.holder == self.caller
        known = self.sharing.setdefault((epoch, self.caller), signed)
        return Response(201) if known == signed else problem(409, "already-exists")

    def _hear(self, path: str, what: str, body: bytes) -> Response:
        if what == "answers" and len(self.of("echoes")) < self.listed.thresholds.quorum:
            return problem(409, "sum-not-ready")
        kind: Any = {"echoes": Echo, "answers": Answer, "complaints": Complaint}[what]
        Signed.parse(kind, body).check_signed({self.caller: identity_of(self.caller).signing_key.public_key})
        known = self.said.setdefault(path, body)
        return Response(201) if known == body else problem(409, "already-exists")


class HolderWorld(World):
    """A world for one holder; the aggregator knows who asks."""

    def perform(self, effect: Any) -> Any:
        """Carry an effect out in this holder's name."""
        self.aggregator.caller = self.signer.name  # type: ignore[attr-defined]
        return super().perform(effect)

    def _verify(self, *_: Any) -> bool:
        return True


def holder_in(root: Path, plan: Plan, name: str) -> MemberSession:
    """A holder with its files below `root`: a site, or the trustee, who has no group key."""
    root.mkdir(exist_ok=True)
    spool, pin, identity = Spool(root / "spool", name), root / f"{name}.roster.json", identity_of(name)
    if not pin.exists():
        pin.write_bytes(held_roster().encode())
    common: Mapping[str, Any] = {
        "identity": identity,
        "rosters": Rosters(pin, "test", identity, Role.SITE if name in SITES else Role.HOLDER),
        "chain": Chain(spool.chain_path("test")),
        "ledger": Ledger(spool.ledger_path("test")),
        "log": SecurityLog(root / f"{name}.security.log", time.time),
        "spool": spool,
        "clock": lambda: NOW,
        "retries": Retries(RetryPolicy(), lambda: 0.5),
    }
    if name not in SITES:
        return Trustee(public=plan.public, **common)
    return Session(keys=keystores_of(root, key_of(plan), name), **common)


def look(session: MemberSession, aggregator: HeldFederation, world: HolderWorld | None = None) -> bool:
    """Look once where the federation stands, as whoever waits for a round does; whether to come back soon."""
    world = world or HolderWorld(aggregator, site=session.site)
    state = world.run(federation_state(session)).body
    world.run(ensure_sharing_key(session, state))
    return world.run(hold_awaited(session, state))


def begin(aggregator: HeldFederation, root: Path, without: str = "") -> dict[str, MemberSession]:
    """Have all holders make a sharing key before anything opens, but for one perhaps."""
    holders = {name: holder_in(root, aggregator.plan, name) for name in HOLDERS if name != without}
    aggregator.stage = "created"
    for session in holders.values():
        look(session, aggregator)
    aggregator.stage = "running"
    return holders


def published(
    aggregator: HeldFederation, rng: np.random.Generator, root: Path, **dealing: Any
) -> dict[str, MemberSession]:
    """Have all holders make a sharing key, all sites deal to them, and the record published.

    Args:
        dealing: how site b deals; see `HeldFederation.deal`.
    """
    holders = begin(aggregator, root)
    deal = partial(aggregator.deal, rng)
    deal("a"), deal("b", **dealing), deal("c")
    aggregator.publish()
    return holders


def round_after(round_id: RoundId) -> RoundId:
    """The next number's first attempt."""
    return RoundId(round_id.federation, round_id.number + 1, 1)


def notices(world: World) -> list[str]:
    """What people were told."""
    return [event.text for event in world.events if isinstance(event, Notice)]
