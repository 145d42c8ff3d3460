"""Parts as they travel, in memory from which they are written to the disk and sent as they are."""

from __future__ import annotations

import numpy as np

from he_agg.kernels.bitpack import Bytes
from he_agg.kernels.buffers import Buffers
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import PART_HEADER_BYTES, PartPlace
from he_agg.protocol.wire import part_header

__all__ = ["HELD_BYTES", "Frames"]

HELD_BYTES = 32 * 2**20
"""So much of a submission, and of a sum, is held in memory to spare the disk; the rest is in the spool only."""


class Frames:
    """The parts of one submission that are being made: header and packed residues in one piece of memory.

    Args:
        memory: where it comes from. It goes back by itself.
    """

    def __init__(self, plan: PublicPlan, memory: Buffers) -> None:
        self._plan, self._memory = plan, memory
        self._made: dict[int, Bytes] = {}

    def room(self, place: PartPlace) -> Bytes:
        """Return where a part's packed residues go. Any thread may ask. See `Codec.encrypt`."""
        frame = self._memory.take(place.wire_bytes)
        frame[:PART_HEADER_BYTES] = np.frombuffer(part_header(place, self._plan.plan_id), np.uint8)
        self._made[place.number] = frame
        return frame[PART_HEADER_BYTES:]

    def whole(self, number: int) -> memoryview:
        """Hand over a part that was made, header and all."""
        return self._made.pop(number).data
