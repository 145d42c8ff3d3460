"""What the aggregator should do, said in dictionaries: the oracle of the simulation, which shares no code with it.

It holds no files and no bytes; it knows ids, and says which status each request must get.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field


@dataclass
class Attempt:
    """One attempt at a round."""

    number: int
    attempt: int
    deadline: float
    invited: set[str]
    least: int
    """How many must be complete."""
    epoch: int = 1
    phase: str = "open"
    uploads: dict[str, str] = field(default_factory=dict)
    """Of each site that has begun: the newest, while none was accepted."""
    stored: dict[str, dict[int, bool]] = field(default_factory=dict)
    """Which parts are here, and of each whether it is the one that its manifest will name."""
    complete: set[str] = field(default_factory=set)
    active: dict[str, int] = field(default_factory=dict)
    """When each site last sent something that was taken."""
    rotten: set[tuple[str, int]] = field(default_factory=set)
    """Stored parts that are not what they were, and nobody has noticed."""
    damaged_at: int | None = None
    """When somebody did. They count as missing from then on."""
    added: dict[int, dict[str, bool]] = field(default_factory=dict)
    """Of which uploads parts are in the running sum, by number, and whether the right ones: what came first since the
    last start."""
    taken: bool = False
    """Whether folding has taken the running sum, since the last start: nothing is added any more."""

    verdicts: dict[str, str] = field(default_factory=dict)
    """What each site said of the sum."""
    released: bool = False
    """Whether the single submissions behind the sum are not needed any more."""

    def missing(self, site: str, parts: int) -> set[int]:
        return set(range(parts)) - self.stored[site].keys()

    def summed(self, number: int) -> set[str]:
        """Whose parts folding takes out of the running sum: all that are in it, or none."""
        added = self.added.get(number, {})
        members = {self.uploads[site]: site for site in self.complete}
        usable = added.keys() <= members.keys() and all(added.values())
        return {members[upload] for upload in added} if usable else set()


@dataclass(frozen=True)
class Times:
    """Units: seconds."""

    deadline_s: int
    expiry_s: int
    repair_s: int


class Model:
    """A federation whose sites are all invited to every round, or to a number that is tried again those of its sum."""

    def __init__(self, sites: str, parts: int, min_sites: int, times: Times, now: float) -> None:
        self.sites = sites
        self.parts = parts
        self.min_sites = min_sites
        self.times = times
        self.epoch = 1
        self.attempts: list[Attempt] = []
        self.ending = False
        """Whether the operator has ended the federation: nothing opens any more."""
        self.end: tuple[int, int] | None = None
        """What the record of the end is of: what would have opened."""
        self._open(1, 1, now)

    @property
    def newest(self) -> Attempt:
        return self.attempts[-1]

    def tick(self, now: float) -> None:
        """Time has passed, and somebody looked."""
        newest = self.newest
        if newest.phase == "open" and now >= newest.deadline:
            if len(newest.complete) >= newest.least:
                newest.phase = "closed"
            else:
                newest.phase = "failed"
                self._open(newest.number, newest.attempt + 1, now)

    def look(self, now: float) -> None:
        """The background pass: what nobody goes on with is removed, and has to be sent again."""
        self.tick(now)
        newest = self.newest
        if newest.phase == "open":
            for site in newest.uploads.keys() - newest.complete:
                if newest.active[site] < int(now - self.times.expiry_s):
                    newest.stored[site].clear()
                    newest.rotten -= {(site, number) for number in range(self.parts)}

    def put(
        self, attempt: Attempt, site: str, upload: str, numbers: range, now: float, *, right: bool = True
    ) -> set[int]:
        """Consecutive parts. Behind those that reach the end the manifest is, which completes the submission.

        Args:
            right: whether they are the ones that it names.
        """
        at_end = numbers.stop == self.parts
        expected = self.put_some(attempt, site, upload, numbers, now, right=right)
        if attempt.phase != "open" or not at_end or expected != {204}:
            return expected
        if site not in attempt.complete:
            if attempt.missing(site, self.parts):
                return {409}
            wrong = {number for number, is_right in attempt.stored[site].items() if not is_right}
            for number in wrong:
                del attempt.stored[site][number]
                attempt.rotten.discard((site, number))
            if wrong:
                return {400}
            attempt.complete.add(site)
            if attempt.complete == attempt.invited:
                attempt.phase = "closed"
            self.tick(now)
        return {200}

    def put_some(
        self, attempt: Attempt, site: str, upload: str, numbers: range, now: float, *, right: bool = True
    ) -> set[int]:
        """The parts of it, and in a round that is open nothing else. The first ones begin an upload."""
        if site not in attempt.invited:
            return {403}
        begins = attempt.uploads.get(site) != upload
        if begins:
            if attempt.phase != "open" or site in attempt.complete:
                return {409}
            if not numbers:
                return {404}
        here = {} if begins else attempt.stored[site]
        at_end, promised = numbers.stop == self.parts, not begins and site in attempt.complete
        # Of what is promised the digest is known, even if it is damaged.
        others = any(here.get(number, promised or right) != right for number in numbers)
        if attempt.phase != "open" and not (promised and attempt.phase != "failed"):
            # What was stored before the round closed may be known until it is scrubbed. Nothing follows from it.
            done = {400} if others else {200} if at_end and promised else {409} if at_end else {204}
            return done if not numbers else done | {409} if set(numbers) <= here.keys() else {409}
        if others:
            return {400}
        if begins:
            attempt.uploads[site], attempt.stored[site] = upload, {}
            attempt.rotten -= {(site, number) for number in range(self.parts)}
        for number in set(numbers) - attempt.stored[site].keys():  # of what is promised: damaged, and asked for again
            self._store(attempt, site, number, now, right)
        return {200} if at_end and attempt.phase != "open" else {204}

    def judge(self, attempt: Attempt, site: str, found: str) -> set[int]:
        """A site says whether it could open the sum."""
        first = attempt.verdicts.get(site)
        if first == found:
            return {200}
        if attempt.phase != "published":
            return {409}
        if site not in attempt.complete:
            return {403}
        if first is not None:
            return {409}
        attempt.verdicts[site] = found
        attempt.released |= list(attempt.verdicts.values()).count("opened") >= self.min_sites
        return {201}

    def dispute(self, now: float) -> bool:
        """The operator gives up the newest sum. Returns whether that is possible.

        If not, nothing has happened at all, not even what a look at a deadline would have brought.
        """
        return copy.deepcopy(self)._give_up(now) and self._give_up(now)

    def _give_up(self, now: float) -> bool:
        self.tick(now)
        newest = self.newest
        sums = [attempt for attempt in self.attempts if attempt.phase in ("published", "rejected")]
        if not sums or newest.phase != "open" or newest.number != sums[-1].number + 1:
            return False
        last, said = sums[-1], list(sums[-1].verdicts.values())
        if last.phase != "published" or "rejected" not in said or said.count("opened") >= self.min_sites:
            return False
        last.phase, newest.phase = "rejected", "failed"
        self._open(last.number, last.attempt + 1, now)
        return True

    def kept(self) -> list[Attempt]:
        """Attempts whose single submissions stay behind their sums: nobody knows yet whether those are any good."""
        return [each for each in self.attempts if each.phase in ("published", "rejected") and not each.released]

    def new_key(self, now: float) -> None:
        """There is a new epoch: an open attempt is given up, a closed one is finished."""
        self.tick(now)
        self.epoch += 1
        newest = self.newest
        if newest.phase == "open":
            newest.phase = "failed"
            self._open(newest.number, newest.attempt + 1, now)

    def stop(self, now: float) -> None:
        """The operator ends the federation: an open attempt fails, a closed one still gets its sum."""
        self.tick(now)
        self.ending = True
        newest = self.newest
        if newest.phase == "open":
            newest.phase = "failed"
            self._open(newest.number, newest.attempt + 1, now)

    def fold(self, now: float) -> None:
        """Fold, if that is due: publish, find what is damaged, or give up what was not sent again in time."""
        self.look(now)
        newest = self.newest
        if newest.phase != "closed":
            return
        if newest.damaged_at is not None:
            if now >= newest.damaged_at + self.times.repair_s:
                newest.phase = "failed"
                self._open(newest.number, newest.attempt + 1, now)
            return
        found: set[tuple[str, int]] = set()
        for number in range(self.parts):
            summed = newest.summed(number)
            rotten = {(site, number) for site in newest.complete} & newest.rotten
            read = {(site, n) for site, n in rotten if site not in summed}
            found |= read
            if not read:  # what is in the running sum is not read, and damage to it is of no account
                newest.rotten -= rotten
        newest.added.clear()
        newest.taken = True
        if found:
            newest.rotten -= found
            newest.damaged_at = int(now)
            for site, number in found:
                del newest.stored[site][number]
            return
        for attempt in self.kept():
            attempt.released |= "rejected" not in attempt.verdicts.values()
        newest.phase = "published"
        tried = [attempt.attempt for attempt in self.attempts if attempt.number == newest.number + 1]
        self._open(newest.number + 1, 1 + max(tried, default=0), now)

    def _store(self, attempt: Attempt, site: str, number: int, now: float, right: bool) -> None:
        attempt.stored[site][number] = right
        attempt.active[site] = int(now)
        attempt.rotten.discard((site, number))
        if all(len(attempt.stored[member]) == self.parts for member in attempt.complete):
            attempt.damaged_at = None
        if not attempt.taken:
            attempt.added.setdefault(number, {}).setdefault(attempt.uploads[site], right)

    def restart(self) -> None:
        """What was in memory is forgotten."""
        for attempt in self.attempts:
            attempt.added.clear()
            attempt.taken = False

    def _open(self, number: int, attempt: int, now: float) -> None:
        if self.ending:
            assert self.end is None
            self.end = number, attempt
            return
        deadline, invited, least = math.ceil(now + self.times.deadline_s), set(self.sites), self.min_sites
        given_up = [each for each in self.attempts if each.number == number and each.phase == "rejected"]
        if given_up:
            invited = set(given_up[-1].complete)
            least = len(invited)
        self.attempts.append(Attempt(number, attempt, deadline, invited, least, self.epoch))
