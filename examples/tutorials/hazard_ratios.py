"""Hazard ratios and adjusted survival of breast-cancer patients at four hospitals, without any showing a patient.

    python -m examples.tutorials.hazard_ratios --out hazard-ratios.png

The 686 women of the German Breast Cancer Study Group's trial 2 (scikit-survival) are dealt to four unequal hospitals.
Two Cox models of the time until the disease came back or the patient died:

* with a baseline hazard of each hospital's own, by day. Gradients and information are summed, encrypted; no sum is
  about one time. Its hazard ratios are the forest plot, beside statsmodels' of the pooled table;
* with one baseline for all, by half-year; it ends before any feature is sent if fewer than five had the event in one.
  Its sums over risk sets give the survival of patients with given features, beside scikit-survival's.

Which hospital a patient went to is our invention.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk import analytics
from client_sdk.local import local_federation, plan_for
from examples.pictures import BLUE, FAINT, INK, ORANGE, drawn, saved, titled

NAMES = ("university", "city", "county", "clinic")
SHARES = (0.45, 0.3, 0.15, 0.1)
FEATURES = (
    "hormone therapy",
    "age, 10 years",
    "after menopause",
    "tumour, 10 mm",
    "grade II : I",
    "grade III : I",
    "nodes, 10 more",
    "progesterone, 100 fmol/mg",
)
HALF_YEAR, HORIZON = 182, 2184


def patients() -> dict[str, NDArray[Any]]:
    """Days, whether the disease came back or the patient died, and features on a scale of about 1."""
    from sksurv.datasets import load_gbsg2

    table, outcome = load_gbsg2()
    columns = [
        table.horTh == "yes",
        (table.age - 50) / 10,
        table.menostat == "Post",
        (table.tsize - 30) / 10,
        table.tgrade == "II",
        table.tgrade == "III",
        table.pnodes / 10,
        np.minimum(table.progrec, 900) / 100,
    ]
    features = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
    return {"days": outcome["time"].astype(float), "event": outcome["cens"], "features": features}


def questions() -> tuple[analytics.CoxRegression, analytics.CoxRegression]:
    """What the hospitals agree on: by day with own baselines, and by half-year with one for all."""
    own = analytics.CoxRegression(len(FEATURES), step=1, horizon=2700, feature_bound=12)
    shared = analytics.CoxRegression(
        len(FEATURES),
        step=HALF_YEAR,
        horizon=HORIZON,
        strata=None,
        ties="breslow",
        feature_bound=12,
        small_cells=analytics.SmallCells(5, "suppress"),
    )
    return own, shared


def run(out: Path, seed: int = 7) -> dict[str, Any]:
    """Deal the patients out, ask both questions, compare, draw.

    Args:
        out: the picture.
        seed: deals the patients out.
    """
    everybody = patients()
    where = np.random.default_rng(seed).choice(len(NAMES), len(everybody["days"]), p=SHARES)
    own, shared = questions()

    def hospital(site: Any, i: int) -> tuple[analytics.CoxResult, analytics.CoxResult]:
        mine = [column[where == i] for column in everybody.values()]
        return analytics.run(site, own, *mine), analytics.run(site, shared, *mine)

    plan = plan_for(analytics.layout_for(own, shared), NAMES, value_bits=analytics.VALUE_BITS, rounds=40)
    with local_federation(plan, NAMES) as federation:
        start = time.monotonic()
        results = federation.everywhere(hospital)
        seconds = time.monotonic() - start
        sent = federation.plan.public.wire_bytes
    by_day, by_half = results[0]
    pooled = compare_ratios(by_day, everybody, where)
    curves = compare_curves(by_half, everybody)
    draw(by_day, by_half, pooled, curves, out)
    rounds = by_day.steps + by_half.steps
    facts = {
        "same": all(np.array_equal(a.coefficients, by_day.coefficients) for a, _ in results),
        "ratios_off_by": float(np.abs(by_day.coefficients - pooled[0]).max()),
        "curves_off_by": float(np.abs(curves[2] - curves[1]).max()),
        "rounds": rounds,
        "bytes": sent,
        "result": by_day,
        "shared": by_half,
    }
    print(f"coefficients off statsmodels' pooled ones by {facts['ratios_off_by']:.0e}")
    print(f"adjusted survival off scikit-survival's by {facts['curves_off_by']:.0e}")
    print(f"{rounds} rounds of {sent:,} bytes a hospital, {seconds:.1f} s")
    print(f"concordance within hospitals {by_day.concordance.value:.3f}")
    print(f"hazards proportional? p = {by_day.proportionality.together.p:.4f}")
    return facts


def compare_ratios(
    result: analytics.CoxResult, everybody: dict[str, Any], where: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients and standard errors of statsmodels' fit of the pooled table, with hospitals as strata."""
    from statsmodels.duration.hazard_regression import PHReg

    model = PHReg(everybody["days"], everybody["features"], everybody["event"].astype(int), strata=where, ties="efron")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model.fit(method="newton", tol=1e-14, maxiter=100, disp=0)
    if not np.allclose(fit.bse, result.errors, rtol=1e-6):
        raise AssertionError("standard errors differ from the pooled ones")
    return fit.params, fit.bse


def compare_curves(
    result: analytics.CoxResult, everybody: dict[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], analytics.SurvivalCurves]:
    """Times, scikit-survival's curves of the pooled table and ours: an average patient without and with the therapy."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    halves = np.ceil(everybody["days"] / HALF_YEAR)
    last = HORIZON // HALF_YEAR
    outcome = np.array(
        list(zip(everybody["event"] & (halves <= last), np.minimum(halves, last), strict=True)),
        dtype=[("event", bool), ("half", float)],
    )
    model = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-12).fit(everybody["features"], outcome)
    average = everybody["features"].mean(axis=0)
    rows = np.stack([average, average])
    rows[:, 0] = [0, 1]
    curves = result.survival(rows)
    pooled = np.stack([f(curves.times / HALF_YEAR) for f in model.predict_survival_function(rows)])
    return curves.times, pooled, curves.survival, curves


def draw(
    result: analytics.CoxResult,
    shared: analytics.CoxResult,
    pooled: tuple[NDArray[np.float64], NDArray[np.float64]],
    adjusted: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], analytics.SurvivalCurves],
    out: Path,
) -> None:
    """The forest plot with the pooled hazard ratios as circles; beside it the adjusted curves, circles likewise."""
    figure, (left, right) = drawn(2, width=12.0, width_ratios=[1.15, 1])
    low, high = result.interval()
    rows = np.arange(len(FEATURES))
    left.axvline(1, color=FAINT, linewidth=1, zorder=0)
    left.hlines(rows, low, high, color=BLUE, linewidth=2)
    left.plot(result.hazard_ratios, rows, "s", color=BLUE, markersize=6)
    left.plot(
        np.exp(pooled[0]), rows, "o", markersize=11, markerfacecolor="none", markeredgecolor=ORANGE, markeredgewidth=1.2
    )
    left.set_yticks(rows, FEATURES)
    left.invert_yaxis()
    left.set_xscale("log")
    ticks = (0.5, 0.75, 1, 1.5, 2, 3, 4)
    left.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    left.set_xticks([], minor=True)
    left.set_xlim(0.42, 12)
    for row, ratio, a, b in zip(rows, result.hazard_ratios, low, high, strict=True):
        left.annotate(f"{ratio:.2f}  ({a:.2f} to {b:.2f})", (4.6, row), va="center", color=INK)
    left.set_xlabel("hazard ratio")
    titled(left, "Hazard ratios, each hospital its own baseline", "with 95 % interval; circles: statsmodels, pooled")
    times, curves_pooled, _, curves = adjusted
    years = np.append(0, times) / 365.25
    bottom, top = curves.interval()
    for i, (colour, name) in enumerate(((ORANGE, "without"), (BLUE, "with hormone therapy"))):
        survival = np.append(1, curves.survival[i])
        right.fill_between(
            years, np.append(1, bottom[i]), np.append(1, top[i]), step="post", color=colour, alpha=0.12, linewidth=0
        )
        right.step(years, survival, where="post", color=colour, linewidth=2)
        right.plot(years[1:], curves_pooled[i], "o", markersize=5, markerfacecolor="none", markeredgecolor=colour)
        right.annotate(name, (0.15, 0.36 - 0.08 * i), color=colour, fontweight="bold")
    right.annotate(f"{shared.events} events, one baseline for all", (0.15, 0.2), color=INK)
    right.set_ylim(0, 1.02)
    right.set_xlim(0, years[-1] + 0.1)
    right.set_xlabel("years")
    titled(
        right,
        "Without recurrence, an average patient",
        "adjusted, with 95 % interval; circles: scikit-survival, pooled",
    )
    saved(figure, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("hazard-ratios.png"))
    run(parser.parse_args().out)
