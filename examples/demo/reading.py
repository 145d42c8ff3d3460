"""Try to read one hospital's update with what the aggregator's disk and another hospital's folder hold.

Nobody is asked and nothing is broken: the two put together what they have. Of the aggregator, the stored parts of the
submission and, where keys are split, its dealing; of the hospital, its keystore and its own share of the one-time key.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from client_sdk._disk.sharing_keys import SharingKeys
from client_sdk._disk.spool import Spool
from client_sdk._protocol.holding import context_of
from he_agg import DecryptionError, dequantize, quantize
from he_agg.codecs import codec_for
from he_agg.documents.manifest import Manifest
from he_agg.documents.roster import Roster
from he_agg.documents.sharing import HolderList
from he_agg.documents.signed import Signed
from he_agg.plan.sections import PART_HEADER_BYTES, Part
from he_agg.ring.primes import N
from he_agg.sharing.dealing import Dealing
from he_agg.sharing.decoding import rebuild
from he_agg.sharing.field import P
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.shares import BadShare, open_share
from keys import GroupKey, Identity

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from he_agg.sharing.field import Elements

__all__ = ["Reading", "try_to_read"]

GUESSES = 1_000
"""How often the missing shares are guessed. A guess is right once in 65,521^2048."""

ROSTER = "roster.json"


@dataclass(frozen=True)
class Reading:
    """What came of it.

    Attributes:
        values: how many values of the update were read, to the last bit.
        of: how many it has.
        shares: how many shares of the one-time key the two have; None where keys are shared.
        needed: how many give it back.
    """

    values: int
    of: int
    shares: int | None = None
    needed: int | None = None

    def __str__(self) -> str:
        read = f"{self.values:,} of {self.of:,} values"
        if self.shares is None:
            return read
        return f"{read}: {self.shares} share of the {self.needed} that give the one-time key back"


def try_to_read(disk: Path, spy: Path, name: str, federation: str, number: int, victim: str, update: Any) -> Reading:
    """Try to read what one hospital has sent to a round.

    Args:
        disk: the aggregator's data directory.
        spy: the folder of the hospital that helps the aggregator.
        name: its name.
        number: of the round, whose first attempt it is.
        victim: the hospital that is read.
        update: what it has sent, to compare with.
    """
    key = GroupKey.load(spy / f"{federation}.keystore")
    round_id = f"{federation}.{number}.1"
    with contextlib.closing(sqlite3.connect(disk / "aggregator.sqlite3")) as store:
        submission, document = store.execute(
            "SELECT id, manifest FROM submissions WHERE round_id = ? AND site = ?", (round_id, victim)
        ).fetchone()
        dealt = store.execute(
            "SELECT data, holder_list FROM dealings, rounds WHERE submission_id = ? AND rounds.id = ?",
            (submission, round_id),
        ).fetchone()
    manifest = Signed.parse(Manifest, document).body
    open_with = partial(_opened, key, disk / "rounds" / round_id / "submissions" / submission, manifest, update)
    if dealt is None:
        return Reading(open_with(None), key.plan.layout.size)
    own, listed, masks = _own_share(key, spy, name, manifest, *dealt)
    needed, size = listed.thresholds.threshold, key.plan.layout.size
    rng, point = np.random.default_rng(), listed.holders.index(name)
    others = [other for other in range(1, len(listed.names) + 1) if other != point][: needed - 1]
    for _ in range(GUESSES):
        guessed = {other: rng.integers(0, P, N).astype(np.uint16) for other in others}
        with contextlib.suppress(DecryptionError):
            found = rebuild({point: own, **guessed}, needed, lambda total: unmasked(total, masks, 1) is not None)
            key_sum = unmasked(found.total, masks, 1)
            return Reading(open_with(key_sum), size, 1, needed)
    return Reading(0, size, 1, needed)


def _opened(key: GroupKey, folder: Path, manifest: Manifest, update: Any, key_sum: NDArray[np.int32] | None) -> int:
    """Open a stored submission as if it were a sum of one; return how many of its values are those of an update."""

    def part(number: int) -> Part:
        return Part(number, memoryview((folder / f"{number}.part").read_bytes())[PART_HEADER_BYTES:])

    plan = key.plan
    wide = None if key_sum is None else key_sum.astype(np.int64)
    sums = codec_for(plan.public).decrypt(part, 1, key, manifest.round_id, key_sum=wide)
    sent = quantize(plan, update, dequantize(plan, sums, 1).total_weight).values
    return int((sums[: plan.layout.size] == sent[: plan.layout.size]).sum())


def _own_share(
    key: GroupKey, spy: Path, name: str, manifest: Manifest, data: bytes, holders: bytes
) -> tuple[Elements, HolderList, Elements]:
    """Open the share that was dealt to the hospital that helps; return it, the holders, and the submission's mask."""
    roster = Signed.parse(Roster, (spy / ROSTER).read_bytes().strip())
    listed = HolderList.parse(holders, roster, manifest.epoch)
    context = context_of(listed, manifest)
    identity = Identity.load(spy / f"{name}.identity")
    folder = Spool(spy / f"{name}.spool", name).sharing_keys_path(manifest.round_id.federation)
    sharing_key = SharingKeys(folder, manifest.round_id.federation, identity).of(manifest.epoch)
    if sharing_key is None:
        raise FileNotFoundError(folder)
    own = open_share(Dealing.parse(data, listed.holders).excerpt(name), context, sharing_key.open)
    if isinstance(own, BadShare):
        raise TypeError(f"the share of {name} is bad: {own.fault}")
    return own, listed, total_mask(key.mask_key, [context])
