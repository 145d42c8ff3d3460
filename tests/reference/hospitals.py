"""Deal awkward data out to hospitals that come late, and ask them: through the plan's integers, without a network."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from client_sdk import analytics
from client_sdk.analytics.analysis import TENSOR
from client_sdk.analytics.course import ABSENCES, Course, vector_size
from he_agg import dequantize, quantize
from he_agg.errors import HeAggError, ProtocolError
from he_agg.plan.plan import Plan
from tests.client_sdk.analytics.comparing import MAGNITUDE, bits

MOST_SUMS = 1000


class RefusedError(Exception):
    """There is an error instead of an answer, and the reference says that it is right."""


class NoAnswerError(Exception):
    """An analysis gives an error about these rows."""

    def __init__(self, error, rows) -> None:
        super().__init__(str(error))
        self.message, self.rows = error.message, rows


def refused(error, right, why):
    """Judge an error: raise `RefusedError` if it is right."""
    if not right:
        raise AssertionError(f"refused, and should not have been ({why}): {error}") from error
    raise RefusedError(why) from error


def dealt(rng, rows, by=None):
    """Row numbers of two to five hospitals: none, one or most of them; sometimes in the order of a column."""
    hospitals = int(rng.integers(2, 6))
    order = rng.permutation(rows)
    if by is not None and rng.random() < 0.3:  # hospitals with one outcome, one arm, the long times
        order = order[np.argsort(np.asarray(by)[order], kind="stable")]
    cuts = np.sort(rng.integers(0, rows + 1, hospitals - 1))
    return np.split(order, cuts)


def dressed(rng, values):
    """The same column as something else that holds it."""
    values = np.asarray(values)
    forms = [
        lambda: values,
        lambda: values.tolist(),
        lambda: pd.Series(values),
        lambda: np.ma.array(values),
        lambda: values.astype(object),
    ]
    if values.ndim == 1:
        forms += [lambda: values.reshape(-1, 1), lambda: tuple(values.tolist())]
        if values.dtype.kind in "iu":
            forms.append(lambda: pd.Series(values, dtype="Int64"))
    else:
        forms[2] = lambda: pd.DataFrame(values)
    return forms[int(rng.integers(0, len(forms)))]()


def absences(rng, hospitals):
    """Who is late for which sum: nobody, one for the first, one at any time, or anybody at any time."""
    kind, one, seed = rng.integers(0, 4), int(rng.integers(0, hospitals)), int(rng.integers(0, 2**32))

    def late(number):
        draw = np.random.default_rng([seed, number])
        if kind == 0:
            return set()
        if kind == 1:
            return {one} if number == 1 else set()
        if kind == 2:
            return {one} if draw.random() < 0.4 else set()
        away = set(np.flatnonzero(draw.random(hospitals) < 0.15).tolist())
        return away if len(away) < hospitals else set()

    return late


def asked(rng, question, *columns, by=None, shares=None):
    """Ask a question about columns, dealt out.

    Args:
        by: a column by which they may be dealt.
        shares: the row numbers of each hospital, where the caller has dealt.

    Returns:
        The result, and the numbers of the rows that it must be about.

    Raises:
        RefusedError: a hospital stayed away for as long as the rule allows.
        NoAnswerError: the analysis has none.
    """
    shares = dealt(rng, len(columns[0]), by) if shares is None else shares
    names = [f"hospital-{i}" for i in range(len(shares))]
    late = absences(rng, len(names))
    own = [question.prepared(*(dressed(rng, np.asarray(column)[share]) for column in columns)) for share in shares]
    courses = [Course(question, MAGNITUDE) for _ in names]
    size = vector_size(question, MAGNITUDE)
    plan = None
    if rng.random() < 0.25:
        layout = analytics.layout_for(question)
        plan = Plan.create("x", layout, value_bits=analytics.VALUE_BITS, max_sites=5, min_sites=2)
    rows = None
    for number in range(1, MOST_SUMS):
        here = [i for i in range(len(names)) if i not in late(number)]
        if rows is None:
            rows = np.concatenate([shares[i] for i in here])
        vectors = [courses[i].vector(names[i], own[i], size) for i in here]
        sums, sites = np.sum(vectors, axis=0), tuple(names[i] for i in here)
        if plan is not None:
            integers = [quantize(plan, {TENSOR: v.astype(np.float64)}, 1).values.astype(np.int64) for v in vectors]
            sums = dequantize(plan, np.sum(integers, axis=0), len(here), sites).sums
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", analytics.SmallCellWarning)
                finished = [course.take(sums, sites) for course in courses]
        except ProtocolError as error:
            refused(error, f"in {ABSENCES} sums in a row" in error.message, "a hospital stayed away")
        except HeAggError as error:
            raise NoAnswerError(error, rows) from error
        if finished[0] is not None:
            results: list[Any] = [done.result for done in finished if done is not None]
            assert len(results) == len(names)
            assert len({repr(bits(result)) for result in results}) == 1
            assert results[0].n_sites == len(courses[0].members)
            return results[0], rows
    raise AssertionError(f"no answer after {MOST_SUMS} sums")


def awkward(rng, n, scale=1.0):
    """A column of whole numbers times a scale: constant, zero, tied, skewed, two-valued, or plain."""
    kind = rng.integers(0, 7)
    if kind == 0:
        whole = np.zeros(n)
    elif kind == 1:
        whole = np.full(n, float(rng.integers(-50, 50)))
    elif kind == 2:
        whole = rng.integers(0, 3, n).astype(float)
    elif kind == 3:
        whole = np.rint(rng.lognormal(1, 1.5, n)).clip(0, 900)
    elif kind == 4:
        whole = rng.choice([-900.0, 900.0], n)
    elif kind == 5:
        whole = np.where(rng.random(n) < 0.02, 900.0, 0.0)
    else:
        whole = np.rint(rng.normal(0, 100, n)).clip(-900, 900)
    return whole * scale
