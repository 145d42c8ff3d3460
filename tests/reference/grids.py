"""The fixed point by itself, in fractions: what one site's integers may be, and what their mean must be."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

EPS = float(np.finfo(float).eps)


def on_the_grid(plan, values, update, weight, *, at_random=False):
    """Each integer is the exact value, rounded: by at most a half, or by less than one at random."""
    magnitude, layout, at = plan.public.magnitude, plan.layout, 0
    most = 1 if at_random else Fraction(1, 2)
    for spec in layout.tensors:
        if spec.name in update:
            scale = Fraction(weight, layout.weight_cap) * magnitude / Fraction(spec.clip)
            for k, x in zip(values[at : at + spec.size].tolist(), update[spec.name].reshape(-1).tolist(), strict=True):
                exact = min(max(Fraction(x), -Fraction(spec.clip)), Fraction(spec.clip)) * scale
                assert abs(k - exact) <= most + abs(exact) / 2**48, (spec.name, k, float(exact))
        at += spec.size


def exact_means(plan, sent, total_weight):
    """The lowest and the highest mean there may be of each tensor.

    It is the sum of all integers times the step, up to two units of a float64, rounded once to its dtype.
    """
    total: Any = np.sum(sent, axis=0, dtype=np.int64)
    at, found = 0, {}
    for spec in plan.layout.tensors:
        step = Fraction(spec.clip) * plan.layout.weight_cap / (plan.public.magnitude * total_weight)
        exact = np.array([float(k * step) for k in total[at : at + spec.size].tolist()]).reshape(spec.shape)
        with np.errstate(over="ignore"):
            ends = [(exact * (1 + off * EPS)).astype(spec.dtype) for off in (-4, 4)]
        found[spec.name] = np.minimum(*ends), np.maximum(*ends)
        at += spec.size
    return found


def check_mean(plan, sent, mean):
    """A mean is the exact one."""
    for name, (low, high) in exact_means(plan, sent, mean.total_weight).items():
        got = mean.tensors[name]
        assert (got.dtype, got.shape) == (low.dtype, low.shape)
        assert ((low <= got) & (got <= high)).all(), name
