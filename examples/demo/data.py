"""Real patients, dealt out to hospitals that differ as hospitals do.

The patients are those of the Mayo Clinic study of serum free light chains (flchain, inside the
package scikit-survival); the question is who dies within ten years of the blood sample. The study
was one cohort; which hospital a patient went to is our invention, drawn from a fixed seed so that
each hospital sees its own kind of patient: see `HOSPITALS`.

Two things would make the answer too good, and are kept out:

* `chapter`, the cause of death, is known only of the dead and is never read;
* patients lost from sight before ten years are left out, since their answer is unknown. That is only
  fair where everybody *could* have been followed for ten years. Among those sampled after 1998 the
  living were not, the dead were, and all who remain would be dead. So the years 1995 to 1998 only,
  chosen by calendar and not by outcome; of them 4.5 in 100 were lost from sight. The year itself is
  not a feature.

Source: Dispenzieri et al., Mayo Clinic Proceedings 87(6):517-523, 2012.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

DATASET = "flchain (scikit-survival): death within 10 years"
SEED = 0
HORIZON_DAYS = 3652.5
LAST_SAMPLE_YEAR = 1998
TEST_SHARE = 0.3

FEATURES = ("age", "sex", "kappa", "lambda", "flc_group", "creatinine", "creatinine_missing", "mgus")

# Scaling by what the federation's own patients look like would need a pooled statistic, and a hospital's
# own mean would give every hospital another scale. Public reference intervals (central 95 % of healthy
# adults, mg/dL) give one scale to all without asking anybody.
# Source: Katzmann et al., Clinical Chemistry 48(9):1437-1444, 2002, for kappa and lambda; the interval
# for creatinine is the one that laboratories commonly print for adults.
KAPPA_INTERVAL = (0.33, 1.94)
LAMBDA_INTERVAL = (0.57, 2.63)
CREATININE_INTERVAL = (0.6, 1.3)
FEATURE_BOUND = 4.0  # creatinine on dialysis is 12 deviations out; a unit so far from the rest learns nothing


@dataclass(frozen=True, slots=True)
class Patients:
    """What is known of each patient on the day of the sample, and whether ten years later they lived.

    Shape: every field `(n,)`. Units: age in years; kappa, lambda_ and creatinine in mg/dL, creatinine NaN
    where it was not measured; flc_group 1 to 10, the study's own groups by kappa + lambda.
    """

    age: NDArray[np.float64]
    female: NDArray[np.bool_]
    kappa: NDArray[np.float64]
    lambda_: NDArray[np.float64]
    flc_group: NDArray[np.float64]
    creatinine: NDArray[np.float64]
    mgus: NDArray[np.bool_]
    died: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.age)


@dataclass(frozen=True, slots=True)
class Cohort:
    """Patients as a model sees them.

    Shape: features `(n, len(FEATURES))` float32, died `(n,)` float32 of 0 and 1.
    """

    features: NDArray[np.float32]
    died: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.died)


@dataclass(frozen=True, slots=True)
class Share:
    """All that one hospital holds: its own patients, and the test set that is common to all."""

    hospital: str
    train: Cohort
    test: Cohort

    def save(self, path: Path) -> None:
        """Write the share where only its hospital will look (`.npz`, no pickles)."""
        with path.open("wb") as file:
            np.savez(
                file,
                hospital=np.array(self.hospital),
                train_features=self.train.features,
                train_died=self.train.died,
                test_features=self.test.features,
                test_died=self.test.died,
            )

    @classmethod
    def load(cls, path: Path) -> Share:
        """Read a share that `save` wrote, without loading the data set or its package."""
        with np.load(path, allow_pickle=False) as file:
            return cls(
                str(file["hospital"]),
                Cohort(file["train_features"], file["train_died"]),
                Cohort(file["test_features"], file["test_died"]),
            )


@dataclass(frozen=True, slots=True)
class Profile:
    """One hospital: its name and how strongly it draws each patient, relative to the others."""

    name: str
    describes: str
    draw: Callable[[Patients], NDArray[np.float64]]


def _geriatric(p: Patients) -> NDArray[np.float64]:
    return np.where(p.age >= 75, 4.0, np.where(p.age >= 68, 0.5, 0.0))


def _university(p: Patients) -> NDArray[np.float64]:
    referred = (p.flc_group >= 8) | p.mgus | (np.nan_to_num(p.creatinine, nan=0.0) > 1.4)
    by_age = np.where(p.age >= 75, 0.25, np.where(p.age < 57, 0.5, 1.0))
    return np.where(referred, 2.0, 0.6) * by_age * np.where(p.female, 0.7, 1.3)


def _rural(p: Patients) -> NDArray[np.float64]:
    return np.full(len(p), 0.1)


def _outpatient(p: Patients) -> NDArray[np.float64]:
    return np.where(p.age < 62, 1.6, 0.05) * np.where(p.female, 1.5, 0.5)


HOSPITALS = (
    Profile("geriatric-centre", "the old, hardly anybody under 70", _geriatric),
    Profile("university-hospital", "large; abnormal light chains, bad kidneys, more men", _university),
    Profile("rural-hospital", "small; whoever lives nearby", _rural),
    Profile("outpatient-clinic", "the young and healthy, more women, few deaths", _outpatient),
)


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers of each hospital's own patients and of the common test set; no row is in two of them."""

    train: dict[str, NDArray[np.intp]]
    test: NDArray[np.intp]


def load_patients() -> Patients:
    """Read flchain and keep those whose state at ten years is known (see the head of this module)."""
    from sksurv.datasets import load_flchain

    table, outcome = load_flchain()
    followed = np.asarray(outcome["futime"], dtype=np.float64)
    dead = np.asarray(outcome["death"], dtype=np.bool_)
    year = np.asarray(table["sample.yr"].astype(int))
    keep = (year <= LAST_SAMPLE_YEAR) & (dead | (followed >= HORIZON_DAYS))

    def column(name: str, kind: type) -> NDArray[Any]:
        return np.asarray(table[name].astype(kind))[keep]

    return Patients(
        age=column("age", float),
        female=column("sex", str) == "F",
        kappa=column("kappa", float),
        lambda_=column("lambda", float),
        flc_group=column("flc.grp", float),
        creatinine=column("creatinine", float),
        mgus=column("mgus", str) == "yes",
        died=(dead & (followed < HORIZON_DAYS))[keep],
    )


def _reference_score(value: NDArray[np.float64], interval: tuple[float, float]) -> NDArray[np.float64]:
    """Standard deviations from the middle of a reference interval, on the log scale that assays follow."""
    low, high = np.log(interval)
    scores: NDArray[np.float64] = (np.log(value) - (low + high) / 2) / ((high - low) / (2 * 1.96))
    return scores


def encode(patients: Patients) -> Cohort:
    """Turn patients into numbers of order one, with public constants only.

    Creatinine that was not measured stands in the middle of its reference interval and sets a flag.

    Args:
        patients: any number of patients.

    Returns:
        The columns of `FEATURES`, within +-`FEATURE_BOUND`, and the outcome.
    """
    missing = np.isnan(patients.creatinine)
    measured = np.where(missing, 1.0, patients.creatinine)
    columns = {
        "age": (patients.age - 65) / 10,
        "sex": np.where(patients.female, 1.0, -1.0),
        "kappa": _reference_score(patients.kappa, KAPPA_INTERVAL),
        "lambda": _reference_score(patients.lambda_, LAMBDA_INTERVAL),
        "flc_group": (patients.flc_group - 5.5) / np.sqrt(99 / 12),  # deviation of ten equal groups
        "creatinine": np.where(missing, 0.0, _reference_score(measured, CREATININE_INTERVAL)),
        "creatinine_missing": missing.astype(np.float64),
        "mgus": patients.mgus.astype(np.float64),
    }
    stacked = np.stack([columns[name] for name in FEATURES], axis=1)
    features = np.clip(stacked, -FEATURE_BOUND, FEATURE_BOUND).astype(np.float32)
    return Cohort(features, patients.died.astype(np.float32))


def split(patients: Patients, seed: int = SEED) -> Split:
    """Send every patient to one hospital, then take the same part of each for the common test set.

    Args:
        patients: the cohort.
        seed: the same seed gives the same split.

    Returns:
        Rows of `patients`: a partition into the training rows of each hospital and the test rows.
    """
    rng = np.random.default_rng(seed)
    draw = np.stack([profile.draw(patients) for profile in HOSPITALS], axis=1)
    edges = (draw / draw.sum(axis=1, keepdims=True)).cumsum(axis=1)[:, :-1]
    hospital = (rng.random(len(patients))[:, None] >= edges).sum(axis=1)
    train: dict[str, NDArray[np.intp]] = {}
    test = []
    for number, profile in enumerate(HOSPITALS):
        rows = rng.permutation(np.flatnonzero(hospital == number))
        held_out = round(TEST_SHARE * len(rows))
        test.append(rows[:held_out])
        train[profile.name] = rows[held_out:]
    return Split(train, np.concatenate(test))


def load_shares(seed: int = SEED) -> list[Share]:
    """What each hospital of `HOSPITALS` holds, in that order."""
    patients = load_patients()
    cohort = encode(patients)
    parts = split(patients, seed)

    def take(rows: NDArray[np.intp]) -> Cohort:
        return Cohort(cohort.features[rows], cohort.died[rows])

    test = take(parts.test)
    return [Share(name, take(rows), test) for name, rows in parts.train.items()]
