"""Rebuild a sum from answers of which some are wrong, and name who gave those.

Right answers are values of one polynomial of degree below t in each column: a word of a Reed-Solomon code, wrong at the
same few places in all columns. Up to (r - t)/2 wrong ones of r are found whatever they are: by their syndromes, on a
random combination of the columns, then on all columns, where what is left must agree. Of more, up to r - t, every t
answers are tried and the caller judges; that takes few holders, and a judge.

Source: Berlekamp, 1968, and Massey, 1969 (`_locator`); combining columns at random: Bleichenbacher, Kiayias and Yung,
Decoding of interleaved Reed-Solomon codes over noisy data, 2003, where words of one code share their wrong places.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import DecryptionError, Reason, counted
from he_agg.sharing.context import elements
from he_agg.sharing.field import Elements, P, dual_weights, inverse, lagrange, multiply

__all__ = ["MAX_TRIALS", "Plausible", "Rebuilt", "liars", "rebuild"]

MAX_TRIALS = 1_000
"""How many groups of t answers are tried at most, 60 microseconds each."""

Plausible = Callable[[Elements], bool]
"""Judges a sum of masked keys. The better it knows a wrong one, the more wrong answers can be told."""

_LOOKS = 8
"""How many random combinations of the columns are looked at: each hides a liar with a probability below 2^-15."""

_LOOK = b"he-agg/answers/look/v1"


@dataclass(frozen=True)
class Rebuilt:
    """A sum of masked keys, and who answered something else.

    Attributes:
        total: Shape: (N,).
        liars: their points, sorted. Wrong answers that give the same sum as the right ones are named only where fewer
            are wrong.
    """

    total: Elements = field(repr=False)
    liars: tuple[int, ...]


def rebuild(answers: Mapping[int, Elements], threshold: int, plausible: Plausible) -> Rebuilt:
    """Rebuild a sum from answers.

    Args:
        answers: by the holder's point. Shape of each: (N,).
        threshold: t.
        plausible: judges the sum: at the least whether it is one of so many keys, see `masks.unmasked`. Somebody who
            knows how others answer can answer so that a wrong sum is one too. Such sums are told apart by how many
            answers agree with them, or by a judge who opens something with them.

    Raises:
        DecryptionError: fewer than t answers, or no sum that is more plausible than others.
    """
    points = tuple(sorted(answers))
    if len(points) < threshold:
        raise DecryptionError(Reason.INCOMPLETE, f"expected {threshold} answers of holders at least, got {len(points)}")
    rows = np.stack([answers[point] for point in points])
    return _rebuild(points, rows, threshold, plausible, os.urandom(32))


def liars(answers: Mapping[int, Elements], threshold: int) -> tuple[int, ...] | None:
    """Name who has answered something else than the others, without knowing what the sum is.

    Args:
        answers: by the holder's point, t at least. Shape of each: (N,).
        threshold: t.

    Returns:
        Their points, sorted; None if more are wrong than can be told from the right ones.
    """
    points = tuple(sorted(answers))
    return _liars(points, np.stack([answers[point] for point in points]), threshold, os.urandom(32))


def _rebuild(
    points: tuple[int, ...], rows: NDArray[np.uint16], threshold: int, plausible: Plausible, seed: bytes
) -> Rebuilt:
    """Rebuild with given randomness; the deterministic half, which only `rebuild` and the tests may call.

    Args:
        points: sorted.
        rows: the answers. Shape: (len(points), N).
        seed: of the combinations of columns; no liar may know it before.
    """
    wrong = _liars(points, rows, threshold, seed)
    if wrong is not None:
        honest = [i for i, point in enumerate(points) if point not in wrong][:threshold]
        total = _at_zero(points, rows, honest)
        if plausible(total):
            return Rebuilt(total, wrong)
        if not wrong and len(points) > threshold:  # whichever answers are tried, this comes out
            raise DecryptionError(
                Reason.SUM_REJECTED,
                f"{len(points)} answers of holders agree, on what is no sum of keys: a member shared another key",
            )
    return _tried(points, rows, threshold, plausible)


def _liars(points: tuple[int, ...], rows: NDArray[np.uint16], threshold: int, seed: bytes) -> tuple[int, ...] | None:
    """Return whose answers are wrong, if they are at most (r - t)/2, so that nobody else could be meant."""
    if _agree(points, rows, threshold):
        return ()
    spare = len(points) - threshold
    width = rows.shape[1]
    looks = multiply(rows, elements(_LOOKS * width, _LOOK, seed).reshape(_LOOKS, width).T)
    for look in looks.T.tolist():
        places = _wrong_places(points, look, spare)
        if not places or 2 * len(places) > spare:
            continue
        left = [i for i in range(len(points)) if i not in places]
        if _agree(tuple(points[i] for i in left), rows[left], threshold):
            return tuple(points[i] for i in places)
    return None


def _agree(points: tuple[int, ...], rows: NDArray[np.uint16], threshold: int) -> bool:
    """Say whether rows lie on polynomials of degree below t, in every column."""
    weights = lagrange(points[:threshold], points[threshold:])
    return np.array_equal(multiply(weights, rows[:threshold]), rows[threshold:])


def _wrong_places(points: tuple[int, ...], word: list[int], spare: int) -> list[int]:
    """Return at which places one word of the code is wrong, if at spare/2 of them or fewer; else anything.

    A word times the dual weights is orthogonal to all powers of the points below `spare`. What is left of that in a
    wrong word, its syndromes, follows a recurrence whose characteristic roots are the points where it is wrong.
    """
    scaled = [value * weight % P for value, weight in zip(word, dual_weights(points), strict=True)]
    syndromes = []
    for _ in range(spare):
        syndromes.append(sum(scaled) % P)
        scaled = [value * point % P for value, point in zip(scaled, points, strict=True)]
    locator = _locator(syndromes)
    places = []
    for place, point in enumerate(points):
        value = 0
        for coefficient in locator:  # the polynomial reversed: its roots are the points themselves
            value = (value * point + coefficient) % P
        if value == 0:
            places.append(place)
    return places


def _locator(syndromes: list[int]) -> list[int]:
    """Return the shortest recurrence that makes a sequence: 1, c_1, ..., c_L with sum of c_i s_(k-i) = 0."""
    current, before = [1], [1]
    length, gap, last = 0, 1, 1
    for k, syndrome in enumerate(syndromes):
        difference = syndrome
        for i in range(1, min(length, len(current) - 1) + 1):
            difference += current[i] * syndromes[k - i]
        difference %= P
        if difference == 0:
            gap += 1
            continue
        factor = difference * inverse(last) % P
        changed = current + [0] * (len(before) + gap - len(current))
        for i, coefficient in enumerate(before):
            changed[i + gap] = (changed[i + gap] - factor * coefficient) % P
        if 2 * length <= k:
            before, last, length, gap = current, difference, k + 1 - length, 1
        else:
            gap += 1
        current = changed
    return current[: length + 1] + [0] * (length + 1 - len(current))


def _tried(points: tuple[int, ...], rows: NDArray[np.uint16], threshold: int, plausible: Plausible) -> Rebuilt:
    """Try every t answers, and take the plausible sum that most answers agree with."""
    trials = comb(len(points), threshold)
    found: list[Rebuilt] = []
    if trials <= MAX_TRIALS:
        found = sorted(_trials(points, rows, threshold, plausible), key=lambda sum_: len(sum_.liars))
    if not found:
        raise DecryptionError(
            Reason.SUM_REJECTED,
            f"{counted(len(points), 'answer')} of holders, of which {threshold} would do, give no sum of keys: "
            f"too many are wrong, or a member shared another key",
        )
    best = [sum_ for sum_ in found if len(sum_.liars) == len(found[0].liars)]
    if any(not np.array_equal(sum_.total, best[0].total) for sum_ in best):
        raise DecryptionError(
            Reason.SUM_REJECTED,
            f"{len(points)} answers of holders give several sums of keys: wrong are those of "
            + ", or of ".join(" and ".join(map(str, sum_.liars)) for sum_ in best),
        )
    certain = set(best[0].liars).intersection(*(sum_.liars for sum_ in best))
    return Rebuilt(best[0].total, tuple(sorted(certain)))


def _trials(
    points: tuple[int, ...], rows: NDArray[np.uint16], threshold: int, plausible: Plausible
) -> Iterator[Rebuilt]:
    """Yield every plausible sum once."""
    seen: list[frozenset[int]] = []
    for group in combinations(range(len(points)), threshold):
        if any(support.issuperset(group) for support in seen):
            continue
        total = _at_zero(points, rows, group)
        if not plausible(total):
            continue
        weights = lagrange(tuple(points[i] for i in group), points)
        agrees = (multiply(weights, rows[list(group)]) == rows).all(axis=1)
        seen.append(frozenset(np.flatnonzero(agrees).tolist()))
        yield Rebuilt(total, tuple(point for point, right in zip(points, agrees, strict=True) if not right))


def _at_zero(points: tuple[int, ...], rows: NDArray[np.uint16], places: tuple[int, ...] | list[int]) -> Elements:
    weights = lagrange(tuple(points[i] for i in places), (0,))
    out: Elements = multiply(weights, rows[list(places)])[0]
    return out
