"""The sum of a round: a pure function of its closed set, made part by part, in bounded memory.

At any moment one accumulator and one stored part are in memory for each thread, whatever the number of sites or the
size of the model; the kernels, the digests and the part store leave the interpreter to the other threads. Nothing is
ever added onto something durable: a part of the sum is made whole or not at all, so a crash means that only the parts
that were being made are computed again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from he_agg.errors import WireError
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import fold, new_sum, pack
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Part, PartPlace
from he_agg.protocol.wire import encode_part, parse_part
from service.failpoints import failpoint
from service.store.batch import Batch
from service.store.parts.base import SUM, PartKey, PartLostError, PartStore
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["CorruptPartError", "Member", "fold_part", "fold_round", "warm_up"]


class Member(NamedTuple):
    """One site's part, and the SHA-256 that its manifest names."""

    site: str
    key: PartKey
    digest: str


class CorruptPartError(Exception):
    """A stored part is not what its site sent. It is never summed."""

    def __init__(self, member: Member) -> None:
        super().__init__(f"part {member.key.number} of submission {member.key.owner} is not what was stored")
        self.site = member.site
        self.submission_id = member.key.owner
        self.number = member.key.number


def fold_part(part_store: PartStore, plan: PublicPlan, place: PartPlace, members: Iterable[Member]) -> bytes:
    """Compute one part of the sum, as it travels.

    Raises:
        CorruptPartError: a part is missing, or is not what the manifest names.
    """
    section = place.section
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
    return encode_part(Part(place.number, pack(total, section.modulus_bits).data), place, plan.plan_id)


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
    ahead: Callable[[int, Sequence[Member]], tuple[PartKey, str] | None] = lambda *_: None,
) -> bool:
    """Make parts of a round's sum durable. Goes on where an earlier run was interrupted.

    Args:
        stopping: asked between parts; True makes it return early.
        places: which parts of the sum to make; others may be making the rest. None for all.
        threads: how many parts to work on at once.
        hold: called within every transaction that writes; raises to give up.
        on_damage: told of each stored part that is not what its site sent; folding goes on with the other parts of
            the sum. None makes the first one an error.
        ahead: finds what this part of the sum of these members was kept under, and its SHA-256, if it was made before
            the round closed.

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
            announced = tx.digests_of_part(round_id, place.number)
        members = [
            Member(site, PartKey(round_id, submission_id, place.number), digest)
            for submission_id, site, digest in announced
        ]
        made = ahead(place.number, members)
        if made is not None and part_store.is_whole(*made):
            part_store.move(made[0], key)
            failpoint("folding.moved")
            return add_row(place.number, made[1])
        try:
            data = fold_part(part_store, plan, place, members)
        except CorruptPartError:
            if on_damage is None:
                raise
            for member in members:
                if not part_store.is_whole(member.key, member.digest):
                    on_damage(CorruptPartError(member))
            return False
        part_store.put_all([(key, data)])
        return add_row(place.number, hashlib.sha256(data).hexdigest())

    def add_row(number: int, digest: str) -> bool:
        failpoint("folding.before_row")
        rows.run((number, digest))
        return True

    def note(tx: Transaction, row: tuple[int, str]) -> None:
        hold(tx)
        tx.add_sum_part(round_id, *row)

    rows = Batch(store, note)
    return _in_threads(make, plan.places if places is None else places, threads, stopping)


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
