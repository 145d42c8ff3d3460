"""Clinical tables that scikit-survival brings, dealt out to hospitals of unlike size."""

from __future__ import annotations

from functools import cache

import numpy as np
from sksurv.datasets import load_flchain, load_gbsg2, load_whas500


@cache
def whas500():
    """500 patients after a heart attack: age, sex, body mass, shock; death; years under observation."""
    table, exits = load_whas500()
    x = np.column_stack(
        [
            (table.age.astype(float) - 70) / 10,
            table.gender.astype(float),
            (table.bmi.astype(float) - 26) / 10,
            table.sho.astype(float),
        ]
    )
    return x, exits["fstat"].astype(int), exits["lenfol"] / 365.25


@cache
def gbsg2():
    """686 patients with breast cancer: age, positive nodes, hormones, grade III; recurrence; years; size of tumour."""
    table, exits = load_gbsg2()
    x = np.column_stack(
        [
            (table.age.astype(float) - 50) / 10,
            table.pnodes.astype(float).clip(0, 50) / 10,
            table.horTh == "yes",
            table.tgrade == "III",
        ]
    )
    return x, exits["cens"].astype(int), exits["time"] / 365.25, table.tsize.astype(float).to_numpy()


@cache
def flchain():
    """7,874 people: age, sex, light chains; death; years."""
    table, exits = load_flchain()
    x = np.column_stack(
        [
            (table.age.astype(float) - 65) / 10,
            table.sex == "M",
            table.kappa.astype(float) / 10,
            table["lambda"].astype(float) / 10,
        ]
    )
    died, years = exits["death"].astype(int), exits["futime"] / 365.25
    return x[years > 0], died[years > 0], years[years > 0]


def unlike(rng, hospitals, event, *columns):
    """Shares of 1 to 8 hospitals: from two on, one has nobody or only rows without an event; sizes from few to most."""
    rows, quiet = len(event), np.flatnonzero(event == 0)[:7]
    rest = rng.permutation(np.setdiff1d(np.arange(rows), quiet if hospitals > 1 else []))
    if hospitals == 1:
        return [tuple(column[rest] for column in columns)]
    sizes = 1.0 / np.arange(1, hospitals) ** 1.5
    cuts = np.rint(np.cumsum(sizes / sizes.sum()) * len(rest)).astype(int)[:-1]
    shares = [quiet, *np.split(rest, cuts)]
    if hospitals > 2:
        shares[-1], shares[1] = shares[-1][:0], np.concatenate([shares[1], shares[-1]])
    return [tuple(column[share] for column in columns) for share in shares]
