"""Four hospitals, three of them coordinators of whom two have to sign. All keys in one place."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from he_agg import Plan
from he_agg.documents.epoch import EpochBundle
from he_agg.documents.roster import Member, Role, Roster
from he_agg.documents.signed import Signed
from he_agg.signing import SigningKey
from keys import GroupKey, Identity
from keys.ceremony import accept, deal
from keys.rosters import new_roster, next_roster, sign_roster
from tests.support.federation import key_of, plan_of
from tests.support.trust import identity_of

SITES = ("hospital-a", "hospital-b", "hospital-c", "hospital-d")
COORDINATORS = SITES[:3]
DAY_S = 86400
AGGREGATOR = Member("aggregator", SigningKey.generate().public_key.hex())


@cache
def site(name: str) -> Identity:
    """An identity; every other one has the small suite."""
    return Identity.create(name, "x25519") if name in ("hospital-b", "hospital-d") else identity_of(name)


def signed(roster: Signed[Roster], *names: str) -> Signed[Roster]:
    """The roster with signatures of these."""
    for name in names:
        key = site(name).signing_key
        roster = roster.signed_by(name, key)
    return roster


def first(**options) -> Signed[Roster]:
    """Version 1, signed by two of three."""
    members = {
        Role.SITE: [site(name).member() for name in SITES],
        Role.COORDINATOR: [site(name).member() for name in COORDINATORS],
        Role.AGGREGATOR: [AGGREGATOR],
    }
    federation = options.pop("federation", "test")
    roster = new_roster(federation, members, **{"now": int(time.time()) - 60, **options})
    assert roster.body.threshold == 2
    return sign_roster(sign_roster(roster, site("hospital-a")), site("hospital-b"))


def after(previous: Signed[Roster], **options) -> Signed[Roster]:
    """The next version, signed by two of three."""
    return signed(next_roster(previous, **{"now": int(time.time()) - 60, **options}), "hospital-a", "hospital-b")


@dataclass
class Dealt:
    """A roster, a key and the bundle it was dealt in.

    Attributes:
        roster: version 1.
        key: of epoch 1.
        bundle: the same, dealt by hospital-a.
    """

    plan: Plan
    roster: Signed[Roster]
    key: GroupKey
    bundle: Signed[EpochBundle]

    def deal(self, epoch: int, roster: Signed[Roster] | None = None, plan: Plan | None = None) -> Signed[EpochBundle]:
        """Another bundle of hospital-a."""
        return deal(GroupKey.create(plan or self.plan, epoch), roster or self.roster, site("hospital-a"), time.time())

    def resigned(self, signer: str = "hospital-a", **changes) -> Signed[EpochBundle]:
        """The bundle with fields changed by its dealer: the signature is good, what is sealed is bound to the old."""
        body = replace(self.bundle.body, **changes)
        return Signed.make(body, site(signer).signing_key)

    def accept(self, bundle: Signed[EpochBundle], path: Path, name: str = "hospital-d", **options) -> GroupKey:
        """What a site does with a bundle."""
        roster, now = options.pop("roster", self.roster), options.pop("now", time.time())
        return accept(bundle, roster, options.pop("identity", site(name)), path, now, **options)[0]


@cache
def world() -> Dealt:
    """The same one each time."""
    plan, roster = plan_of(5), first()
    key = key_of(plan)
    return Dealt(plan, roster, key, deal(key, roster, site("hospital-a"), time.time()))


def reencoded(signed_bundle: Signed[EpochBundle], value: Any) -> Signed[EpochBundle]:
    """Another body under the old signature."""
    return Signed(EpochBundle.from_json(value), signed_bundle.signatures)
