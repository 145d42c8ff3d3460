"""Survival of lung-cancer patients at four hospitals, without any hospital showing a patient.

    python -m examples.tutorials.survival --out survival.png

The 137 men of the Veterans Administration trial (scikit-survival) are dealt to four unequal hospitals. Each counts, day
by day and for each treatment, how many died and how many were lost from sight; the counts are encrypted, summed by an
aggregator that cannot read them, and opened at every hospital. From the sums come the Kaplan-Meier curves of all
patients, Greenwood's variance, and the log-rank test. They are *identical* to those of the pooled table: this program
compares them with scikit-survival's, bit for bit.

Which hospital a patient went to is our invention.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk import analytics
from client_sdk.local import local_federation, plan_for
from examples.pictures import BLUE, INK, ORANGE, drawn, saved, titled

NAMES = ("university", "city", "county", "veterans")
SHARES = (0.45, 0.3, 0.15, 0.1)
ARMS = ("standard", "test")


def patients() -> dict[str, Any]:
    """Days, whether the patient died, and the treatment."""
    from sksurv.datasets import load_veterans_lung_cancer

    table, outcome = load_veterans_lung_cancer()
    return {
        "days": outcome["Survival_in_days"].astype(float),
        "died": outcome["Status"],
        "arm": table["Treatment"].astype(str).to_numpy(),
    }


def run(out: Path, seed: int = 7) -> dict[str, Any]:
    """Deal the patients out, ask, compare, draw.

    Args:
        out: the picture.
        seed: deals the patients out.
    """
    everybody = patients()
    rng = np.random.default_rng(seed)
    where = rng.choice(len(NAMES), len(everybody["days"]), p=SHARES)

    # What the hospitals agree on beforehand: whole days, up to 1,000 of them, two treatments.
    question = analytics.KaplanMeier(step=1, horizon=1000, groups=ARMS)
    layout = analytics.layout_for(question)

    def hospital(site: Any, i: int) -> analytics.SurvivalResult:
        own = {name: column[where == i] for name, column in everybody.items()}
        return analytics.run(site, question, own["days"], own["died"], own["arm"])

    plan = plan_for(layout, NAMES, value_bits=analytics.VALUE_BITS, rounds=1)
    with local_federation(plan, NAMES) as federation:
        results = federation.everywhere(hospital)
        sent = federation.plan.public.wire_bytes

    same = [compare(result, everybody) for result in results]
    result = results[0]
    draw(result, [int((where == i).sum()) for i in range(len(NAMES))], everybody, out)
    test: Any = result.log_rank
    print(f"log-rank: chi-square {test.statistic:.4f}, p = {test.p:.4f}; {sent:,} bytes a hospital")
    print(f"curves identical to the pooled ones: {all(same)}")
    return {"identical": same, "statistic": test.statistic, "p": test.p, "bytes": sent, "result": result}


def compare(result: analytics.SurvivalResult, everybody: dict[str, Any]) -> bool:
    """Whether every curve equals scikit-survival's of the pooled patients, to the bit, and the test its own to 1e-9."""
    from sksurv.compare import compare_survival
    from sksurv.nonparametric import kaplan_meier_estimator

    same = True
    for arm in ARMS:
        own = everybody["arm"] == arm
        times, survival = kaplan_meier_estimator(everybody["died"][own], everybody["days"][own])
        curve = result.curves[arm]
        same &= np.array_equal(curve.times, times) and np.array_equal(curve.survival, survival)
    outcome = np.array(
        list(zip(everybody["died"], everybody["days"], strict=True)), dtype=[("died", bool), ("days", float)]
    )
    statistic, p = compare_survival(outcome, everybody["arm"])
    test: Any = result.log_rank
    return bool(same and np.allclose([test.statistic, test.p], [statistic, p], rtol=1e-9, atol=0))


def draw(result: analytics.SurvivalResult, sizes: list[int], everybody: dict[str, Any], out: Path) -> None:
    """The encrypted curves with their intervals, the pooled ones as circles on them; beside it one hospital alone."""
    from sksurv.nonparametric import kaplan_meier_estimator

    figure, (left, right) = drawn(2, width_ratios=[1.6, 1])
    for arm, colour in zip(ARMS, (BLUE, ORANGE), strict=True):
        curve = result.curves[arm]
        times, survival = np.append(0, curve.times), np.append(1, curve.survival)
        low, high = (np.append(1, bound) for bound in curve.interval())
        left.fill_between(times, low, high, step="post", color=colour, alpha=0.12, linewidth=0)
        left.step(times, survival, where="post", color=colour, linewidth=2)
        own = everybody["arm"] == arm
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pooled = kaplan_meier_estimator(everybody["died"][own], everybody["days"][own])
        left.plot(*pooled, "o", markersize=4.5, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=0.8)
        y = 0.93 if arm == ARMS[0] else 0.85
        left.annotate(f"{arm} treatment, median {curve.median:.0f} days", (260, y), color=colour, fontweight="bold")
    left.annotate("circles: scikit-survival on the pooled patients", (260, 0.77), color=INK)
    left.set_xlim(0, 600)
    left.set_ylim(0, 1.02)
    left.set_xlabel("days")
    test: Any = result.log_rank
    subtitle = f"survival with 95 % interval; log-rank p = {test.p:.3f}"
    titled(left, "Encrypted curves, equal to the pooled ones", subtitle)
    right.barh(range(len(NAMES)), sizes, color=BLUE, height=0.6)
    right.set_yticks(range(len(NAMES)), NAMES)
    right.invert_yaxis()
    right.set_xticks([])
    right.spines["bottom"].set_visible(False)
    for i, size in enumerate(sizes):
        right.annotate(str(size), (size, i), (5, 0), textcoords="offset points", va="center")
    titled(right, "Patients at each hospital", "known to that hospital alone")
    saved(figure, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("survival.png"))
    run(parser.parse_args().out)
