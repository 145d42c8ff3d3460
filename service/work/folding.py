"""The sum of a round: a pure function of its closed set, part by part from files, in bounded memory.

At any moment one accumulator and one stored part are in memory for each thread, whatever the number of sites or the
size of the model; the kernels, the digests and the disk all leave the interpreter to the other threads. Nothing is
ever added onto something durable: a part of the sum is made whole or not at all, so a crash means that only the parts
that were being made are computed again.
"""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from he_agg.errors import WireError
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import fold, new_sum, pack
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Part, PartPlace
from he_agg.protocol.wire import encode_part, parse_part
from service.failpoints import failpoint
from service.store.base import Store, Transaction
from service.store.batch import Batch
from service.store.parts.directory import Blobs

__all__ = ["CorruptPartError", "Member", "fold_part", "fold_round", "warm_up"]

Member = tuple[str, str, Path, str]
"""One site's part: site, submission id, file, SHA-256 of the file."""


class CorruptPartError(Exception):
    """A stored part is not what its site sent. It is never summed."""

    def __init__(self, site: str, submission_id: str, number: int) -> None:
        super().__init__(f"part {number} of submission {submission_id} is not what was stored")
        self.site = site
        self.submission_id = submission_id
        self.number = number


def fold_part(plan: PublicPlan, place: PartPlace, members: Iterable[Member]) -> bytes:
    """Compute one part of the sum, as it travels.

    Raises:
        CorruptPartError: a file is missing, or is not what the manifest names.
    """
    section = place.section
    total = new_sum(place.residues, section.modulus_bits)
    for site, submission_id, path, digest in members:
        try:
            data = path.read_bytes()
        except OSError as error:
            # A block that cannot be read is as lost as a file that is not there. Too many open files are neither.
            if error.errno not in (errno.ENOENT, errno.EIO):
                raise
            raise CorruptPartError(site, submission_id, place.number) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise CorruptPartError(site, submission_id, place.number)
        try:
            part = parse_part(data, place, plan.plan_id, check_residues=False)
        except WireError:
            raise CorruptPartError(site, submission_id, place.number) from None
        if fold(total, part.packed, section.modulus_bits, section.modulus) >= 0:
            raise CorruptPartError(site, submission_id, place.number)
    return encode_part(Part(place.number, pack(total, section.modulus_bits).data), place, plan.plan_id)


def fold_round(
    store: Store,
    blobs: Blobs,
    plan: PublicPlan,
    round_id: RoundId,
    stopping: Callable[[], bool] = lambda: False,
    *,
    threads: int = 1,
    hold: Callable[[Transaction], None] = lambda _: None,
    on_damage: Callable[[CorruptPartError], None] | None = None,
    ahead: Callable[[int, Sequence[Member]], tuple[Path, str] | None] = lambda *_: None,
) -> bool:
    """Make every part of a round's sum durable. Goes on where an earlier run was interrupted.

    Args:
        round_id: a round whose set is closed.
        stopping: asked between parts; True makes it return early.
        threads: how many parts to work on at once.
        hold: called within every transaction that writes; raises to give up.
        on_damage: told of each stored part that is not what its site sent; folding goes on with the other parts of
            the sum. None makes the first one an error.
        ahead: finds a file, and its SHA-256, in which this part of the sum of these members was made before the
            round closed.

    Returns:
        Whether the whole sum is durable.

    Raises:
        CorruptPartError: as in `fold_part`, without `on_damage`.
    """
    with store.read() as tx:
        durable = tx.sum_digests(round_id)
    blobs.make_parent(blobs.sum_path(round_id, 0))

    def make(place: PartPlace) -> bool:
        path = blobs.sum_path(round_id, place.number)
        if place.number in durable and _is_whole(path, durable[place.number]):
            return True
        with store.read() as tx:
            announced = tx.digests_of_part(round_id, place.number)
        members = [
            (site, submission_id, blobs.part_path(round_id, submission_id, place.number), digest)
            for submission_id, site, digest in announced
        ]
        made = ahead(place.number, members)
        if made is not None and _is_whole(*made):
            blobs.move(made[0], path)
            failpoint("folding.moved")
            return record(place.number, made[1])
        try:
            data = fold_part(plan, place, members)
        except CorruptPartError:
            if on_damage is None:
                raise
            for site, submission_id, file, digest in members:
                if not _is_whole(file, digest):
                    on_damage(CorruptPartError(site, submission_id, place.number))
            return False
        blobs.put(path, data)
        return record(place.number, hashlib.sha256(data).hexdigest())

    def record(number: int, digest: str) -> bool:
        failpoint("folding.before_row")
        rows.run((number, digest))
        return True

    def note(tx: Transaction, row: tuple[int, str]) -> None:
        hold(tx)
        tx.add_sum_part(round_id, *row)

    rows = Batch(store, note)
    return _in_threads(make, plan.places, threads, stopping)


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


def _is_whole(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EIO):
            raise
        return False
