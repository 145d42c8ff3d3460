"""The sum of a round: a pure function of its closed set, made part by part, in bounded memory.

At any moment one accumulator and one stored part are in memory for each thread, whatever the number of sites or the
size of the model; the kernels, the digests and the part store leave the interpreter to the other threads. Nothing is
ever added onto something durable: a part of the sum is made whole or not at all, so a crash means that only the parts
that were being made are computed again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from he_agg.errors import WireError
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import Residues, fold, new_sum, pack
from he_agg.kernels.buffers import aligned
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import PartPlace
from he_agg.protocol.wire import parse_part, part_header
from service.core.submissions.running_sums import RunningSum
from service.failpoints import failpoint
from service.store.parts.base import SUM, PartKey, PartLostError, PartStore
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["CorruptPartError", "Member", "fold_part", "fold_round", "warm_up"]

_ROWS_EVERY_S = 1.0
"""Made parts of a sum are noted at least so often. Units: seconds."""


class Member(NamedTuple):
    """One site's part, and the SHA-256 that its manifest names."""

    site: str
    key: PartKey
    digest: str


class CorruptPartError(Exception):
    """A stored part is not what its site sent. It is never summed."""

    def __init__(self, member: Member) -> None:
        super().__init__(f"part {member.key.number} of upload {member.key.owner} is not what was stored")
        self.site = member.site
        self.upload = member.key.owner
        self.number = member.key.number


def fold_part(
    part_store: PartStore,
    plan: PublicPlan,
    place: PartPlace,
    members: Iterable[Member],
    total: Residues | None = None,
) -> memoryview:
    """Compute one part of the sum, as it travels, in memory that begins at a page.

    Args:
        total: what to add them to: the sum of further members, which is spoilt afterwards. None for nothing.

    Raises:
        CorruptPartError: a part is missing, or is not what the manifest names.
    """
    section = place.section
    if total is None:
        total = new_sum(place.residues, section.modulus_bits)
    for member in members:
        try:
            data = part_store.read(member.key)
        except PartLostError:
            raise CorruptPartError(member) from None
        if hashlib.sha256(data).hexdigest() != member.digest:
            raise CorruptPartError(member)
        try:
            part = parse_part(data, place, plan.plan_id, check_residues=False)
        except WireError:
            raise CorruptPartError(member) from None
        if fold(total, part.packed, section.modulus_bits, section.modulus) >= 0:
            raise CorruptPartError(member)
    made = aligned(place.wire_bytes)
    header = part_header(place, plan.plan_id)
    made[: len(header)] = np.frombuffer(header, np.uint8)
    pack(total, section.modulus_bits, out=made[len(header) :])
    return made.data


def fold_round(
    store: Store,
    part_store: PartStore,
    plan: PublicPlan,
    round_id: RoundId,
    stopping: Callable[[], bool] = lambda: False,
    *,
    places: Sequence[PartPlace] | None = None,
    threads: int = 1,
    hold: Callable[[Transaction], None] = lambda _: None,
    on_damage: Callable[[CorruptPartError], None] | None = None,
    running: Callable[[int], RunningSum | None] = lambda _: None,
    keep: Callable[[PartKey, memoryview], bool] = lambda *_: False,
) -> bool:
    """Make parts of a round's sum durable. Goes on where an earlier run was interrupted.

    Args:
        stopping: asked between parts; True makes it return early.
        places: which parts of the sum to make; others may be making the rest. None for all.
        threads: how many parts to work on at once.
        hold: called within every transaction that writes; raises to give up.
        on_damage: told of each stored part that is not what its site sent; folding goes on with the other parts of
            the sum. None makes the first one an error.
        running: takes the running sum of parts of one number, if there is one. What it holds is not read again.
        keep: keeps a part of the sum in memory for those who fetch it, and says whether it does.

    Returns:
        Whether all of these are durable.
    """
    with store.read() as tx:
        durable = tx.sum_digests(round_id)

    def make(place: PartPlace) -> bool:
        key = PartKey(round_id, SUM, place.number)
        if place.number in durable and part_store.is_whole(key, durable[place.number]):
            return True
        with store.read() as tx:
            accepted = tx.digests_of_part(round_id, place.number)
        members = [Member(site, PartKey(round_id, upload, place.number), digest) for upload, site, digest in accepted]
        total = None
        if (so_far := running(place.number)) is not None:
            rest = [member for member in members if so_far.added.get(member.key.owner) != member.digest]
            if len(rest) + len(so_far.added) == len(members):  # all that is in it closed the set
                members, total = rest, so_far.total
        try:
            data = fold_part(part_store, plan, place, members, total)
        except CorruptPartError:
            if on_damage is None:
                raise
            for member in members:
                if not part_store.is_whole(member.key, member.digest):
                    on_damage(CorruptPartError(member))
            return False
        # Other processes cannot read what this one keeps.
        part_store.put_all([(key, data)], to_be_read=not keep(key, data) or store.is_shared)
        rows.add(place.number, hashlib.sha256(data).hexdigest())
        return True

    def write(made: Sequence[tuple[int, str]]) -> None:
        failpoint("folding.before_row")
        with store.write() as tx:
            hold(tx)
            for number, digest in made:
                tx.add_sum_part(round_id, number, digest)

    rows = _Rows(write)
    done = _in_threads(make, plan.places if places is None else places, threads, stopping)
    rows.flush()
    return done


class _Rows:
    """Rows of parts that are durable, written together: every second, which keeps the lease, and at the end."""

    def __init__(self, write: Callable[[Sequence[tuple[int, str]]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._made: list[tuple[int, str]] = []
        self._written_at = time.monotonic()

    def add(self, number: int, digest: str) -> None:
        with self._lock:
            self._made.append((number, digest))
            due = time.monotonic() - self._written_at > _ROWS_EVERY_S
        if due:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            made, self._made, self._written_at = self._made, [], time.monotonic()
        if made:
            self._write(made)


def _in_threads(
    make: Callable[[PartPlace], bool], places: Iterable[PartPlace], threads: int, stopping: Callable[[], bool]
) -> bool:
    """Make all parts, `threads` at a time. The first error ends it, once the parts that were begun are done."""
    if threads == 1:
        made = True
        for place in places:
            if stopping():
                return False
            made = make(place) and made
        return made
    failed = threading.Event()

    def one(place: PartPlace) -> bool:
        if failed.is_set() or stopping():
            return False
        try:
            return make(place)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(threads, "fold") as pool:
        return all(list(pool.map(one, places)))


def warm_up() -> None:
    """Compile, or load from the cache, what requests would otherwise wait for."""
    for bits in (30, 40):  # common widths; another one is compiled, or loaded, at its first fold
        total = new_sum(64, bits)
        fold(total, pack(total, bits), bits, (1 << bits) - 1)
