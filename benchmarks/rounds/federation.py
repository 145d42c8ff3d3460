"""A federation of he-agg for one row: plan, keys, roster, an aggregator that knows it, and a directory per site."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.rounds.models import WEIGHT_CAP
from he_agg.documents.roster import Member, Role, Roster, SignedRoster
from he_agg.plan.layout import Layout
from he_agg.plan.plan import Plan
from keys import GroupKey, Identity
from service.core.aggregator_key import AggregatorKey

__all__ = ["Files", "command", "found", "room_for"]

_DAY_S = 86400


def room_for(sites: int) -> int:
    """How many sites a plan has room for: twice those that take part, as in the demo."""
    return 2 * sites


@dataclass(frozen=True)
class Files:
    """Where a federation's things are.

    Attributes:
        data_dir: the aggregator's.
        sites: one directory per site.
        plan: the plan.
    """

    data_dir: Path
    sites: tuple[Path, ...]
    plan: Plan


def found(root: Path, name: str, codec: str, value_bits: int, values: int, sites: int, max_sites: int) -> Files:
    """Make everything a federation needs, and start it. The aggregator need not run yet.

    Args:
        root: where all of it goes.
        name: the federation's.
        codec: of the plan.
        value_bits: of the plan.
        values: how many an update has.
        sites: how many take part.
        max_sites: of the plan.
    """
    layout = Layout.of({"w": np.broadcast_to(np.float32(0), (values,))}, clip=1.0, weight_cap=WEIGHT_CAP)
    # All sites have to be in: a round that closed early would be a faster one.
    plan = Plan.create(
        name, layout, codec=codec, value_bits=value_bits, min_sites=sites, max_sites=max_sites, rounds=10_000
    )
    key = GroupKey.create(plan)
    data_dir = root / "aggregator"
    identities = [Identity.create(f"site-{number:02d}") for number in range(sites)]
    coordinator = Identity.create("coordinator")
    roster = _roster(name, identities, coordinator, AggregatorKey.load_or_create(data_dir).member)
    directories = []
    for identity in identities:
        directory = root / identity.name
        directory.mkdir(mode=0o700, parents=True)
        identity.save(directory / "identity")
        key.save(directory / "keystore")
        (directory / "roster.json").write_bytes(roster.encode())
        directories.append(directory)
    (root / "federation.json").write_bytes(key.federation_document.encode())
    (root / "roster.json").write_bytes(roster.encode())
    command(data_dir, "federation", "create", str(root / "federation.json"), "--roster", str(root / "roster.json"))
    command(data_dir, "federation", "start", name)
    return Files(data_dir, tuple(directories), plan)


def command(data_dir: Path, *words: str) -> None:
    """Run an operator's command."""
    arguments = [sys.executable, "-m", "he_agg", *words, "--data-dir", str(data_dir)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"he-agg {' '.join(words[:2])}: {done.stderr.strip()}")


def _roster(name: str, sites: list[Identity], coordinator: Identity, aggregator: Member) -> SignedRoster:
    members = {site.name: site.member([Role.SITE]) for site in sites}
    members[coordinator.name] = coordinator.member([Role.COORDINATOR])
    members[aggregator.name] = Member(aggregator.name, aggregator.signing_key, frozenset({Role.AGGREGATOR}))
    now = int(time.time())
    roster = Roster(name, 1, now - 60, now + _DAY_S, 1, len(sites), members)
    signed = SignedRoster.unsigned(roster).document.signed_by(coordinator.name, coordinator.signing_key)
    return SignedRoster(roster, signed)
