"""Read and write a verdict: what one site found when it looked at the sum that a record names.

It says nothing about the sum but whether the site opened it. The aggregator cannot look into sums, so this is all that
it, coordinators and auditors ever learn about whether a round was any good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from he_agg import canonical
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId, check_name

__all__ = ["MAX_VERDICT_BYTES", "OPENED", "REJECTED", "Verdict"]

MAX_VERDICT_BYTES = 2**14

OPENED = "opened"
"""All checks held, and the site has the mean."""

REJECTED = "rejected"
"""A check failed, and nothing was released."""


@dataclass(frozen=True)
class Verdict:
    """A site's word on a sum that it is in.

    Attributes:
        record: digest of the signed record that names the sum, 64 hex digits.
        verdict: `OPENED` or `REJECTED`.
    """

    KIND: ClassVar[str] = "verdict"
    MAX_BYTES: ClassVar[int] = MAX_VERDICT_BYTES

    round_id: RoundId
    record: str
    site: str
    verdict: str

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"verdict of site {self.site} on round {self.round_id}"

    @property
    def author(self) -> str:
        """Its site."""
        return self.site

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {
            "v": 1,
            **self.round_id.members(),
            "record": self.record,
            "site": self.site,
            "verdict": self.verdict,
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> Verdict:
        """Read a verdict."""
        fields = canonical.Fields(value, "verdict")
        fields.integer("v", 1, 1)
        verdict = cls(
            round_id=RoundId.of(fields, "verdict"),
            record=fields.hex("record", 32),
            site=check_name(fields.string("site"), "verdict.site"),
            verdict=fields.string("verdict"),
        )
        fields.end()
        if verdict.verdict not in (OPENED, REJECTED):
            raise WireError(Reason.BAD_FIELD, f"verdict.verdict: expected {OPENED} or {REJECTED}")
        return verdict
