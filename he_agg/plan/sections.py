"""Sections and parts: how a submission is cut into pieces that travel, are stored and are added one by one.

A submission is a fixed list of sections; a section is a run of residues of one modulus; it is cut into parts of
equal length, the last one shorter. Parts are numbered by their index within the section, those of one index in the
order of sections: so what is made together travels together. All of it follows from the plan, so every submission of a
round, and its sum, has parts of exactly the same lengths.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from he_agg.kernels.bitpack import packed_bytes

__all__ = [
    "MAX_PARTS",
    "MAX_PART_BYTES",
    "PART_HEADER_BYTES",
    "Part",
    "PartPlace",
    "Section",
    "part_places",
    "residues_per_part",
]

MAX_PART_BYTES = 64 * 2**20
"""No plan may ask for longer parts: one part is held in memory while it is checked."""

MAX_PARTS = 20_000
"""No submission may have more: so many digests and tags fit a manifest, whatever the modulus."""

PART_HEADER_BYTES = 64
"""Length of the header before a part's packed residues (FORMAT.md)."""


@dataclass(frozen=True)
class Section:
    """A run of residues of one modulus: all that the aggregator needs to know to add it.

    Attributes:
        name: what it carries, for people.
        modulus: q, a prime below 2^62.
        residues: how many there are.
        part_residues: how many go into one part; a multiple of 64, so that parts begin at whole bytes and words.
    """

    name: str
    modulus: int
    residues: int
    part_residues: int

    @property
    def modulus_bits(self) -> int:
        """Bits that one residue takes."""
        return self.modulus.bit_length()

    @property
    def parts(self) -> int:
        """How many parts the section is cut into."""
        return -(-self.residues // self.part_residues)

    def residues_in(self, index: int) -> int:
        """Count the residues that part `index` of this section holds."""
        return min(self.part_residues, self.residues - index * self.part_residues)


@dataclass(frozen=True)
class Part:
    """Packed residues of one piece of a section, without the header.

    Attributes:
        number: position among all parts of the submission.
        packed: the residues, packed bit-exactly. A view where that saves a copy; it equals the same bytes.
    """

    number: int
    packed: bytes | memoryview

    def __repr__(self) -> str:
        return f"Part(number={self.number}, packed=<{len(self.packed)} bytes>)"


@dataclass(frozen=True)
class PartPlace:
    """Where one part belongs, and how long it is.

    Attributes:
        number: position among all parts of the submission.
        section_index: position of its section in the plan.
        section: that section.
        index: position within the section.
    """

    number: int
    section_index: int
    section: Section
    index: int

    @property
    def residues(self) -> int:
        """How many residues the part holds."""
        return self.section.residues_in(self.index)

    @property
    def packed_bytes(self) -> int:
        """Length of the packed residues."""
        return packed_bytes(self.residues, self.section.modulus_bits)

    @property
    def wire_bytes(self) -> int:
        """Length of the part as it travels, header included."""
        return PART_HEADER_BYTES + self.packed_bytes


def part_places(sections: tuple[Section, ...]) -> Iterator[PartPlace]:
    """List all parts of a submission in order."""
    numbers = itertools.count()
    for index in range(max((section.parts for section in sections), default=0)):
        for section_index, section in enumerate(sections):
            if index < section.parts:
                yield PartPlace(next(numbers), section_index, section, index)


def residues_per_part(part_bytes: int, unit: int, modulus: int) -> int:
    """Return how many residues fit a part, in whole units.

    Args:
        part_bytes: the part's length with header, at most; one unit goes into a part even when it is longer.
        unit: residues that belong together, a multiple of 64.
    """
    unit_bytes = packed_bytes(unit, modulus.bit_length())
    return unit * max(1, (part_bytes - PART_HEADER_BYTES) // unit_bytes)
