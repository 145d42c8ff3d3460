"""Open one's own share of a dealing, check it, and complain of a bad one.

A bad share is of one of two kinds. `opened`: the plaintext is what the dealer committed to, and is not on the
polynomials that the dealer proves; whoever sees the plaintext sees that too, so it convicts. `sealed`: what was sealed
does not open, or not to what the dealer committed to; nobody else can see that, so it accuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from he_agg.errors import KeystoreError, WireError
from he_agg.ring.primes import N
from he_agg.sharing.context import Context
from he_agg.sharing.dealing import SALT_BYTES, Dealing, Excerpt
from he_agg.sharing.field import ELEMENT_BYTES, Elements, add, read, write
from he_agg.sharing.proof import ROW_WIDTH, combinations, commit, holds
from he_agg.sharing.shamir import expand

__all__ = ["ANSWER_BYTES", "BadShare", "Fault", "Open", "answer", "convicts", "open_share", "read_answer"]

ANSWER_BYTES = ELEMENT_BYTES * N

Open = Callable[[bytes, bytes], bytes]
"""Opens what was sealed to oneself, in its context, or raises KeystoreError."""


class Fault(StrEnum):
    """What is wrong with a share."""

    SEALED = "sealed"
    OPENED = "opened"


@dataclass(frozen=True)
class BadShare:
    """A share that is not to be used.

    Attributes:
        plaintext: what convicts the dealer, if anything does.
    """

    fault: Fault
    plaintext: bytes | None = field(repr=False, default=None)


def open_share(excerpt: Excerpt, context: Context, open_sealed: Open) -> Elements | BadShare:
    """Open a holder's own share, and check it.

    Args:
        excerpt: of a holder who has a sharing key; its digest is the manifest's.
        context: the submission's, from its manifest, with its site as the dealer.

    Returns:
        The share of the masked key, or what is wrong. Shape: (N,).

    Raises:
        ValueError: nothing was sealed to this holder, which is nobody's fault.
    """
    if excerpt.holders.suites[excerpt.index - 1] is None:
        raise ValueError(f"{excerpt.holder} has no sharing key in this epoch, and no share")
    info = context.sealing_info(excerpt.index, excerpt.holder)
    try:
        plaintext = open_sealed(excerpt.blob, info)
    except KeystoreError:
        return BadShare(Fault.SEALED)
    if commit(context, excerpt.index, plaintext) != excerpt.commitments[excerpt.index - 1]:
        return BadShare(Fault.SEALED)
    row = _proven(excerpt, context, excerpt.index, plaintext)
    return BadShare(Fault.OPENED, plaintext) if row is None else row[:N]


def convicts(dealing: Dealing | Excerpt, context: Context, index: int, plaintext: bytes) -> bool:
    """Say whether a plaintext that a holder complains of shows that the dealer cheated.

    Args:
        dealing: the dealer's; its digest is the manifest's.
        index: of the holder who complains, from 1.
    """
    committed = commit(context, index, plaintext) == dealing.commitments[index - 1]
    return committed and _proven(dealing, context, index, plaintext) is None


def _proven(dealing: Dealing | Excerpt, context: Context, index: int, plaintext: bytes) -> Elements | None:
    """Return the row of a plaintext that is committed to, if it has one and the proof holds for it."""
    body = plaintext[SALT_BYTES:]
    if len(plaintext) != dealing.holders.plaintext_bytes(index):
        return None
    try:
        row = expand(body, ROW_WIDTH) if index < dealing.holders.threshold else read(body, ROW_WIDTH, "share")
    except WireError:
        return None
    rho = combinations(context, dealing.holders.header, dealing.commitments)
    return row if holds(dealing.proof, rho, index, row) else None


def answer(shares: Iterable[Elements]) -> bytes:
    """Add a holder's shares of all members of a sum. What comes out is no secret once the sum is certified."""
    return write(add(shares))


def read_answer(data: bytes) -> Elements:
    """Read an answer.

    Raises:
        WireError: not 4096 bytes of numbers below P.

    Returns:
        Shape: (N,).
    """
    return read(data, N, "answer")
