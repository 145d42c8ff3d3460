"""Founds federations on an aggregator's store with the operator's own commands."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from he_agg.roster import Member, SignedRoster
from keys import GroupKey
from tests.support.server import he_agg

__all__ = ["aggregator_of", "found"]


@cache
def aggregator_of(data_dir: Path) -> Member:
    """The aggregator of this data directory, as its public file says."""
    out = data_dir.with_name(f"{data_dir.name}.public.json")
    he_agg("aggregator", "show", "--data-dir", data_dir, "--out", out)
    document = json.loads(out.read_bytes())
    return Member.from_json(document["name"], document["public"])


def found(data_dir: Path, key: GroupKey, roster: SignedRoster, scratch: Path, *, start: bool = True) -> None:
    """Create a federation, and start it unless told otherwise.

    Args:
        data_dir: the aggregator's.
        key: whose public facts the aggregator gets.
        roster: who belongs to it.
        scratch: where the documents are written.
        start: whether rounds begin.
    """
    name = key.plan.public.federation
    document, pinned = scratch / f"{name}.federation.json", scratch / f"{name}.roster.json"
    document.write_bytes(key.federation_document.encode())
    pinned.write_bytes(roster.encode())
    he_agg("federation", "create", document, "--roster", pinned, "--data-dir", data_dir)
    if start:
        he_agg("federation", "start", name, "--data-dir", data_dir)
