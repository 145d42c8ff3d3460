"""What whoever has the aggregator's disk and some members' files can put together: copies of real files, real keys."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client_sdk._disk.sharing_keys import SharingKeys
from client_sdk._disk.spool import Spool
from client_sdk._protocol.holding import context_of
from he_agg.codecs import codec_for
from he_agg.documents.holding import Answer
from he_agg.documents.manifest import Manifest
from he_agg.documents.roster import Roster
from he_agg.documents.sharing import HolderList
from he_agg.documents.signed import Signed
from he_agg.plan.sections import PART_HEADER_BYTES, Part
from he_agg.sharing.dealing import Dealing
from he_agg.sharing.field import Elements
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.shamir import rebuild
from he_agg.sharing.shares import BadShare, open_share, read_answer
from keys import GroupKey, Identity
from tests.support.federation import fold_all, source

__all__ = ["Disk", "Member"]


@dataclass(frozen=True)
class Disk:
    """A copy of the aggregator's data directory, and a round in it."""

    path: Path
    round_id: str

    def _rows(self, query: str, *values: str) -> list[tuple[bytes, ...]]:
        with contextlib.closing(sqlite3.connect(self.path / "aggregator.sqlite3")) as store:
            return store.execute(query, values).fetchall()

    def manifest(self, site: str) -> Signed[Manifest]:
        query = "SELECT manifest FROM submissions WHERE round_id = ? AND site = ?"
        ((document,),) = self._rows(query, self.round_id, site)
        return Signed.parse(Manifest, document)

    def parts(self, key: GroupKey, site: str) -> list[Part]:
        """A submission as it lies there."""
        folder = self.path / "rounds" / self.round_id / "submissions" / self.manifest(site).body.nonce
        files = [folder / f"{place.number}.part" for place in key.plan.public.places]
        return [Part(n, memoryview(file.read_bytes())[PART_HEADER_BYTES:]) for n, file in enumerate(files)]

    def listed(self, roster: Signed[Roster], epoch: int) -> HolderList:
        ((body,),) = self._rows("SELECT holder_list FROM rounds WHERE id = ?", self.round_id)
        return HolderList.parse(body, roster, epoch)

    def dealing(self, site: str, holders: HolderList) -> Dealing:
        query = "SELECT data FROM dealings WHERE submission_id = ?"
        ((data,),) = self._rows(query, self.manifest(site).body.nonce)
        return Dealing.parse(data, holders.holders)

    def answers(self) -> dict[str, Elements]:
        rows = self._rows("SELECT document FROM answers WHERE round_id = ?", self.round_id)
        said = [Signed.parse(Answer, document).body for (document,) in rows]
        return {answer.holder: read_answer(answer.shares) for answer in said}

    def opened(
        self, key: GroupKey, sites: Iterable[str], key_sum: NDArray[np.int64] | None = None, claimed: int | None = None
    ) -> NDArray[np.int64]:
        """Open the sum of some submissions, as a site opens a sum; of one, too.

        Args:
            claimed: of how many sites it is said to be.
        """
        submissions = [self.parts(key, site) for site in sites]
        total = source(fold_all(key.plan.public, submissions))
        round_id, n_sites = self.manifest(next(iter(sites))).body.round_id, claimed or len(submissions)
        wide = None if key_sum is None else key_sum.copy()
        return codec_for(key.plan.public).decrypt(total, n_sites, key, round_id, key_sum=wide)


@dataclass(frozen=True)
class Member:
    """All files of one member, as whoever steals its machine has them."""

    name: str
    folder: Path

    @cached_property
    def key(self) -> GroupKey:
        return GroupKey.load(self.folder / "keystore")

    @cached_property
    def roster(self) -> Signed[Roster]:
        return Signed.parse(Roster, (self.folder / "roster.json").read_bytes())

    def share_of(self, disk: Disk, site: str, federation: str) -> tuple[int, Elements]:
        """Open its share of a submission's masked key, with its point."""
        manifest = disk.manifest(site).body
        holders = disk.listed(self.roster, manifest.epoch)
        folder = Spool(self.folder / "spool", self.name).sharing_keys_path(federation)
        key = SharingKeys(folder, federation, Identity.load(self.folder / "identity")).of(manifest.epoch)
        assert key is not None
        share = open_share(
            disk.dealing(site, holders).excerpt(self.name), context_of(holders, disk.manifest(site).body), key.open
        )
        assert not isinstance(share, BadShare)
        return holders.holders.index(self.name), share


def key_sum(
    disk: Disk, key: GroupKey, roster: Signed[Roster], shares: dict[int, Elements], sites: Sequence[str]
) -> NDArray[np.int64] | None:
    """Rebuild the sum of keys of some sites from shares of it; None if it is no sum of so many keys."""
    holders = disk.listed(roster, key.epoch)
    masks = total_mask(key.mask_key, [context_of(holders, disk.manifest(site).body) for site in sites])
    found = unmasked(rebuild(shares), masks, len(sites))
    return None if found is None else found.astype(np.int64)
