"""Clinical data sets that scikit-survival brings, as survival analyses take them.

    python -m tests.client_sdk.analytics.cohorts FOLDER

writes them for by_r.R, which makes the figures of by_r.json.
"""

from __future__ import annotations

import functools
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Cohort(NamedTuple):
    """Days, deaths, features scaled to about 1, and at which of four hospitals of unlike size."""

    days: NDArray[np.float64]
    died: NDArray[np.bool_]
    features: NDArray[np.float64]
    site: NDArray[np.int64]


COHORTS = ("gbsg2", "whas500", "veterans", "flchain", "aids")


@functools.cache
def cohort(name: str) -> Cohort:
    """Load one of COHORTS; of flchain those who were watched for a day or more."""
    from sksurv import datasets

    loaders: Any = {
        "gbsg2": (datasets.load_gbsg2, "time", "cens"),
        "whas500": (datasets.load_whas500, "lenfol", "fstat"),
        "veterans": (datasets.load_veterans_lung_cancer, "Survival_in_days", "Status"),
        "flchain": (datasets.load_flchain, "futime", "death"),
        "aids": (datasets.load_aids, "time", "censor"),
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
        "flchain": lambda: [x.age / 10 - 6.5, x.sex == "M", x.kappa / 10, x["lambda"] / 10, x.mgus == "yes"],
        "aids": lambda: [
            x.tx == "1",
            x.age / 10 - 4,
            x.cd4 / 100,
            x.karnof.astype(float) / 10 - 9,
            x.priorzdv.clip(upper=120) / 12,
        ],
    }
    rows = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns[name]()])
    watched = y[time] > 0
    rows, y = rows[watched], y[watched]
    where = np.searchsorted([50, 75, 90], np.arange(len(rows)) * 37 % 100, side="right")
    return Cohort(y[time].astype(np.float64), y[event].astype(bool), rows, where)


class Competing(NamedTuple):
    """Time in steps, the number of each one's event from 1 or 0 for none, a group; what the events are called."""

    times: NDArray[np.int64]
    cause: NDArray[np.int64]
    group: NDArray[np.str_]
    causes: tuple[str, ...]


@functools.cache
def competing(name: str) -> Competing:
    """Load bmt, in months, or cgvhd, in thousandths of a year: patients after a transplant of bone marrow."""
    from sksurv import datasets

    if name == "bmt":
        table, outcome = datasets.load_bmt()
        return Competing(
            outcome["ftime"].astype(np.int64),
            outcome["status"].astype(np.int64),
            np.ravel(table).astype(str),
            ("relapse", "death"),
        )
    table, outcome = datasets.load_cgvhd()
    return Competing(
        np.rint(outcome["ftime"] * 1000).astype(np.int64),
        outcome["status"].astype(np.int64),
        table["dx"].to_numpy().astype(str),
        ("graft versus host", "relapse", "death"),
    )


def main(folder: Path) -> None:
    """Write all of them as CSV."""
    for name in COHORTS:
        data = cohort(name)
        columns = [data.days, data.died, data.site, *data.features.T]
        names = ["time", "event", "site", *(f"x{i}" for i in range(data.features.shape[1]))]
        np.savetxt(folder / f"{name}.csv", np.column_stack(columns), "%.17g", ",", header=",".join(names), comments="")
    for name in ("bmt", "cgvhd"):
        times, cause, group, _ = competing(name)
        lines = ["time,cause,group", *(f"{t},{c},{g}" for t, c, g in zip(times, cause, group, strict=True))]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
