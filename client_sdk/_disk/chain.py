"""Remember which records this site has seen: index and digest of each, and what the next is checked by, in a file.

One line a record, added and fsynced when the record was verified; nothing is ever changed. So whoever shows this site
another history later, or takes a record back, is found out. A last line that a crash cut short counts as not written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client_sdk._disk.lines import Lines
from he_agg import canonical
from he_agg.documents.record import NO_RECORD
from he_agg.errors import Reason, WireError

__all__ = ["Chain", "Link"]


@dataclass(frozen=True)
class Link:
    """What is kept of a verified record.

    Attributes:
        digest: of the record.
        counted: what the draw after it depends on, see `he_agg.documents.draw`.
        roster_version: of the roster that it names; 0 if that is from before this site's first.
        epoch: of the group key.
        published: index of the newest record whose sum was not given up, up to this one; 0 if there is none.
        again: index of the record whose sum was given up and whose number is tried again; 0 if there is none.
        number: of the round that is due next, in the record after this one as in the state.
        attempt: at that number.
        later: how many attempts at the number after it are over, by sums that were given up meanwhile.
        ended: whether it is the federation's end, after which nothing comes.
    """

    digest: str = NO_RECORD
    counted: str = NO_RECORD
    roster_version: int = 0
    epoch: int = 1
    published: int = 0
    again: int = 0
    number: int = 1
    attempt: int = 1
    later: int = 0
    ended: bool = False


class Chain:
    """The verified records of one federation, from the first. Several processes of a site may use the file at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: list[Link] = []
        lost = "if the aggregator has changed records that it had seen"
        self._lines = Lines(path, self._take, lost, Reason.CHAIN_MISMATCH)

    def __repr__(self) -> str:
        return f"Chain({str(self._path)!r})"

    def __len__(self) -> int:
        """Count the verified records."""
        return len(self._links())

    def __contains__(self, digest: str) -> bool:
        """Tell whether a record with this digest was verified."""
        return any(link.digest == digest for link in self._links())

    def head(self, index: int | None = None) -> str:
        """Return the digest of a record.

        Args:
            index: which, from 1; the newest if None, and `NO_RECORD` for 0.

        Raises:
            IndexError: that record was not verified yet.
        """
        return self.link(len(self) if index is None else index).digest

    def link(self, index: int) -> Link:
        """Return what is kept of a record.

        Args:
            index: which, from 1; for 0 what comes before the first.

        Raises:
            IndexError: that record was not verified yet.
        """
        return self._links()[index - 1] if index else Link()

    def append(self, index: int, link: Link) -> None:
        """Note a verified record; one that is noted already is fine.

        Raises:
            WireError: another record is noted at this index, or those before it are missing.
        """
        with self._lines.adding() as add:
            if index <= len(self._seen):
                known = self._seen[index - 1].digest
                if known != link.digest:
                    raise WireError(Reason.CHAIN_MISMATCH, f"record {index}: expected {known}, got {link.digest}")
            elif index != len(self._seen) + 1:
                raise WireError(Reason.CHAIN_MISMATCH, f"expected record {len(self._seen) + 1}, got record {index}")
            else:
                add(
                    {
                        "index": index,
                        "digest": link.digest,
                        "counted": link.counted,
                        "roster": link.roster_version,
                        "epoch": link.epoch,
                        "published": link.published,
                        "again": link.again,
                        "number": link.number,
                        "attempt": link.attempt,
                        "later": link.later,
                        "ended": link.ended,
                    }
                )

    def _links(self) -> list[Link]:
        self._lines.read()
        return self._seen

    def _take(self, fields: canonical.Fields) -> None:
        number = len(self._seen) + 1
        fields.integer("index", number, number)
        link = Link(
            digest=fields.hex("digest", 32),
            counted=fields.hex("counted", 32),
            roster_version=fields.integer("roster", 0, 10**9),
            epoch=fields.integer("epoch", 1, 10**9),
            published=fields.integer("published", 0, number),
            again=fields.integer("again", 0, number),
            number=fields.integer("number", 1, 10**9),
            attempt=fields.integer("attempt", 1, 10**9),
            later=fields.integer("later", 0, 10**9),
            ended=fields.boolean("ended"),
        )
        fields.end()
        self._seen.append(link)
