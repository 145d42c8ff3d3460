"""Harrell's concordance: whether those with the higher hazard had the event first. Pairs are counted at home."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Concordance", "concordance_of"]


@dataclass(frozen=True)
class Concordance:
    """Harrell's concordance over the pairs of patients of one hospital and one stratum.

    A pair counts if one of the two had the event while the other was watched, and the other stayed longer, or left at
    the same grid point without the event. Pairs of patients of two hospitals are in no sum and do not count.

    Attributes:
        concordant: pairs in which the one with the event had the higher hazard ratio.
        discordant: the lower one.
        tied: the same.
    """

    concordant: int
    discordant: int
    tied: int

    @property
    def value(self) -> float:
        """Share of concordant pairs, tied ones counted half; NaN without pairs."""
        pairs = self.concordant + self.discordant + self.tied
        return (self.concordant + self.tied / 2) / pairs if pairs else math.nan


def concordance_of(
    risk: NDArray[np.float64],
    entries: NDArray[np.int64],
    exits: NDArray[np.int64],
    events: NDArray[np.bool_],
) -> Concordance:
    """Count pairs, those in a stratum: keys of unlike strata are never between each other's.

    With an event at t compare all who entered before t and left after it, or at it without the event.

    Args:
        risk: linear predictors.
        entries: the key after which each patient is at risk.
        exits: the last key at which each patient is.
        events: whether the patient had the event at the exit.
    """
    _, rank = np.unique(risk, return_inverse=True)
    leaves = 2 * exits + ~events  # who leaves without the event leaves after it
    enters = 2 * entries + 1
    asked, ranks = 2 * exits[events], rank[events]
    # Who left later had come earlier, but for those who came later too.
    lower, up_to, everybody = (
        int((_below(leaves, rank, asked, most) - _below(enters, rank, asked, most)).sum())
        for most in (ranks, ranks + 1, np.full(len(ranks), len(rank) + 1))
    )
    return Concordance(lower, everybody - up_to, up_to - lower)


def _below(
    keys: NDArray[np.int64],
    ranks: NDArray[np.int64],
    after: NDArray[np.int64],
    below: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Count, for each question, points with a key after one and a rank below another: bit by bit, a wavelet matrix."""
    order = np.argsort(-keys, kind="stable")
    row = ranks[order].astype(np.int64)
    end = np.searchsorted(-keys[order], -after, side="left")
    start, found = np.zeros_like(end), np.zeros(len(after), dtype=np.int64)
    bits = max(int(below.max(initial=0)), int(row.max(initial=0)), 1).bit_length()
    for bit in reversed(range(bits)):
        ones = (row >> bit & 1).astype(bool)
        zeros_before = np.concatenate([[0], np.cumsum(~ones)])
        zeros = zeros_before[-1]
        takes = (below >> bit & 1).astype(bool)
        low, high = zeros_before[start], zeros_before[end]
        found += np.where(takes, high - low, 0)
        start = np.where(takes, zeros + start - low, low)
        end = np.where(takes, zeros + end - high, high)
        row = np.concatenate([row[~ones], row[ones]])
    return found
