"""The plan: everything that all sites and the aggregator have agreed on before the first round.

It has two halves. The public half goes to the aggregator; the layout stays at the sites and shows up in the public
half as a fingerprint only. `plan_id` is the SHA-256 of the public half, and every manifest and part carries it.
A plan cannot be built unless its parameters passed the security table and its sums are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from he_agg import canonical
from he_agg.errors import PlanError, Reason, WireError
from he_agg.ids import check_name
from he_agg.plan.hybrid_parameters import KEY_SECTION, HybridParameters
from he_agg.plan.layout import Layout
from he_agg.plan.parameters import Parameters
from he_agg.plan.schemes import DEFAULT_CODEC, scheme_of
from he_agg.plan.sections import MAX_PART_BYTES, MAX_PARTS, PART_HEADER_BYTES, PartPlace, Section, part_places
from he_agg.sharing.field import MAX_SITES as MAX_SPLIT_SITES

__all__ = ["KEYS", "SHARED", "SPLIT", "Plan", "PublicPlan", "check_keys", "sections_of"]

MAX_PLAN_BYTES = 32 * 2**20
MAX_SITES = 10_000
MAX_VALUES = 2**37
VERSION = 1

_RANGES = {
    "max_sites": (2, MAX_SITES),
    "value_bits": (2, 24),
    "rounds": (1, 10**6),
    "deadline_s": (1, 366 * 86400),
    "sample_percent": (1, 100),
    "part_bytes": (2**16, MAX_PART_BYTES),
}
"""Least and largest of each number that a coordinator chooses; of `min_sites` it is 2 and `max_sites`."""

SHARED, SPLIT = KEYS = ("shared", "split")
"""How one-time keys travel: to all sites under the group key, or in shares to holders, who give away only their sum."""

LEAST_SPLIT_COEFFICIENTS = 1024
"""Of a submission under split keys. A sum of keys that answers give is authenticated by no tag: that a wrong one opens
to nothing shows from so many coefficients on. Sums of three sites need the most, 762."""

UNNOTICED_LOG2 = -128
"""How likely it may be that it does not show."""


@dataclass(frozen=True)
class PublicPlan:
    """The half that the aggregator sees. Build it with `Plan.create` or `PublicPlan.from_json`.

    Attributes:
        federation: name of the federation.
        codec: name of the codec.
        parameters: the codec's parameters, checked.
        value_bits: width of one plaintext integer, sign included.
        values: how many integers one submission encrypts: the tensors, the weight's digits and the count.
        part_bytes: longest part.
        sections: what a submission consists of.
        min_sites: fewest sites whose sum may be published; a roster may ask for more.
        max_sites: most sites whose sum stays exact.
        rounds: how many rounds the federation runs at most.
        deadline_s: how long a round stays open, in seconds.
        sample_percent: how many of the sites are invited to a round, of 100; `documents/draw.py` says which.
        layout_fingerprint: SHA-256 of the layout.
        keys: how one-time keys travel: "shared", or "split" among holders.
    """

    federation: str
    codec: str
    parameters: Parameters
    value_bits: int
    values: int
    part_bytes: int
    sections: tuple[Section, ...]
    min_sites: int
    max_sites: int
    rounds: int
    deadline_s: int
    sample_percent: int
    layout_fingerprint: str
    keys: str = SHARED

    @property
    def splits_keys(self) -> bool:
        """Whether one-time keys are split among holders."""
        return self.keys == SPLIT

    @property
    def magnitude(self) -> int:
        """M: the largest absolute value of one site's integers."""
        return (1 << (self.value_bits - 1)) - 1

    @cached_property
    def plan_id(self) -> str:
        """SHA-256 of the canonical form, 64 hex digits."""
        return canonical.digest(self.to_json())

    @cached_property
    def places(self) -> tuple[PartPlace, ...]:
        """All parts of a submission, in order."""
        return tuple(part_places(self.sections))

    @property
    def wire_bytes(self) -> int:
        """Length of all parts of one submission together; the sum has the same."""
        return sum(place.wire_bytes for place in self.places)

    def to_json(self) -> canonical.Json:
        """Return the canonical document."""
        return {
            "v": VERSION,
            "federation": self.federation,
            "codec": self.codec,
            "keys": self.keys,
            "parameters": self.parameters.to_json(),
            "value_bits": self.value_bits,
            "values": self.values,
            "part_bytes": self.part_bytes,
            "sections": [
                {
                    "name": s.name,
                    "modulus": str(s.modulus),
                    "residues": s.residues,
                    "part_residues": s.part_residues,
                }
                for s in self.sections
            ],
            "min_sites": self.min_sites,
            "max_sites": self.max_sites,
            "rounds": self.rounds,
            "deadline_s": self.deadline_s,
            "sample_percent": self.sample_percent,
            "layout": self.layout_fingerprint,
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> PublicPlan:
        """Read a public half and check everything that can be checked without the layout."""
        fields = canonical.Fields(value, "plan")
        fields.integer("v", VERSION, VERSION)
        federation = check_name(fields.string("federation"), "plan.federation")
        codec = fields.string("codec")
        scheme, keys = scheme_of(codec), fields.string("keys", 63)
        terms = {name: fields.integer(name, *span) for name, span in _RANGES.items()}
        terms["min_sites"] = fields.integer("min_sites", 2, terms["max_sites"])
        values = fields.integer("values", 1, MAX_VALUES)
        fingerprint = fields.hex("layout", 32)
        magnitude = 2 ** (terms["value_bits"] - 1) - 1
        parameters = scheme.parameters.from_json(fields.object("parameters"), magnitude, terms["max_sites"])
        stated = fields.array("sections", 16)
        fields.end()
        plan = cls(
            federation=federation,
            codec=codec,
            parameters=parameters,
            values=values,
            sections=sections_of(parameters, values, terms["part_bytes"], keys),
            layout_fingerprint=fingerprint,
            keys=keys,
            **terms,
        )
        check_keys(keys, codec, parameters, plan.min_sites, plan.max_sites)
        if plan.to_json()["sections"] != stated:
            raise PlanError(Reason.BAD_PLAN, "plan.sections: expected the ones that follow from the parameters")
        return plan


@dataclass(frozen=True)
class Plan:
    """Both halves of a plan: what a site has. Build it with `Plan.create` or `Plan.from_json`.

    Attributes:
        public: the half that the aggregator sees.
        layout: the half that stays at the sites.
    """

    public: PublicPlan
    layout: Layout

    def __post_init__(self) -> None:
        if self.public.layout_fingerprint != self.layout.fingerprint:
            raise PlanError(
                Reason.LAYOUT_MISMATCH,
                f"expected a layout with fingerprint {self.public.layout_fingerprint[:12]}, "
                f"got {self.layout.fingerprint[:12]}",
                "ask the coordinator for the plan file of this federation",
            )
        values = _padded(
            plaintext_values(self.layout, self.public.value_bits), self.public.parameters, self.public.keys
        )
        if self.public.values != values:
            raise PlanError(Reason.BAD_PLAN, f"expected {values} values, got {self.public.values}")

    @property
    def plan_id(self) -> str:
        """SHA-256 of the public half, 64 hex digits."""
        return self.public.plan_id

    @property
    def weight_digits(self) -> int:
        """How many integers carry the weight, in base `2^(value_bits - 1)`."""
        return weight_digits(self.layout.weight_cap, self.public.value_bits)

    @classmethod
    def create(
        cls,
        federation: str,
        layout: Layout,
        *,
        max_sites: int,
        min_sites: int | None = None,
        value_bits: int = 16,
        codec: str = DEFAULT_CODEC,
        rounds: int = 100,
        deadline_s: int = 3600,
        sample_percent: int = 100,
        part_bytes: int = 4 * 2**20,
        keys: str = SHARED,
    ) -> Plan:
        """Choose the smallest parameters that are safe and exact, and make a plan of them.

        Args:
            federation: its name: a-z, 0-9 and '-'.
            layout: the tensors and the weight cap.
            max_sites: most sites that ever take part in one round.
            min_sites: fewest sites whose sum may be published, by any roster: 3 if left out, and at least 2.
            value_bits: width of one plaintext integer, sign included: 2 to 24.
            rounds: how many rounds the federation runs at most.
            deadline_s: how long a round stays open. Units: seconds.
            sample_percent: how many of the sites are invited to a round, of 100, rounded up; never fewer than a sum
                needs. They are drawn, and every site checks the draw.
            part_bytes: longest part. Units: bytes, 64 KiB to 64 MiB.
            keys: "split" deals each one-time key in shares to the roster's holders, so that no site and aggregator
                together read another's update; "shared" sends it to all sites under the group key.

        Raises:
            PlanError: a value out of its range, or no safe and exact parameters.
        """
        scheme = scheme_of(codec)
        terms = {
            "max_sites": max_sites,
            "min_sites": min(3, max_sites) if min_sites is None else min_sites,
            "value_bits": value_bits,
            "rounds": rounds,
            "deadline_s": deadline_s,
            "sample_percent": sample_percent,
            "part_bytes": part_bytes,
        }
        for name, got in terms.items():
            low, high = _RANGES.get(name, (2, max_sites))
            if isinstance(got, bool) or not isinstance(got, int) or not low <= got <= high:
                raise PlanError(
                    Reason.BAD_PLAN,
                    f"{name}: expected {low}..{high}, got {got}",
                    "give a whole number of that range; `he-agg plan` shows what so many sites and bits get",
                )
        parameters = scheme.parameters.choose(2 ** (value_bits - 1) - 1, max_sites)
        values = _padded(plaintext_values(layout, value_bits), parameters, keys)
        public = PublicPlan(
            federation=check_name(federation, "federation"),
            codec=codec,
            parameters=parameters,
            values=values,
            sections=sections_of(parameters, values, part_bytes, keys),
            layout_fingerprint=layout.fingerprint,
            keys=keys,
            **terms,
        )
        check_keys(keys, codec, public.parameters, public.min_sites, max_sites)
        return cls(public, layout)

    def check_model(self, tensors: Mapping[str, Any]) -> None:
        """Refuse a model that is not the plan's, naming the first tensor that differs.

        Raises:
            InputError: a tensor is missing, extra, misshapen or of another dtype.
        """
        self.layout.arrays(tensors)

    def explain(self) -> dict[str, Any]:
        """Explain what was chosen and what it costs, for people and scripts."""
        public = self.public
        failure = public.parameters.failure_log2
        return {
            "federation": public.federation,
            "plan_id": self.plan_id,
            "codec": public.codec,
            "keys": public.keys,
            "profile": public.parameters.name,
            "parameters": public.parameters.to_json(),
            "values": public.values,
            "tensors": len(self.layout.tensors),
            "value_bits": public.value_bits,
            "weight_cap": self.layout.weight_cap,
            "min_sites": public.min_sites,
            "max_sites": public.max_sites,
            "rounds": public.rounds,
            "deadline_s": public.deadline_s,
            "sample_percent": public.sample_percent,
            "parts": len(public.places),
            "bytes_up": public.wire_bytes,
            "bytes_per_value": round(public.wire_bytes / public.values, 3),
            "header_bytes": PART_HEADER_BYTES * len(public.places),
            "ring_degree": public.parameters.ring_degree,
            "modulus_bits": public.parameters.security_modulus_bits,
            "security_bits": public.parameters.security_bits,
            "security_source": public.parameters.security_source,
            # None: no noise that can occur rounds a value wrongly.
            "failure_log2": None if failure == -math.inf else round(failure, 1),
        }

    def to_json(self) -> canonical.Json:
        """Return the canonical document of both halves, which is a site's plan file."""
        return {"public": self.public.to_json(), "layout": self.layout.to_json()}

    def encode(self) -> bytes:
        """Return a site's plan file."""
        return canonical.encode(self.to_json())

    @classmethod
    def parse(cls, data: bytes) -> Plan:
        """Read a site's plan file and check all of it again."""
        try:
            fields = canonical.Fields(canonical.parse(data, MAX_PLAN_BYTES), "plan file")
            public = PublicPlan.from_json(fields.object("public"))
            layout = Layout.from_json(fields.object("layout"))
            fields.end()
        except WireError as error:
            hint = "`he-agg plan new` writes plan files; the coordinator has this federation's"
            raise WireError(error.reason, error.message, error.hint or hint) from error
        return cls(public, layout)


def weight_digits(weight_cap: int, value_bits: int) -> int:
    """Return how many digits in base `2^(value_bits - 1)` hold every weight up to the cap."""
    return -(-weight_cap.bit_length() // (value_bits - 1))


def plaintext_values(layout: Layout, value_bits: int) -> int:
    """Count the integers that say something: all tensors, the weight's digits, and the constant 1."""
    return layout.size + weight_digits(layout.weight_cap, value_bits) + 1


def _padded(values: int, parameters: Parameters, keys: str) -> int:
    """Count the integers that one submission encrypts: where keys are split, zeros fill a small one up."""
    if keys != SPLIT or not isinstance(parameters, HybridParameters):
        return values
    return max(values, LEAST_SPLIT_COEFFICIENTS * parameters.packing)


def sections_of(parameters: Parameters, values: int, part_bytes: int, keys: str) -> tuple[Section, ...]:
    """Cut a submission into sections. A split key travels in a dealing, and is none.

    Raises:
        PlanError: they have more parts than a manifest can name.
    """
    every = parameters.sections(values, part_bytes)
    found = tuple(section for section in every if keys != SPLIT or section.name != KEY_SECTION)
    if (parts := sum(section.parts for section in found)) > MAX_PARTS:
        raise PlanError(
            Reason.BAD_PLAN,
            f"part_bytes: expected a submission of at most {MAX_PARTS} parts, got {parts} of {part_bytes} bytes",
            f"ask for longer parts, up to {MAX_PART_BYTES} bytes",
        )
    return found


def check_keys(keys: str, codec: str, parameters: Parameters, min_sites: int, max_sites: int) -> None:
    """Check that one-time keys can travel as a plan says.

    Raises:
        PlanError: no such way, a codec without one-time keys, more sites than whose sum of keys can be told, or
            parameters under which a wrong sum of keys need not show.
    """
    if keys not in KEYS:
        raise PlanError(
            Reason.BAD_PLAN, f"keys: expected one of {', '.join(KEYS)}, got {keys!r}", "leave it out for shared"
        )
    if keys != SPLIT:
        return
    if not isinstance(parameters, HybridParameters):
        raise PlanError(
            Reason.BAD_PLAN,
            f"keys: the codec {codec} has no one-time keys that could be split",
            "take the codec hybrid, the usual one",
        )
    if max_sites > MAX_SPLIT_SITES or min_sites < 3:
        raise PlanError(
            Reason.INSECURE_PARAMETERS,
            f"split keys: expected sums of 3 to {MAX_SPLIT_SITES} sites, got {min_sites} to {max_sites}",
            "of two sites each reads the other's update by subtraction; with more than that the sum of keys could be "
            "any number",
        )
    if (unnoticed := parameters.unnoticed_log2(LEAST_SPLIT_COEFFICIENTS)) > UNNOTICED_LOG2:
        raise PlanError(
            Reason.INSECURE_PARAMETERS,
            f"split keys: expected a wrong sum of keys to go unnoticed with a probability of 2^{UNNOTICED_LOG2} at "
            f"most, got 2^{math.ceil(unnoticed)} with these parameters",
            "ask for another number of value bits, or for fewer sites",
        )
