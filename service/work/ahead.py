"""Parts of a sum that are made while their round is still open, in case its set closes as it looks by then.

As soon as every invited site has stored a part, that part of the sum is made, as folding makes it, and kept under a key
of its own. It is a guess and nothing else: no row names it, and folding takes it only if the closed set is exactly the
one that it was made of. What another replica took in, or what a restart forgot, is folded as ever.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from he_agg.ids import RoundId
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import PartPlace
from service.core.submissions.runs import Run, key_of
from service.failpoints import failpoint
from service.logs import log
from service.store.parts.base import AHEAD, PartKey, PartStore
from service.store.sql import Store
from service.work.folding import CorruptPartError, Member, fold_part

__all__ = ["Ahead"]


@dataclass
class _Open:
    """What is known of one open round."""

    invited: frozenset[str]
    stored: dict[int, dict[str, Member]] = field(default_factory=dict)
    made: dict[int, tuple[tuple[Member, ...], Future[str]]] = field(default_factory=dict)


class Ahead:
    """Makes parts of sums beside everything else, so that no answer waits for them."""

    def __init__(self, store: Store, part_store: PartStore, pool: Executor) -> None:
        self._store = store
        self._part_store = part_store
        self._pool = pool
        self._lock = threading.Lock()
        self._rounds: dict[RoundId, _Open] = {}

    def stored(self, run: Run) -> None:
        """Note that parts are durable. Where one was the last of its number, begin the sum of them."""
        submission = run.submission
        known = self._known(submission.round_id)
        for part in run.parts:
            member = Member(submission.site, key_of(run, part), part.digest)
            self._add(submission.round_id, known, run.plan, part.place, member)

    def _add(self, round_id: RoundId, known: _Open, plan: PublicPlan, place: PartPlace, member: Member) -> None:
        with self._lock:
            members = known.stored.setdefault(place.number, {})
            members[member.site] = member
            if members.keys() != known.invited or self._rounds.get(round_id) is not known:
                return
            # In the order in which folding names them: by submission.
            these = tuple(sorted(members.values(), key=lambda each: each.key.owner))
            if (made := known.made.get(place.number)) is None or made[0] != these:
                known.made[place.number] = these, self._pool.submit(self._make, plan, round_id, place, these)

    def take(self, round_id: RoundId) -> Callable[[int, Sequence[Member]], tuple[PartKey, str] | None]:
        """Begin nothing more for a round that is closed.

        Returns:
            Finds what a part of the sum of exactly these members is kept under, and the SHA-256 that it was put with,
            if there is one. Whether its bytes are still those has to be looked at.
        """
        with self._lock:
            known = self._rounds.pop(round_id, None)

        def find(number: int, members: Sequence[Member]) -> tuple[PartKey, str] | None:
            these, future = (known.made if known else {}).get(number, ((), None))
            if future is None:
                return None
            key = PartKey(round_id, AHEAD, number)
            try:
                digest = future.result()
                if these == tuple(members):
                    return key, digest
                self._part_store.delete(key)  # of another set; nobody will ever ask for it
                return None
            except Exception as error:
                # A damaged part, a full disk: folding meets it as well, and knows what to do.
                if not isinstance(error, CorruptPartError):
                    log(logging.WARNING, "a part of a sum was not made ahead", error=error, round_id=str(round_id))
                return None

        return find

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown(cancel_futures=True)

    def _known(self, round_id: RoundId) -> _Open:
        with self._lock:
            if (known := self._rounds.get(round_id)) is not None:
                return known
        with self._store.read() as tx:
            invited = tx.invited(round_id)
        with self._lock:
            # A federation has one open round: what is left of others failed, or was folded by another replica.
            for other in [each for each in self._rounds if each.federation == round_id.federation]:
                if (other.number, other.attempt) < (round_id.number, round_id.attempt):
                    del self._rounds[other]
            return self._rounds.setdefault(round_id, _Open(invited))

    def _make(self, plan: PublicPlan, round_id: RoundId, place: PartPlace, members: tuple[Member, ...]) -> str:
        data = fold_part(self._part_store, plan, place, members)
        self._part_store.put_all([(PartKey(round_id, AHEAD, place.number), data)])
        failpoint("ahead.made")
        return hashlib.sha256(data).hexdigest()
