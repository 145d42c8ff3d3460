"""Scores of the global model over all sites' patients, through the same encrypted sum as the update, exact.

Every score here is made of counts. A count travels as digits that the plan's fixed point carries exactly whatever the
site's weight, so the sums are exact integers and the scores the same bits at every site. The aggregator sees none of
it; the sites see sums over all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.agreed import settle
from client_sdk.columns import classes, column, flags, table
from client_sdk.training.agreement import sums_of
from he_agg.errors import InputError, PlanError, Reason
from he_agg.plan.fixedpoint import Mean
from he_agg.plan.plan import Plan

__all__ = [
    "BinaryScores",
    "ClassCounts",
    "Counts",
    "Evaluation",
    "MeanLoss",
    "count_tensors",
    "encode_counts",
    "summed_counts",
]

Counts = dict[str, NDArray[np.int64]]
Metrics = dict[str, Any]

PREFIX = "he-agg/metrics/"
_MEAN_LOSS = "MeanLoss takes (mean loss of the site's patients, how many they are)"
_ODDS = 16.0
"""Log odds beyond which a score is in the last bin: one in nine million."""

_NEARLY = 2.0**-6
"""Probabilities in half precision add up to 1 no better than this."""

MAX_COUNT = 2**40
"""Largest single number of a site: its patients, or their loss in units."""

MAX_CELL = 2**24
"""Most patients of a site in one cell of a table or histogram."""

LOSS_UNIT = 2.0**-10
"""Losses are summed as integers of this unit. The sum over a site's patients is rounded once."""


class Evaluation(ABC):
    """What is counted at a site, and what is made of the sums. `train(evaluate=...)` returns what `count` takes."""

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each array of counts."""

    @abstractmethod
    def count(self, result: Any) -> Counts:
        """Count what `evaluate(model)` returned at this site.

        Raises:
            InputError: it is not what this evaluation takes, or not finite.
        """

    @abstractmethod
    def metrics(self, sums: Counts) -> Metrics:
        """Compute scores from the sums over all sites."""


@dataclass(frozen=True)
class MeanLoss(Evaluation):
    """The mean loss: `evaluate` returns (mean loss of this site's patients, how many)."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of loss and patients."""
        return {"loss": (), "n": ()}

    def count(self, result: Any) -> Counts:
        """Return loss times patients, in units."""
        loss, n = (float(column([v], "evaluate: mean loss and patients", "skip")[0]) for v in _pair(result, _MEAN_LOSS))
        if n < 0 or n != int(n):
            raise InputError(
                Reason.BAD_ARGUMENT, "evaluate: expected a whole number of patients, got something else", _MEAN_LOSS
            )
        total = loss * n if n else 0.0  # the mean of nobody is NaN, and no loss
        return {"loss": _loss_units(total), "n": np.array(int(n), dtype=np.int64)}

    def metrics(self, sums: Counts) -> Metrics:
        """Return `loss` and `n`."""
        return _loss(sums)


@dataclass(frozen=True)
class BinaryScores(Evaluation):
    """Two outcomes: `evaluate` returns (y_true of 0 and 1, predicted probability of 1).

    Scores are counted in bins of equal width in log odds, from -16 to 16, so that they are as fine for an outcome of
    one in a thousand as for one of a half. Patients of both outcomes in the same bin count half for the AUC, so it is
    off by at most `auc_error` from the AUC of the pooled scores.

    Attributes:
        bins: an even number, so that 0.5 is the edge of a bin.
    """

    bins: int = 1024

    def __post_init__(self) -> None:
        settle(self)
        if self.bins < 2 or self.bins % 2:
            raise PlanError(Reason.BAD_ARGUMENT, f"bins: expected an even number of at least 2, got {self.bins}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a histogram for each outcome, and of the loss."""
        return {"negative": (self.bins,), "positive": (self.bins,), "loss": ()}

    def count(self, result: Any) -> Counts:
        """Count the scores in histograms, and the log loss."""
        y, scores = _pair(result, "BinaryScores takes (y_true, probability of class 1), both of shape (n,)")
        score = column(scores, "evaluate: the probabilities", "skip")
        truth = flags(y, "evaluate: y_true", score.size)
        _check_probabilities(score, "apply the sigmoid to logits")
        with np.errstate(divide="ignore"):
            odds = np.log(score) - np.log1p(-score)
        where = np.clip(np.floor((odds + _ODDS) * (self.bins / (2 * _ODDS))), 0, self.bins - 1).astype(np.int64)
        half = self.bins // 2  # exactly at 0.5, whatever the logarithm rounds
        where = np.where(score >= 0.5, np.maximum(where, half), np.minimum(where, half - 1))
        sure = np.clip(np.where(truth, score, 1 - score), 1e-12, 1)
        return {
            "negative": np.bincount(where[~truth], minlength=self.bins).astype(np.int64),
            "positive": np.bincount(where[truth], minlength=self.bins).astype(np.int64),
            "loss": _loss_units(float(-np.log(sure).sum())),
        }

    def metrics(self, sums: Counts) -> Metrics:
        """Return `loss`, `n`, `auc`, `auc_error`, `accuracy`, `sensitivity`, `specificity` and the confusion counts."""
        negative, positive = ([int(c) for c in sums[name]] for name in ("negative", "positive"))
        lost, half = {"loss": sums["loss"], "n": np.array(sum(negative) + sum(positive))}, self.bins // 2
        tn, fp, fn, tp = sum(negative[:half]), sum(negative[half:]), sum(positive[:half]), sum(positive[half:])
        pairs = (tn + fp) * (fn + tp)
        below = twice = ties = 0
        for without, with_outcome in zip(negative, positive, strict=True):
            twice += with_outcome * (2 * below + without)
            ties += with_outcome * without
            below += without
        return _loss(lost) | {
            "auc": _ratio(twice, 2 * pairs),
            "auc_error": _ratio(ties, 2 * pairs),
            "accuracy": _ratio(tn + tp, tn + fp + fn + tp),
            "sensitivity": _ratio(tp, fn + tp),
            "specificity": _ratio(tn, tn + fp),
            "confusion": [[tn, fp], [fn, tp]],
        }


@dataclass(frozen=True)
class ClassCounts(Evaluation):
    """Several classes: `evaluate` returns (y_true of 0..classes-1, predicted classes or probabilities).

    Attributes:
        classes: how many.
    """

    classes: int

    def __post_init__(self) -> None:
        settle(self)
        if self.classes < 2:
            raise PlanError(Reason.BAD_ARGUMENT, f"classes: expected at least 2, got {self.classes}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a confusion matrix, of the loss, and of how many patients have one."""
        return {"confusion": (self.classes, self.classes), "loss": (), "scored": ()}

    def count(self, result: Any) -> Counts:
        """Count who was taken for what, and the log loss if probabilities came."""
        y, scores = _pair(result, "ClassCounts takes (y_true, predicted classes or probabilities)")
        truth = classes(y, "evaluate: y_true", self.classes)
        shape = np.shape(scores)
        if len(shape) == 2 and shape[1] > 1:
            score = table(scores, self.classes, "evaluate: the probabilities", "skip")
            _check_probabilities(score, "apply softmax to logits")
            predicted = classes(score.argmax(axis=1), "evaluate: the predictions", self.classes, truth.size)
            if (np.abs(score.sum(axis=1) - 1) > _NEARLY).any():
                raise InputError(
                    Reason.BAD_ARGUMENT,
                    "evaluate: expected probabilities that add up to 1 in each row, got others",
                    "apply softmax to logits; several labels at once are several BinaryScores",
                )
            sure, scored = np.clip(score[np.arange(truth.size), truth], 1e-12, 1), truth.size
            loss = float(-np.log(sure).sum())
        else:
            predicted, loss, scored = classes(scores, "evaluate: the predictions", self.classes, truth.size), 0.0, 0
        confusion = np.zeros((self.classes, self.classes), dtype=np.int64)
        np.add.at(confusion, (truth, predicted), 1)
        return {"confusion": confusion, "loss": _loss_units(loss), "scored": np.array(scored, dtype=np.int64)}

    def metrics(self, sums: Counts) -> Metrics:
        """Return `loss`, `n`, `accuracy`, `recall` of each class and `confusion` (rows: truth).

        The loss is NaN unless all sites gave probabilities.
        """
        table = [[int(c) for c in row] for row in sums["confusion"]]
        total, right = sum(map(sum, table)), sum(table[i][i] for i in range(self.classes))
        loss = _loss({"loss": sums["loss"], "n": np.array(total)})
        if int(sums["scored"]) != total:
            loss["loss"] = math.nan  # of some patients only, or of none
        return loss | {
            "accuracy": _ratio(right, total),
            "recall": [_ratio(table[i][i], sum(table[i])) for i in range(self.classes)],
            "confusion": table,
        }


def _most(shape: tuple[int, ...]) -> int:
    return MAX_CELL if shape else MAX_COUNT


def _digits(magnitude: int, weight_cap: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return base and number of digits that carry any count of such an array at any weight."""
    base = magnitude // weight_cap + 1
    if base < 2:
        raise PlanError(
            Reason.NO_HEADROOM,
            f"evaluation needs a weight cap of at most {magnitude} at this many value bits, got {weight_cap}",
            "give weights in larger units (hundreds of patients) and lower the cap, or use more value bits",
        )
    return base, math.ceil(_most(shape).bit_length() / math.log2(base))


def count_tensors(evaluation: Evaluation, value_bits: int, weight_cap: int) -> tuple[Counts, float]:
    """Return what an evaluation adds to the layout: zeros of the right shapes (float64), and their clip bound."""
    magnitude = 2 ** (value_bits - 1) - 1
    zeros = {
        PREFIX + name: np.zeros((_digits(magnitude, weight_cap, shape)[1], *shape))
        for name, shape in evaluation.shapes().items()
    }
    return zeros, magnitude / weight_cap  # type: ignore[return-value]


def encode_counts(plan: Plan, evaluation: Evaluation, counts: Counts, weight: int) -> dict[str, NDArray[np.float64]]:
    """Encode counts as values that the fixed point turns into exactly these digits.

    `k = round(w/w_max * x/clip * M)` with `clip = M/w_max` is `round(w * x)`, so x is the digit over w.
    """
    found = {}
    for name, shape in evaluation.shapes().items():
        base, digits = _digits(plan.public.magnitude, plan.layout.weight_cap, shape)
        value = np.asarray(counts[name], dtype=np.int64)
        if np.abs(value).max(initial=0) > _most(shape):
            raise InputError(
                Reason.TOO_LARGE, f"evaluation: expected counts up to {_most(shape)} in {name!r}, got a larger one"
            )
        rest, sign = np.abs(value), np.sign(value)
        parts = [sign * (rest // base**i % base) for i in range(digits)]
        found[PREFIX + name] = np.stack(parts).astype(np.float64) / weight
    return found


def summed_counts(plan: Plan, mean: Mean, evaluation: Evaluation) -> Counts:
    """Return the exact sums of all sites' counts."""
    found = {}
    for name, shape in evaluation.shapes().items():
        base, digits = _digits(plan.public.magnitude, plan.layout.weight_cap, shape)
        powers = [base**i for i in range(digits)]
        parts = sums_of(plan, mean, PREFIX + name).astype(object)
        total = sum((power * part for power, part in zip(powers, parts, strict=True)), np.zeros(shape, dtype=object))
        found[name] = np.asarray(total).astype(np.int64)
    return found


def _pair(result: Any, hint: str) -> tuple[Any, Any]:
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise InputError(
            Reason.BAD_ARGUMENT, f"evaluate: expected two things, got {type(result).__name__}", f"return both: {hint}"
        )
    return result[0], result[1]


def _check_probabilities(score: NDArray[np.float64], hint: str) -> None:
    if np.isnan(score).any():
        raise InputError(
            Reason.NON_FINITE,
            f"evaluate: expected a probability for every patient, got {int(np.isnan(score).sum())} NaN or missing",
            "if the model gives NaN it has diverged: lower the learning rate",
        )
    if not ((score >= 0) & (score <= 1)).all():
        raise InputError(
            Reason.BAD_ARGUMENT, "evaluate: expected probabilities of 0 to 1, got others", f"{hint} before scoring"
        )


def _loss_units(total: float) -> NDArray[np.int64]:
    if not math.isfinite(total):
        raise InputError(
            Reason.NON_FINITE,
            "evaluate: expected a finite loss, got NaN or infinity",
            "the model has diverged: lower the learning rate, clip gradients, look for empty batches",
        )
    return np.array(round(total / LOSS_UNIT), dtype=np.int64)


def _loss(sums: Mapping[str, NDArray[Any]]) -> Metrics:
    n = int(sums["n"])
    return {"loss": _ratio(int(sums["loss"]), n) * LOSS_UNIT, "n": n}


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
