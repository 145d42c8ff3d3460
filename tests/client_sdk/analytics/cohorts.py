"""Clinical data sets that scikit-survival brings, as a Cox model takes them, at four hospitals."""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Cohort(NamedTuple):
    """Days, deaths, features scaled to about 1, and at which of four hospitals of unlike size."""

    days: NDArray[np.float64]
    died: NDArray[np.bool_]
    features: NDArray[np.float64]
    site: NDArray[np.int64]


@functools.cache
def cohort(name: str) -> Cohort:
    """Load gbsg2, whas500 or veterans."""
    from sksurv import datasets

    loaders: Any = {
        "gbsg2": (datasets.load_gbsg2, "time", "cens"),
        "whas500": (datasets.load_whas500, "lenfol", "fstat"),
        "veterans": (datasets.load_veterans_lung_cancer, "Survival_in_days", "Status"),
    }
    load, time, event = loaders[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, y = load()
    columns: Any = {
        "gbsg2": lambda: [
            x.horTh == "yes",
            x.age / 10 - 5,
            x.menostat == "Post",
            x.tsize / 10 - 3,
            x.tgrade == "II",
            x.tgrade == "III",
            x.pnodes / 10,
            x.progrec / 1000,
        ],
        "whas500": lambda: [
            x.age / 10 - 7,
            x.gender.astype(float),
            x.bmi / 10 - 2.5,
            x.hr / 20 - 4,
            x.chf.astype(float),
            x.sho.astype(float),
        ],
        "veterans": lambda: [
            x.Karnofsky_score / 10 - 6,
            x.Age_in_years / 10 - 6,
            x.Months_from_Diagnosis / 10,
            x.Prior_therapy == "yes",
            x.Treatment == "test",
            x.Celltype == "squamous",
            x.Celltype == "smallcell",
            x.Celltype == "adeno",
        ],
    }
    rows = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns[name]()])
    n = len(rows)
    where = np.searchsorted([50, 75, 90], np.arange(n) * 37 % 100, side="right")
    return Cohort(y[time].astype(np.float64), y[event].astype(bool), rows, where)
